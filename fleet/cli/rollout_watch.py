"""``fleet rollouts watch``: follows a rollout to its end, on a terminal, in lines or as JSON lines.

The rollout does not depend on who watches: Ctrl-C leaves it running. A plane that goes away is asked again for a
minute; the rollout goes on from its store when the plane is back.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fleet.cli.output import Format, console, say
from fleet.cli.rollout_view import ENDED, WatchView, line
from fleet.cli.times import now

if TYPE_CHECKING:
    from fleet.plane import Plane

PATIENCE_S = 60.0
"""So long a plane may be away in the middle of a watch."""

_PAUSE_S = 1.0
Rollout = dict[str, Any]
Note = Callable[[str], None]


def states(
    plane: Plane,
    rollout_id: str,
    note: Note,
    *,
    pause: Callable[[float], Any] = lambda seconds: threading.Event().wait(seconds),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Rollout]:
    """The rollout, at once and at each change, until it has ended.

    Args:
        plane: where it is.
        rollout_id: its id.
        note: is told what a person should know; an empty text when that is over.
        pause: waits so many seconds.
        clock: seconds.

    Raises:
        FleetError: what the plane answered; UnavailableError where it stays away for a minute.
    """
    from fleet.cli.plain import plain
    from maskfleet.errors import UnavailableError
    from maskfleet.v1 import rollouts_service_pb2

    request = rollouts_service_pb2.WatchRolloutRequest(rollout_id=rollout_id)
    heard: float | None = None
    while True:
        error: UnavailableError | None = None
        try:
            for response in plane.watch(plane.rollouts.WatchRollout, request):
                heard = clock()
                note("")
                rollout = plain(response.rollout)
                yield rollout
                if rollout["state"] in ENDED:
                    return
        except UnavailableError as caught:
            error = caught
        if heard is None or clock() - heard > PATIENCE_S:
            raise error or UnavailableError(
                f"{plane.name} ended the watch of rollout {rollout_id}",
                remedy=f"see `fleet rollouts show {rollout_id}`",
            )
        note(f"{plane.name} does not answer; trying again, the rollout goes on when it is back")
        pause(_PAUSE_S)


def followed(plane: Plane, rollout_id: str, output: Format = Format.TABLE) -> Rollout:
    """Shows a rollout until it ends; its last state.

    Args:
        plane: where it is.
        rollout_id: its id.
        output: JSON prints each state as a line on stdout; TABLE shows a live view, or lines, on stderr.

    Raises:
        FleetError: as :func:`states`.
        KeyboardInterrupt: Ctrl-C, after saying that the rollout goes on.
    """
    show = _as_json if output is Format.JSON else _live if sys.stderr.isatty() else _as_lines
    try:
        return show(plane, rollout_id)
    except KeyboardInterrupt:
        say(f"rollout {rollout_id} goes on without being watched; `fleet rollouts watch {rollout_id}` shows it again")
        raise


def _once(note: Note) -> Note:
    """Tells a note when it changes, and nothing when it is over."""
    said = ""

    def tell(text: str) -> None:
        nonlocal said
        if text and text != said:
            note(text)
        said = text

    return tell


def _as_json(plane: Plane, rollout_id: str) -> Rollout:
    last: Rollout = {}
    for last in states(plane, rollout_id, _once(say)):
        print(json.dumps(last, ensure_ascii=False), flush=True)  # this is the command line
    return last


def _as_lines(plane: Plane, rollout_id: str) -> Rollout:
    last: Rollout = {}
    said = ""
    for last in states(plane, rollout_id, _once(say)):
        if (text := line(last)) != said:
            said = text
            say(text)
    return last


def _live(plane: Plane, rollout_id: str) -> Rollout:
    from rich.live import Live

    last: Rollout = {}
    noted = ""

    def note(text: str) -> None:
        nonlocal noted
        noted = text

    def view() -> Any:
        return WatchView(last, now(), note=noted) if last else ""

    # Drawn anew four times a second, so that the countdown runs; what it ended as is printed by the caller.
    with Live(get_renderable=view, console=console(error=True), refresh_per_second=4, transient=True):
        for last in states(plane, rollout_id, note):  # noqa: B007  # the view reads it
            pass
    return last
