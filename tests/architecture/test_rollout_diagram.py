"""The committed drawing of the state tables is the one that the tables make."""

from __future__ import annotations

from pathlib import Path

from control_plane.domain.diagram import page


def test_the_committed_drawing_is_current() -> None:
    committed = Path(__file__).parents[2] / "docs" / "rollout-states.md"
    assert committed.read_text() == page(), "run: python -m control_plane.domain.diagram > docs/rollout-states.md"
