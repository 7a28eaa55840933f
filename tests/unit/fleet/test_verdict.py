"""What must hold for the demo to succeed."""

from __future__ import annotations

import dataclasses

import pytest

from fleet.demo.verdict import judge
from fleet.scoring import ClipScore, Order

GOOD = ClipScore(
    frames=1000, settled=990, face_frames=2000, exposed=4, longest_exposure=1, background=10_000, background_masked=290
)
IN_ORDER = Order(330, (), ())


def failed(score: ClipScore = GOOD, order: Order = IN_ORDER, swapped: bool = True) -> list[str]:
    gates = judge(score, {"agent-1": IN_ORDER, "agent-2": order}, {"agent-1": True, "agent-2": swapped})
    return [gate.name for gate in gates if not gate.held]


def test_at_the_limits_everything_holds() -> None:
    assert failed() == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({"exposed": 5}, "Faces exposed", id="five of 2,000 -> too many"),
        pytest.param({"longest_exposure": 2}, "Longest exposure of a face", id="two in a row"),
        pytest.param({"settled": 969}, "Frames MASKED or COASTED", id="too many masked whole or dropped"),
        pytest.param({"background_masked": 301}, "Background masked", id="too much masked for nothing"),
    ],
)
def test_each_figure_is_judged(change: dict[str, int], name: str) -> None:
    assert failed(dataclasses.replace(GOOD, **change)) == [name]


def test_lost_and_reordered_frames_and_a_missing_swap_fail() -> None:
    assert failed(order=Order(330, (7,), ())) == ["Frames lost"]
    assert failed(order=Order(330, (), (7,))) == ["Frames out of order"]
    assert failed(swapped=False) == ["Release changed in mid-stream"]


def test_nothing_measured_is_never_a_pass() -> None:
    assert all(not gate.held for gate in judge(ClipScore(), {}, {}))
    assert failed(dataclasses.replace(GOOD, face_frames=0, exposed=0)) == [
        "Faces exposed",
        "Longest exposure of a face",
    ]
