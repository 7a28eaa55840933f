"""Pages of one file: nothing is fetched from anywhere, light and dark as the reader's system has it. Pure.

What goes into a page is escaped unless it is :class:`Html`, which only code that wrote it may say.

>>> table(("Agent",), [("<b>",), (Html("<b>x</b>"),)])
'<table><thead><tr><th>Agent</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr><tr><td><b>x</b></td></tr></tbody></table>'
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import resources


class Html(str):
    """HTML that was written by a program: what comes from elsewhere is in it escaped."""

    __slots__ = ()


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: of its window.
        parts: HTML, one below the other.
    """
    style = resources.files("fleet").joinpath("page.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title>\n<style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def text(value: object) -> str:
    """Text as HTML."""
    return html.escape(str(value))


def section(title: str, note: str, body: str) -> str:
    """A heading, a sentence, and a card with HTML."""
    return f'<section><h2>{text(title)}</h2><p>{text(note)}</p><div class="card">{body}</div></section>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """A table.

    Args:
        columns: their names.
        rows: their cells; :class:`Html` goes in as it is.
        numbers: columns that are set to the right.
    """

    def cell(tag: str, place: int, value: object) -> str:
        css = ' class="number"' if place in numbers else ""
        return f"<{tag}{css}>{value if isinstance(value, Html) else text(value)}</{tag}>"

    head = "".join(cell("th", place, name) for place, name in enumerate(columns))
    body = "".join("<tr>" + "".join(cell("td", i, v) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
