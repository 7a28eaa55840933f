"""What every part of the report is made of: escaped text, sections, tables."""

from __future__ import annotations

import html
from collections.abc import Sequence


def text(value: object) -> str:
    """Text as HTML."""
    return html.escape(str(value))


def section(title: str, note: str, body: str) -> str:
    """A heading, a sentence, and a card with HTML."""
    return f'<section><h2>{text(title)}</h2><p>{text(note)}</p><div class="card">{body}</div></section>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """A table. Cells that start with ``<`` are HTML already.

    Args:
        columns: their names.
        rows: their cells.
        numbers: columns that are set to the right.
    """

    def cell(tag: str, place: int, value: object) -> str:
        words = str(value)
        css = ' class="number"' if place in numbers else ""
        return f"<{tag}{css}>{words if words.startswith('<') else text(words)}</{tag}>"

    head = "".join(cell("th", place, name) for place, name in enumerate(columns))
    body = "".join("<tr>" + "".join(cell("td", i, v) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
