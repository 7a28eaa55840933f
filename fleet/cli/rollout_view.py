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
from fleet.cli.times import clock, left

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
        reasons = 1 if console.size.height < 28 else 3 if console.size.height < 40 else 6
        top = Group(*parts, *drawn_top(self._rollout, self._at, width=options.max_width, reasons=reasons))
        yield top
        lines = len(console.render_lines(top, options, pad=False))
        # A heading, its rule and an empty line; the last line stays free, or the terminal scrolls.
        room = max(0, console.size.height - lines - 4)
        if room:
            yield Text("")
            yield device_table(self._rollout, room=room)


def drawn(rollout: Rollout, at: datetime, *, width: int = 240) -> RenderableType:
    """The whole rollout, every device of it."""
    from rich.console import Group

    return Group(*drawn_top(rollout, at, width=width), "", device_table(rollout))


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
        parts += [Text(""), _cohorts(rollout["series"], width)]
    if rollout.get("decision"):
        parts += [Text(""), _verdict(rollout["decision"], reasons)]
    return parts


def line(rollout: Rollout) -> str:
    """Where it stands in a line without figures that change all the time, for what is no terminal."""
    parts = [f"{rollout['id']} {rollout['state']}: {counts(rollout)}"]
    if rollout["waves"] > 1 and rollout["wave"] >= 0:
        parts.append(f"wave {rollout['wave'] + 1} of {rollout['waves']}")
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
        name = share_words(spec["share"]) or f"wave {index + 1}"
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
    from rich.text import Text

    wave = rollout["wave"]
    mine = [d for d in rollout["devices"] if d["wave"] <= wave or rollout["state"] in ENDED]
    done = sum(1 for d in mine if d["state"] in _SETTLED)
    width = 20
    filled = width * done // len(mine) if mine else 0
    staged = rollout["waves"] > 1 and wave >= 0 and rollout["state"] not in ENDED
    where = f" up to wave {wave + 1} of {rollout['waves']}" if staged else ""
    return Text.assemble(
        ("█" * filled, "green"), ("░" * (width - filled), "dim"),
        f" {done} of {len(mine)} settled{where}; {counts(rollout)}",
    )  # fmt: skip


def _hint(rollout: Rollout) -> str:
    name = rollout["id"]
    if rollout["state"] == "HELD":
        return f"fleet rollouts explain {name}, then resume, promote or abort it"
    if rollout["state"] == "PAUSED":
        return f"fleet rollouts resume {name}"
    return ""


def _cohorts(series: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """A row a cohort; both sparklines share a scale."""
    from rich.text import Text

    shown = {s["cohort"]: s["points"][-max(8, min(_POINTS, width - 47)) :] for s in series}
    low, high = scale([p["p95_ms"] for points in shown.values() for p in points if p["p95_ms"] is not None])
    drawn = _table(("COHORT", "DEVICES", "FRAMES", "FAILED", "P95", f"P95 FROM {low:.0f} TO {high:.0f} MS"), right=4)
    for cohort in series:
        points = cohort["points"]
        frames, failed = (sum(p[key] for p in points) for key in ("frames", "failed"))
        newest = next((p["p95_ms"] for p in reversed(points) if p["p95_ms"] is not None), None)
        canary = cohort["cohort"] == "CANARY"
        drawn.add_row(
            Text(cohort["cohort"].lower(), "bold cyan" if canary else "bold"),
            str(cohort["devices"]),
            f"{frames:,}",
            Text(f"{failed / frames:.2%}" if frames else "–", "red" if failed else ""),
            f"{newest:.0f} ms" if newest is not None else "–",
            Text(sparkline([p["p95_ms"] for p in shown[cohort["cohort"]]], low, high), "cyan" if canary else ""),
        )
    return drawn


def _verdict(decision: Mapping[str, Any], most: int) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    words = "" if decision["statistical"] else "  by fixed limits: this is no statistical verdict"
    head = Text.assemble(
        (decision["verdict"], f"bold {colour(decision['verdict'])}".strip()),
        f"  {decision['action']}, {clock(decision['time'])} UTC",
        (words, "dim"),
    )
    said = list(decision["reasons"][:most])
    if len(decision["reasons"]) > most:
        said.append(f"… and {len(decision['reasons']) - most} more: fleet rollouts explain {decision['rollout_id']}")
    return Group(head, *(Padding(Text(reason), (0, 0, 0, 2)) for reason in said))


def device_table(rollout: Rollout, *, room: int | None = None) -> RenderableType:
    """The devices, those that matter first.

    Args:
        rollout: as everywhere here.
        room: how many lines there are for rows; None for as many as there are devices.
    """
    from rich.console import Group
    from rich.text import Text

    devices = sorted(rollout["devices"], key=lambda d: (_rank(d["state"]), d["device_name"]))
    shown = devices if room is None or len(devices) <= room else devices[: max(0, room - 1)]
    drawn = _table(("DEVICE", "COHORT", "WAVE", "STATE", "ONLINE", "BEFORE", "DETAIL"), one_line=room is not None)
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
            str(device["wave"] + 1),
            Text(device["state"], colour(device["state"])),
            Text(online, colour(online)),
            device["baseline_release_id"] or "none",
            " ".join(filter(None, (device["detail"], device.get("stratum", "")))),
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
