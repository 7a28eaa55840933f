"""The committed drawings of the state tables are those that the tables make."""

from __future__ import annotations

from pathlib import Path

from control_plane.domain.diagram import embedded, page

ROOT = Path(__file__).parents[2]


def test_the_committed_drawing_is_current() -> None:
    committed = (ROOT / "docs" / "rollout-states.md").read_text()
    assert committed == page(), "run: python -m control_plane.domain.diagram > docs/rollout-states.md"


def test_the_drawing_of_a_rollout_in_the_architecture_is_current() -> None:
    committed = (ROOT / "ARCHITECTURE.md").read_text()
    assert committed == embedded(committed), "run: python -m control_plane.domain.diagram ARCHITECTURE.md"
