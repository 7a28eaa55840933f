"""Streams that begin and end together, against a masking service."""

from __future__ import annotations

from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from fleet.demo.streams import Streams, source_index
from fleet.results import MaskedFrame
from maskfleet.errors import FleetError

CLIP = [cv2.imencode(".jpg", np.full((16, 16, 3), 20 * n, np.uint8))[1].tobytes() for n in range(5)]


def test_the_clip_is_played_again_and_again() -> None:
    assert [source_index(i, 4) for i in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert [source_index(i, 1) for i in range(3)] == [0, 0, 0]


def test_streams_end_with_the_same_frame_and_every_result_is_there(server: tuple[grpc.Server, str]) -> None:
    seen: list[tuple[str, int]] = []

    def see(name: str, result: MaskedFrame) -> None:
        seen.append((name, result.sequence))

    agents = {"one": server[1], "two": server[1]}
    streams = Streams(agents, CLIP, frames_per_second=200, at_least=12, at_most=10_000, seen=see)
    streams.start()
    streams.wait_for(6)
    streams.end(after=0.05)
    came_back = streams.finish()
    numbers = {name: [result.sequence for result in stream.results] for name, stream in came_back.items()}
    assert numbers["one"] == numbers["two"] == list(range(len(numbers["one"])))
    assert len(numbers["one"]) >= 12
    assert {stream.sent for stream in came_back.values()} == {len(numbers["one"])}
    assert all(len(stream.lateness_s) == len(stream.results) for stream in came_back.values())
    assert sorted(seen) == sorted((name, i) for name, found in numbers.items() for i in found)


def test_a_frame_is_never_given_before_its_time(server: tuple[grpc.Server, str]) -> None:
    streams = Streams({"one": server[1]}, CLIP, frames_per_second=50, at_least=5, at_most=5)
    streams.start()
    assert min(streams.finish()["one"].lateness_s) > 0


def test_one_can_wait_until_they_are_punctual(server: tuple[grpc.Server, str]) -> None:
    streams = Streams({"one": server[1]}, CLIP, frames_per_second=50, at_least=10_000, at_most=10_000)
    assert not streams.settle(late_s=60, timeout_s=0)  # nothing has come back yet
    streams.start()
    assert streams.settle(late_s=60, timeout_s=60)
    assert not streams.settle(late_s=-1, timeout_s=0)
    streams.stop()


def test_they_end_by_themselves_at_the_most(server: tuple[grpc.Server, str]) -> None:
    streams = Streams({"one": server[1]}, CLIP, frames_per_second=1000, at_least=3, at_most=7)
    streams.start()
    assert len(streams.finish()["one"].results) == 7


def test_an_agent_that_fails_ends_them_all_and_says_why(server: tuple[grpc.Server, str], agent: Any) -> None:
    agent.last = 3
    streams = Streams({"one": server[1]}, CLIP, frames_per_second=1000, at_least=100, at_most=100)
    streams.start()
    with pytest.raises(FleetError, match="ended the stream before every frame was answered"):
        streams.finish()


def test_they_can_be_stopped_in_the_middle(server: tuple[grpc.Server, str]) -> None:
    streams = Streams({"one": server[1]}, CLIP, frames_per_second=100, at_least=10_000, at_most=10_000)
    streams.start()
    streams.wait_for(2)
    streams.stop()
    assert len(streams.finish()["one"].results) < 10_000
