"""How commands speak: tables for people, JSON for programs, progress on stderr.

Results go to stdout, everything else to stderr, so that ``fleet … -o json | jq`` always works. Where stderr is no
terminal, a live view becomes a line for each change.
"""

from __future__ import annotations

import enum
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fleet.cli.context import PLANE_VARIABLE, TOKEN_FILE_VARIABLE

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDE = 240  # no terminal: nothing is cut off
_T = TypeVar("_T")


class Format(enum.Enum):
    """What a command prints."""

    TABLE = "table"
    JSON = "json"


PlaneOption = Annotated[
    str | None, typer.Option("--plane", metavar="HOST:PORT", envvar=PLANE_VARIABLE, help="The control plane.")
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", envvar=TOKEN_FILE_VARIABLE, help="File with the operator's token."),
]
FormatOption = Annotated[Format, typer.Option("--output", "-o", help="A table for people, or JSON for programs.")]


def console(*, error: bool = False) -> Console:
    """A console on stdout, or on stderr. It reads nothing as markup: names may hold brackets."""
    from rich.console import Console

    file = sys.stderr if error else sys.stdout
    return Console(file=file, width=None if file.isatty() else _WIDE, markup=False, highlight=False, emoji=False)


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)  # this is the command line


def print_json(value: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)  # this is the command line


_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", whole: Collection[str] = ()
) -> RenderableType:
    """A table without lines around it, as other command lines print them.

    Where it is too narrow, sentences go over several lines; names and digests, which people copy, are never broken in
    the middle: the longest end in "…", digests after twelve digits (JSON has them whole). A column
    that holds nothing is left out. The columns ``whole`` are never broken, though they hold several words.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        box=SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    cells = [[_DIGEST.sub(r"\1…", str(cell)) for cell in row] for row in rows]
    shown = [place for place in range(len(columns)) if not cells or any(row[place] for row in cells)]
    for place in shown:
        words = columns[place] in whole or not any(" " in row[place] for row in cells)
        # What has to give way are sentences, then digests; names never do.
        longest = max((len(row[place]) for row in cells), default=0)
        least = min(longest, 18) if words else min(longest, 12)
        drawn.add_column(columns[place], overflow="ellipsis" if words else "fold", no_wrap=words, min_width=least)
    for row in cells:
        drawn.add_row(*(Text(row[place], style=colour(row[place])) for place in shown))
    return drawn


_GOOD = {"READY", "SUCCEEDED", "COMMITTED", "PASS", "online", "ready"}
_UNSURE = {"HELD", "PAUSED", "INCONCLUSIVE", "EXPIRED", "REVERTING"}
_BAD = {
    "FAILED", "REVERTED", "ABORTED", "CANCELED", "ROLLING_BACK", "ROLLED_BACK", "FAIL", "ERROR",
    "offline", "stopped", "restarting",
}  # fmt: skip


def colour(word: str) -> str:
    """The colour of a state; empty for none."""
    return "green" if word in _GOOD else "yellow" if word in _UNSURE else "red" if word in _BAD else ""


def show_list(
    format_: Format,
    items: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Callable[[Any], Any]],
    *,
    whole: Collection[str] = (),
) -> None:
    """Prints several things: a table with a column for each function, or a JSON array (see :func:`table`)."""
    if format_ is Format.JSON:
        print_json(list(items))
    elif not items:
        say("none")
    else:
        rows = [[column(item) for column in columns.values()] for item in items]
        console().print(table(list(columns), rows, whole=whole))


def show_one(format_: Format, item: Mapping[str, Any], draw: Callable[[Any], RenderableType]) -> None:
    """Prints one thing."""
    if format_ is Format.JSON:
        print_json(item)
    else:
        console().print(draw(item))


def facts(pairs: Mapping[str, Any]) -> RenderableType:
    """Names and values, one a line; empty values are left out."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value not in (None, "", [], {}):
            drawn.add_row(Text(name, style="bold"), Text(str(value), style=colour(str(value))))
    return drawn


def follow(states: Iterator[_T], draw: Callable[[_T], RenderableType], line: Callable[[_T], str]) -> _T | None:
    """Shows each state as it comes, on stderr; the last one.

    Args:
        states: as a watching call gives them.
        draw: the live view, for a terminal; it goes away at the end, as what came of it is printed then.
        line: one line, for anything else; printed where it changed.
    """
    from rich.live import Live

    last: _T | None = None
    if not sys.stderr.isatty():
        said = ""
        for last in states:
            if (text := line(last)) != said:
                said = text
                say(text)
        return last
    with Live(console=console(error=True), refresh_per_second=8, transient=True) as live:
        for last in states:
            live.update(draw(last))
    return last


def pairs(items: Mapping[str, Any]) -> str:
    """``a=1,b=2``"""
    return ",".join(f"{key}={value}" for key, value in sorted(items.items()))


def short_time(value: str | None) -> str:
    """``2026-01-31 12:30:05`` of an ISO time in UTC."""
    return value[:19].replace("T", " ") if value else ""


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    """``key=value`` texts as a dictionary.

    Raises:
        InvalidInputError: one is no such pair.
    """
    from maskfleet.errors import InvalidInputError

    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInputError(f"{text!r} is no label", remedy="give key=value")
        found[key] = value
    return found
