"""The difference of two releases, drawn: values side by side, a table a section. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fleet.cli.output import size, table
from fleet.release_diff import Difference
from fleet.release_matrix import milliseconds, percent

if TYPE_CHECKING:
    from rich.console import RenderableType


def drawn_diff(found: Difference) -> RenderableType:
    """A table for each section in which something differs."""
    from rich.console import Group
    from rich.text import Text

    if not found.sections:
        return Text(f"nothing differs between {found.before} and {found.after}")
    parts: list[RenderableType] = []
    for section in found.sections:
        # Margins are shown as people type them.
        cell = _cell if section.title != "gate" else lambda _name, value: _cell("", value)
        rows = [(c.name, cell(c.name, c.before), cell(c.name, c.after)) for c in section.changes]
        parts += [*([""] if parts else []), table((section.title.upper(), found.before, found.after), rows)]
    return Group(*parts)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name == "size":
        return size(int(value))
    if name == "ms":
        return milliseconds(value)
    if name in ("recall", "mean IoU") and isinstance(value, float | int):
        return percent(value) if name == "recall" else f"{value:.3f}"
    return f"{value:g}" if isinstance(value, float) else str(value)
