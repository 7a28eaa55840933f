"""A rollout, drawn: where it stands, its waves, its cohorts, the newest verdict, its devices.

Pure: values as :func:`fleet.cli.plain.plain` gives them and a time in, something that rich prints out. The live view
fits the terminal: rows of devices that have no room are counted in one line.

A verdict by fixed limits is never shown without the words that it is no statistical verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fleet.cli.output import colour
from fleet.cli.times import clock, left, moment
from fleet.waves import wave_number, wave_of

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

Rollout = Mapping[str, Any]
ENDED = ("SUCCEEDED", "FAILED", "ABORTED", "ROLLED_BACK")
UNSUCCESSFUL = ("FAILED", "ABORTED", "ROLLED_BACK")
_SETTLED = ("COMMITTED", "FAILED", "REVERTED", "EXPIRED")
_MOVING = ("UPDATING", "REVERTING")
_BLOCKS = "▁▂▃▄▅▆▇█"
_POINTS = 60
_WIDE = 100
_FIRST = ("FAILED", "REVERTING", "UPDATING", "EXPIRED", "REVERTED", "COMMITTED", "PENDING")
"""Devices that an operator wants to see first."""


class WatchView:
    """The live view, made anew at each refresh.

    Args:
        rollout: the newest state.
        at: the time.
        note: a line above everything, as that the plane does not answer.
    """

    def __init__(self, rollout: Rollout, at: datetime, *, note: str = "") -> None:
        self._rollout = rollout
        self._at = at
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.console import Group
        from rich.text import Text

        parts = [Text(self._note, style="yellow")] if self._note else []
        least = min(len(self._rollout["devices"]), max(3, console.size.height // 5))
        told = len(_reasons(self._rollout["decision"])) if self._rollout.get("decision") else 1
        # As many reasons as leave room for some devices; one in any case.
        for reasons in range(max(1, told), 0, -1):
            top = Group(*parts, *drawn_top(self._rollout, self._at, width=options.max_width, reasons=reasons))
            lines = len(console.render_lines(top, options, pad=False))
            # A heading, its rule and an empty line; the last line stays free, or the terminal scrolls.
            room = max(0, console.size.height - lines - 4)
            if room >= least:
                break
        yield top
        if room:
            yield Text("")
            yield device_table(self._rollout, room=room, width=options.max_width)


def drawn(rollout: Rollout, at: datetime, *, width: int = 240) -> RenderableType:
    """The whole rollout, every device of it."""
    from rich.console import Group

    return Group(*drawn_top(rollout, at, width=width), "", device_table(rollout, width=width))


def drawn_top(rollout: Rollout, at: datetime, *, width: int, reasons: int = 20) -> list[RenderableType]:
    """Everything but the devices; at most so many reasons of the newest verdict."""
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        (rollout["id"], "bold"), " → ", (rollout["release_id"], "bold"), "  ",
        (rollout["state"], f"bold {colour(rollout['state'])}".strip()),
        f"  {rollout['selector'] or 'all devices'}",
    )  # fmt: skip
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    if rollout["reason"]:
        grid.add_row("why", Text(rollout["reason"]))
    if rollout["waves"]:
        grid.add_row("waves", _waves(rollout, at))
    grid.add_row("devices", _settled(rollout))
    for waits in troubles(rollout)[:3]:
        grid.add_row("waits", Text(waits, style="yellow"))
    if hint := _hint(rollout):
        grid.add_row("next", Text(hint, style="yellow"))
    parts: list[RenderableType] = [head, grid]
    if rollout.get("series"):
        parts += [Text(""), _cohorts(rollout["series"], width, since=_since(rollout))]
    if rollout.get("decision"):
        parts += [Text(""), _verdict(rollout["decision"], reasons)]
    return parts


def line(rollout: Rollout) -> str:
    """Where it stands in a line without figures that change all the time, for what is no terminal."""
    parts = [f"{rollout['id']} {rollout['state']}: {counts(rollout)}"]
    if rollout["waves"] > 1 and rollout["wave"] >= 0:
        parts.append(f"wave {wave_of(rollout)}")
    if rollout.get("decision"):
        parts.append(verdict_words(rollout["decision"]))
    if rollout["state"] in ("HELD", "PAUSED", "ROLLING_BACK", *UNSUCCESSFUL) and rollout["reason"]:
        parts.append(rollout["reason"])
    return "; ".join((*parts, *troubles(rollout)[:1]))


def counts(rollout: Rollout) -> str:
    """``3 committed, 1 updating``."""
    if not rollout["devices"]:
        return f"{rollout.get('device_count', 0)} devices"
    found = Counter(device["state"] for device in rollout["devices"])
    return ", ".join(f"{number} {state.lower()}" for state, number in sorted(found.items()))


def troubles(rollout: Rollout) -> list[str]:
    """Why devices do not get on, as ``cam-3 and 2 more: the disk is full``; what most of them have comes first."""
    waiting: dict[str, list[str]] = {}
    for device in rollout["devices"]:
        if device["state"] in _MOVING and (reason := device["detail"].partition(": ")[2]):
            waiting.setdefault(reason, []).append(device["device_name"] or device["device_id"])
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
        for reason, names in sorted(waiting.items(), key=lambda item: -len(item[1]))
    ]


def verdict_words(decision: Mapping[str, Any]) -> str:
    """``PASS by fixed limits, no statistical verdict``."""
    return str(decision["verdict"]) + ("" if decision["statistical"] else " by fixed limits, no statistical verdict")


def share_words(share: Mapping[str, Any] | None) -> str:
    """``10 %`` or ``3 devices``."""
    if not share:
        return ""
    if share["percent"] is not None:
        return f"{share['percent']:g} %"
    return f"{share['count']} device{'' if share['count'] == 1 else 's'}"


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """Blocks of eight heights, a space where there is no value.

    Args:
        values: oldest first.
        low: what the lowest block means.
        high: what the highest means.
    """
    span = high - low

    def block(value: float | None) -> str:
        if value is None:
            return " "
        at = (value - low) / span if span > 0 else 0.0
        return _BLOCKS[min(len(_BLOCKS) - 1, max(0, int(at * len(_BLOCKS))))]

    return "".join(block(value) for value in values)


def scale(values: Sequence[float]) -> tuple[float, float]:
    """What the lowest and highest block mean: all cohorts share a scale, and noise does not fill it."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    return max(0.0, high - max(high - low, high / 2)), high


def _waves(rollout: Rollout, at: datetime) -> RenderableType:
    from rich.text import Text

    state, now = rollout["state"], rollout["wave"]
    specs = (rollout.get("strategy") or {}).get("waves") or [{"share": None}] * rollout["waves"]
    row = Text()
    for index, spec in enumerate(specs):
        if index:
            row.append("   ")
        name = share_words(spec["share"]) or f"wave {wave_number(rollout, index)}"
        if proves := spec.get("proves"):
            name = f"{', '.join(proves)} on {', '.join(sorted(set(proves.values())))}"
        if index < now or state == "SUCCEEDED":
            row.append(f"✓ {name}", "green")
        elif index > now:
            row.append(f"○ {name}", "dim")
        else:
            sign = {"HELD": "■", "PAUSED": "‖", "ROLLING_BACK": "↩", "ROLLED_BACK": "↩", "ABORTING": "↩",
                    "ABORTED": "✗", "FAILED": "✗"}.get(state, "▶")  # fmt: skip
            what = state.lower().replace("_", " ") if state != "PROGRESSING" else "under way"
            remaining = left(rollout["soak_end_time"], at)
            row.append(f"{sign} {name} {what}" + (f", {remaining}" if remaining else ""), colour(state) or "cyan")
    return row


def _settled(rollout: Rollout) -> RenderableType:
    """All devices; and, while a wave is open that not all belong to, how far that is."""
    from rich.text import Text

    wave, devices = rollout["wave"], rollout["devices"]
    mine = [d for d in devices if d["wave"] <= wave]
    done, here = (sum(1 for d in some if d["state"] in _SETTLED) for some in (devices, mine))
    width = 12
    filled = width * done // len(devices) if devices else 0
    staged = 0 < len(mine) < len(devices) and rollout["state"] not in ENDED
    where = f" (up to wave {wave_number(rollout, wave)}: {here} of {len(mine)})" if staged else ""
    return Text.assemble(
        ("█" * filled, "green"), ("░" * (width - filled), "dim"),
        f" {done} of {len(devices)} settled{where}; {counts(rollout)}",
    )  # fmt: skip


def _hint(rollout: Rollout) -> str:
    name = rollout["id"]
    if rollout["state"] == "HELD":
        return f"fleet rollouts explain {name}, then resume, promote or abort it"
    if rollout["state"] == "PAUSED":
        return f"fleet rollouts resume {name}"
    return ""


def _since(rollout: Rollout) -> str:
    """Since when frames count: the opening of the wave, or the beginning where no decision tells it."""
    decision = rollout.get("decision") or {}
    opened = (decision.get("inputs") or {}).get("opened") if decision.get("wave") == rollout["wave"] else None
    return str(opened or rollout.get("create_time") or "")


def _cohorts(series: Sequence[Mapping[str, Any]], width: int, *, since: str) -> RenderableType:
    """A row a cohort; both sparklines share a scale, and reach back to before what is counted."""
    from rich.text import Text

    shown = {s["cohort"]: s["points"][-max(8, min(_POINTS, width - 47)) :] for s in series}
    timed = [p["p95_ms"] for points in shown.values() for p in points if p["p95_ms"] is not None]
    low, high = scale(timed)
    over = f"P95 FROM {low:.0f} TO {high:.0f} MS" if timed else "P95 OVER TIME"
    drawn = _table(("COHORT", "DEVICES", "FRAMES", "FAILED", "P95", over), right=4)
    begun = moment(since)
    for cohort in series:
        points = cohort["points"]
        counted = [p for p in points if begun is None or (at := moment(p["time"])) is None or at > begun]
        frames, failed = (sum(p[key] for p in counted) for key in ("frames", "failed"))
        newest = next((p["p95_ms"] for p in reversed(points) if p["p95_ms"] is not None), None)
        canary = cohort["cohort"] == "CANARY"
        drawn.add_row(
            Text(cohort["cohort"].lower(), "bold cyan" if canary else "bold"),
            str(cohort["devices"]),
            f"{frames:,}",
            Text(f"{failed / frames:.2%}" if frames else "–", "red" if failed else ""),
            f"{newest:.0f} ms" if newest is not None else "–",
            Text(sparkline([p["p95_ms"] for p in shown[cohort["cohort"]]], low, high), "cyan" if canary else "")
            if timed
            else "–",
        )
    return drawn


def _verdict(decision: Mapping[str, Any], most: int) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    words = "" if decision["statistical"] else "  fixed limits: this is no statistical verdict"
    head = Text.assemble(
        (decision["verdict"], f"bold {colour(decision['verdict'])}".strip()),
        f"  {decision['action']}, {clock(decision['time'])} UTC",
        (words, "dim"),
    )
    every = _reasons(decision)
    said = every[:most]
    if len(every) > most:
        said.append(f"… and {len(every) - most} more: fleet rollouts explain {decision['rollout_id']}")
    return Group(head, *(Padding(Text(reason), (0, 0, 0, 2)) for reason in said))


def _reasons(decision: Mapping[str, Any]) -> list[str]:
    """The first one decided. That it is no statistical verdict stands above them and is not said again."""
    return [reason for reason in decision["reasons"] if "no statistical verdict" not in reason]


def device_table(rollout: Rollout, *, room: int | None = None, width: int = 240) -> RenderableType:
    """The devices, those that matter first.

    Args:
        rollout: as everywhere here.
        room: how many lines there are for rows; None for as many as there are devices.
        width: of the terminal; a narrow one has no room for strata.
    """
    from rich.console import Group
    from rich.text import Text

    devices = sorted(rollout["devices"], key=lambda d: (_rank(d["state"]), d["device_name"]))
    shown = devices if room is None or len(devices) <= room else devices[: max(0, room - 1)]
    strata = width >= _WIDE and any(d.get("stratum") for d in devices)
    columns = ("DEVICE", "COHORT", "WAVE", "STATE", "ONLINE", "BEFORE", *(("STRATUM",) if strata else ()), "DETAIL")
    drawn = _table(columns, one_line=room is not None)
    # Where it is narrow, the last column alone gives way.
    drawn.columns[0].min_width = min(24, max((len(d["device_name"] or d["device_id"]) for d in shown), default=0))
    for column, width in zip(drawn.columns[1:6], (7, 4, 9, 7, 6)):
        column.min_width = width
    for device in shown:
        online = "online" if device["online"] else "offline"
        cohort = device.get("cohort", "")
        drawn.add_row(
            device["device_name"] or device["device_id"],
            cohort.lower() if cohort in ("CANARY", "CONTROL") else "–",
            str(wave_number(rollout, device["wave"])),
            Text(device["state"], colour(device["state"])),
            Text(online, colour(online)),
            device["baseline_release_id"] or "none",
            *((device.get("stratum", ""),) if strata else ()),
            device["detail"] if device["detail"] != device["state"] else "",
        )
    if len(shown) == len(devices):
        return drawn
    rest = {"devices": devices[len(shown) :]}
    return Group(drawn, Text(f"… and {len(devices) - len(shown)} more: {counts(rest)}", style="dim"))


def _rank(state: str) -> int:
    return _FIRST.index(state) if state in _FIRST else len(_FIRST)


def _table(columns: Sequence[str], *, right: int = 0, one_line: bool = False) -> Table:
    """A table without lines; the columns 2 to ``right`` + 1 hold numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        numbers = 1 <= index <= right
        drawn.add_column(
            column,
            justify="right" if numbers else "left",
            overflow="ellipsis" if one_line else "fold",
            no_wrap=one_line or right > 0,
        )
    return drawn
