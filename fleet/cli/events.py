"""``fleet events``: what happens in the fleet, oldest first, as a log."""

from __future__ import annotations

import json
import threading
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.context import connected
from fleet.cli.output import Format, FormatOption, PlaneOption, TokenOption, console, print_json, say, short_time

if TYPE_CHECKING:
    from fleet.plane import Plane

_PAUSE_S = 1.0
_TRIES = 60


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens next, until Ctrl-C.")] = False,
    subject: Annotated[
        str, typer.Option("--subject", "-s", help="About this rollout, release or device only, as ro-2.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, max=10_000, help="How many of the newest.")] = 50,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Tell what happened in the fleet: rollouts, decisions, releases, devices.

    With `-o json` an array, with `--follow` a line for each event.
    """
    with connected(plane, token_file) as there:
        found = _newest(there, subject, max(1, limit))
        shown = found if limit else []
        if output is Format.JSON and not follow:
            print_json(shown)
            return
        for event in shown:
            _print(event, output)
        if not follow:
            if not shown:
                say("none")
            return
        _follow(there, subject, found[-1]["number"] if found else 0, output)


def _newest(plane: Plane, subject: str, limit: int) -> list[dict[str, Any]]:
    """The newest events, oldest first."""
    from fleet.cli.plain import plain
    from fleet.plane import pages
    from maskfleet.v1 import events_service_pb2

    request = events_service_pb2.ListEventsRequest(subject=subject, page_size=min(limit, 100))
    every = (event for page in pages(plane, plane.events.ListEvents, request) for event in page.events)
    return [plain(event) for event in islice(every, limit)][::-1]


def _follow(plane: Plane, subject: str, after: int, output: Format) -> None:
    """What happens next; a plane that goes away is asked again, from the last event that was shown."""
    from fleet.cli.plain import plain
    from maskfleet.errors import UnavailableError
    from maskfleet.v1 import events_service_pb2

    tries = 0
    while True:
        try:
            request = events_service_pb2.WatchEventsRequest(subject=subject, after=after)
            for response in plane.watch(plane.events.WatchEvents, request):
                tries = 0
                event = plain(response.event)
                after = max(after, event["number"])
                _print(event, output)
        except UnavailableError:
            if tries >= _TRIES:
                raise
        if not tries:
            say(f"{plane.name} does not answer; trying again")
        tries += 1
        threading.Event().wait(_PAUSE_S)


def _print(event: dict[str, Any], output: Format) -> None:
    if output is Format.JSON:
        print(json.dumps(event, ensure_ascii=False), flush=True)  # this is the command line
        return
    from rich.text import Text

    line = Text.assemble(
        (short_time(event["time"]), "dim"), "  ",
        (f"{event['kind']:<20}", "cyan"), "  ",
        (f"{event['subject']:<22}", "bold"), f"  {event['text']}",
        (f"  ({event['actor']})" if event["actor"] not in ("", event["subject"]) else "", "dim"),
    )  # fmt: skip
    console().print(line, soft_wrap=True)
