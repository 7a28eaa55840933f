"""States of the domain and of the wire are the same words, all of them."""

from __future__ import annotations

import enum

import pytest

from control_plane.codec import ENUMS, content, domain_state, precision_from, window_from, wire_state
from control_plane.domain.device import ComponentState
from control_plane.domain.health import Histogram
from maskfleet.errors import InvalidInputError
from maskfleet.v1 import devices_pb2, rollouts_service_pb2


@pytest.mark.parametrize("cls", ENUMS, ids=lambda c: c.__name__)
def test_states_and_the_wires_numbers_are_one_to_one(cls: type[enum.Enum]) -> None:
    wire, prefix = ENUMS[cls]
    mine = {prefix + state.value for state in cls}
    assert mine | {prefix + "UNSPECIFIED"} == set(wire.keys())
    for state in cls:
        assert domain_state(cls, wire_state(state)) is state


def test_a_state_of_a_newer_version_is_unspecified() -> None:
    assert domain_state(ComponentState, 99) is ComponentState.UNSPECIFIED


def test_a_precision_of_a_newer_version_is_refused() -> None:
    assert precision_from(0) == "fp32"
    with pytest.raises(InvalidInputError):
        precision_from(99)


def test_the_content_of_a_create_leaves_its_request_id_out() -> None:
    a = rollouts_service_pb2.CreateRolloutRequest(request_id="a", release_id="r-1")
    b = rollouts_service_pb2.CreateRolloutRequest(request_id="b", release_id="r-1")
    assert content(a) == content(b)
    assert a.request_id == "a"
    b.selector = "x"
    assert content(a) != content(b)


def test_a_health_window_keeps_everything() -> None:
    message = devices_pb2.HealthWindow(boot_id="b", sequence=2, detections=3, frames_by_outcome={"MASKED": 4})
    message.latency_ms_by_stage["detect"].counts.append(5)
    window = window_from(message)
    assert (window.boot_id, window.sequence, window.detections) == ("b", 2, 3)
    assert (window.frames_by_outcome, window.latency_ms_by_stage) == ({"MASKED": 4}, {"detect": Histogram((), (5,))})
