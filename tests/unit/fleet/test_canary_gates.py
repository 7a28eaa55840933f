"""What must hold of the rollouts that are judged, case by case."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from fleet.demo.canary_gates import canary_gates, deciding

CHAPTERS = {
    "third": {"release": "r-4", "rollout": "ro-3"},
    "noised": {"release": "r-5", "rollout": "ro-4"},
    "large": {"release": "r-6", "rollout": "ro-5"},
}


def decision(verdict: str, action: str, reason: str) -> dict[str, Any]:
    return {"verdict": verdict, "action": action, "reasons": [reason]}


ROLLOUTS: list[dict[str, Any]] = [
    {
        "id": "ro-3",
        "state": "SUCCEEDED",
        "decisions": [
            decision("PASS", "advance", "p95 is 1.1 times the control's."),
            decision("PASS", "succeed", "All is well."),
        ],
    },
    {
        "id": "ro-4",
        "state": "ROLLED_BACK",
        "sentences": ["agent-1 refused it: the engine finds 0 of 1 faces in its self-test."],
        "decisions": [decision("FAIL", "roll back", "A canary failed its self-test.")],
    },
    {
        "id": "ro-5",
        "state": "ROLLED_BACK",
        "decisions": [
            decision("INCONCLUSIVE", "wait", "Only 12 frames."),
            decision("FAIL", "roll back", "p95 is 4.8 times the control's."),
        ],
    },
]
PATHS = {"agent-1": ["r-1", "r-2", "r-4", "r-6", "r-4"], "agent-2": ["r-1", "r-2", "r-4"]}
PROMOTED, REFUSED, SLOW = (
    "The next release reached every device",
    "The damaged model never served",
    "The slow model was rolled back by itself",
)


def failed(change: Callable[[list[dict[str, Any]], dict[str, list[str]]], Any]) -> list[str]:
    rollouts, paths = copy.deepcopy(ROLLOUTS), copy.deepcopy(PATHS)
    change(rollouts, paths)
    return [gate.name for gate in canary_gates(CHAPTERS, rollouts, paths) if not gate.held]


def test_as_told_everything_holds_and_says_why() -> None:
    assert failed(lambda _rollouts, _paths: None) == []
    gates = canary_gates(CHAPTERS, ROLLOUTS, PATHS)
    assert [gate.name for gate in gates] == [PROMOTED, REFUSED, SLOW]
    assert "A canary failed its self-test." in gates[1].figure
    assert "p95 is 4.8 times the control's." in gates[2].figure


CASES: dict[str, tuple[Callable[[list[dict[str, Any]], dict[str, list[str]]], Any], list[str]]] = {
    "held, not promoted": (lambda r, _p: r[0].update(state="HELD"), [PROMOTED]),
    "promoted without a PASS": (lambda r, _p: r[0].update(decisions=[]), [PROMOTED]),
    "a device was never reached": (lambda _r, p: p.update({"agent-2": ["r-1", "r-2"]}), [PROMOTED, SLOW]),
    "the damaged model served for a while": (lambda _r, p: p["agent-2"].insert(2, "r-5"), [REFUSED]),
    "the damaged model succeeded": (lambda r, _p: r[1].update(state="SUCCEEDED"), [REFUSED]),
    "it was refused for another reason": (
        lambda r, _p: r[1].update(sentences=["The disk is full."], decisions=[]),
        [REFUSED],
    ),
    "the slow model stayed": (lambda r, _p: r[2].update(state="SUCCEEDED"), [SLOW]),
    "the slow model never served": (lambda _r, p: p.update({"agent-1": PATHS["agent-2"]}), [SLOW]),
    "the slow model served on every device": (lambda _r, p: p["agent-2"].extend(["r-6", "r-4"]), [SLOW]),
    "it was rolled back for silence": (
        lambda r, _p: r[2].update(decisions=[decision("FAIL", "roll back", "agent-1 fell silent.")]),
        [SLOW],
    ),
    "no rollout at all": (lambda r, _p: r.clear(), [PROMOTED, REFUSED, SLOW]),
    "no streams at all": (lambda _r, p: p.clear(), [PROMOTED, REFUSED, SLOW]),
}


@pytest.mark.parametrize(("change", "names"), CASES.values(), ids=CASES.keys())
def test_each_gate(change: Callable[[list[dict[str, Any]], dict[str, list[str]]], Any], names: list[str]) -> None:
    assert failed(change) == names


def test_a_demo_without_these_chapters_has_none_of_these_gates() -> None:
    assert canary_gates({}, ROLLOUTS, PATHS) == []


@pytest.mark.parametrize(
    "sentence",
    [
        pytest.param("the engine finds 0 of 1 faces on portrait.jpg at min_confidence 0.35", id="a face is missed"),
        pytest.param("the engine finds 141 faces on no-face.jpg, which has none", id="faces where there are none"),
        pytest.param("agent-2 failed 1 golden self-test since the rollout began", id="the judge counts it"),
    ],
)
def test_what_a_self_test_says_is_known(sentence: str) -> None:
    assert failed(lambda r, _p: r[1].update(sentences=[sentence], decisions=[])) == []


def test_what_failed_first_decides() -> None:
    assert deciding(ROLLOUTS[2]) == "FAIL, roll back: p95 is 4.8 times the control's."
    assert deciding(ROLLOUTS[0]) == "PASS, advance: p95 is 1.1 times the control's."
    assert deciding({"decisions": [decision("INCONCLUSIVE", "wait", "Only 12 frames.")]}) == ""
    assert deciding({}) == ""
