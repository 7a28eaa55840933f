"""Frames that wait: in order, bounded, and never forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from edge_agent.masking.frames import Encoding, SourceFrame
from edge_agent.masking.outcomes import Reason
from edge_agent.waiting import MAX_UNANSWERED, FrameQueue, Waiting
from maskfleet.errors import CapacityError, InvalidInputError, UnavailableError

PICTURE = SourceFrame(Encoding.RAW, bytes(3), 1, 1)


def drained(frames: FrameQueue) -> list[tuple[int, Reason | None]]:
    taken = []
    while (waiting := frames.take()) is not None:
        assert (waiting.source is None) == (waiting.dropped is not None)
        taken.append((waiting.sequence, waiting.dropped))
        frames.answered()
    return taken


def blocked(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_every_frame_waits_its_turn() -> None:
    frames = FrameQueue(live=False, credit=3)
    for n in range(3):
        assert frames.put(n, 0.0, PICTURE)
    frames.end()
    assert drained(frames) == [(0, None), (1, None), (2, None)]


def test_more_frames_than_credits_end_the_stream() -> None:
    frames = FrameQueue(live=False, credit=2)
    frames.put(0, 0.0, PICTURE)
    frames.put(1, 0.0, PICTURE)
    with pytest.raises(CapacityError, match="frame 2"):
        frames.put(2, 0.0, PICTURE)
    frames.take()
    frames.answered()
    assert frames.put(2, 0.0, PICTURE)


def test_live_the_newest_wins_and_the_older_ones_are_answered_in_order() -> None:
    frames = FrameQueue(live=True, credit=2)
    for n in range(5):
        frames.put(n, 0.0, PICTURE)
    frames.end()
    assert drained(frames) == [*((n, Reason.SUPERSEDED) for n in range(4)), (4, None)]


def test_live_a_frame_that_is_being_masked_is_not_superseded() -> None:
    frames = FrameQueue(live=True, credit=2)
    frames.put(0, 0.0, PICTURE)
    first = frames.take()
    frames.put(1, 0.0, PICTURE)
    frames.put(2, 0.0, PICTURE)
    frames.end()
    assert first == Waiting(0, 0.0, PICTURE)
    assert drained(frames) == [(1, Reason.SUPERSEDED), (2, None)]


def test_live_a_client_that_takes_no_answers_is_not_read_any_further() -> None:
    frames = FrameQueue(live=True, credit=2)
    for n in range(MAX_UNANSWERED):
        frames.put(n, 0.0, PICTURE)
    put = threading.Event()
    thread = blocked(lambda: (frames.put(MAX_UNANSWERED, 0.0, PICTURE), put.set()))
    assert not put.wait(0.05)
    frames.take()
    frames.answered()
    assert put.wait(5)
    thread.join(5)


def test_an_error_comes_after_the_frames_before_it() -> None:
    frames = FrameQueue(live=False, credit=2)
    frames.put(0, 0.0, PICTURE)
    frames.end(InvalidInputError("no"))
    assert frames.take() is not None
    with pytest.raises(InvalidInputError):
        frames.take()


def test_when_the_agent_stops_what_waits_is_dropped_and_the_client_is_told() -> None:
    frames = FrameQueue(live=False, credit=4)
    frames.put(0, 0.0, PICTURE)
    frames.put(1, 0.0, PICTURE)
    frames.stop()
    assert not frames.put(2, 0.0, PICTURE)
    assert [frames.take() for _ in range(3)] == [Waiting(n, 0.0, None, Reason.SHUTTING_DOWN) for n in range(3)]
    with pytest.raises(UnavailableError):
        frames.take()


def test_when_the_agent_stops_a_client_that_had_said_everything_gets_its_end() -> None:
    frames = FrameQueue(live=False, credit=4)
    frames.put(0, 0.0, PICTURE)
    frames.end()
    frames.stop()
    assert drained(frames) == [(0, Reason.SHUTTING_DOWN)]


def test_a_client_that_goes_wakes_everybody() -> None:
    frames = FrameQueue(live=True, credit=2)
    taken: list[Waiting | None] = []
    thread = blocked(lambda: taken.append(frames.take()))
    frames.abandon()
    thread.join(5)
    assert taken == [None]
    assert not frames.put(0, 0.0, PICTURE)
