"""Draws the state tables in mermaid: all of them for docs/rollout-states.md, a rollout's for ARCHITECTURE.md too.

python -m control_plane.domain.diagram > docs/rollout-states.md
python -m control_plane.domain.diagram ARCHITECTURE.md
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from control_plane.domain import release, rollout

_S = TypeVar("_S", bound=enum.Enum)
_E = TypeVar("_E", bound=enum.Enum)


def page() -> str:
    """The whole page."""
    return (
        "\n\n".join(
            (
                "# States",
                "Drawn from the tables in `control_plane/domain`: `python -m control_plane.domain.diagram`.",
                "## A rollout",
                rollout_states(),
                "## A device in a rollout",
                _drawn(rollout.MEMBER_TABLE, rollout.MemberState),
                "## A release",
                _drawn(release.RELEASE_TABLE, release.ReleaseState),
                "## A build",
                _drawn(release.BUILD_TABLE, release.BuildState),
            )
        )
        + "\n"
    )


def rollout_states() -> str:
    """The drawing of a rollout."""
    return _drawn(rollout.ROLLOUT_TABLE, rollout.RolloutState)


def embedded(text: str) -> str:
    """A page whose one drawing is that of a rollout, with the drawing made anew."""
    before, begin, rest = text.partition("```mermaid\n")
    _, end, after = rest.partition("\n```")
    if not begin or not end or "```mermaid" in after:
        raise ValueError("the page has not exactly one drawing")
    return before + rollout_states() + after


def _drawn(table: Mapping[tuple[_S, _E], _S], states: Iterable[_S]) -> str:
    listed = list(states)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {listed[0].value}"]
    lines += [f"    {source.value} --> {target.value}: {event.value}" for (source, event), target in table.items()]
    moving = {source for source, _ in table}
    lines += [f"    {state.value} --> [*]" for state in listed if state not in moving]
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    if sys.argv[1:]:
        architecture = Path(sys.argv[1])
        architecture.write_text(embedded(architecture.read_text()))
    else:
        sys.stdout.write(page())
