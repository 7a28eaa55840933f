"""A release, drawn: what it is, its matrix, what is known of each engine, and why it is as it is.

Pure: values as :func:`fleet.cli.plain.plain` gives them in, something that rich prints out. Everything fits 80 columns;
texts of reports are texts, never markup.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fleet.cli.output import colour, facts, pairs, short_time, size, table
from fleet.release_matrix import (
    MARGINS,
    Candidate,
    candidates,
    margins_of,
    milliseconds,
    percent,
    report_of,
    short_reason,
    target_of,
    text,
    verified,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

Release = Mapping[str, Any]
_BAR = 20
_STEPS = 4
"""Where stderr is no terminal, progress is told in quarters."""

_VERDICT_COLOURS = {"won": "bold green", "passed": "green", "refused": "yellow", "failed": "red"}


@dataclasses.dataclass(frozen=True)
class Watched:
    """A release that is being built.

    Attributes:
        release: its newest state.
        reasons: why the last attempt of a build ended, by the build's id; the plane forgets it with the next attempt.
    """

    release: dict[str, Any]
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)


def watched(states: Iterator[dict[str, Any]]) -> Iterator[Watched]:
    """Each state with the reasons that were seen up to it."""
    reasons: dict[str, str] = {}
    for release in states:
        reasons |= {build["id"]: build["reason"] for build in release["builds"] if build["reason"]}
        yield Watched(release, dict(reasons))


def progress(seen: Watched) -> RenderableType:
    """The live view while it is built: a bar for each target, and what a person should know."""
    from rich.console import Group
    from rich.text import Text

    release = seen.release
    head = Text.assemble((release["id"], "bold"), "  ", (release["state"], f"bold {colour(release['state'])}".strip()))
    rows = [
        (target_of(build), build["state"], _bar(build), f"{100 * build['progress']:.0f} %", build["phase"])
        for build in release["builds"]
    ]
    notes = [Text(note, style="yellow") for note in _notes(seen)]
    return Group(head, table(("TARGET", "STATE", "PROGRESS", "", "PHASE"), rows), *([""] if notes else []), *notes)


def line(seen: Watched) -> str:
    """Where it stands in a line that does not change all the time, for what is no terminal."""
    parts = []
    for build in seen.release["builds"]:
        going = build["state"] == "BUILDING"
        quarter = int(build["progress"] * _STEPS) * 100 // _STEPS
        parts.append(" ".join(filter(None, (
            target_of(build), build["state"], build["phase"] if going else "", f"{quarter} %" if going else "",
        ))))  # fmt: skip
    notes = "".join(f"; {note}" for note in _notes(seen))
    return f"{seen.release['id']} {seen.release['state']}: {', '.join(parts)}{notes}"


def drawn(release: Release) -> RenderableType:
    """The whole release."""
    from rich.console import Group
    from rich.text import Text

    said = [Text(sentence) for sentence in sentences(release)]
    return Group(_head(release), "", _matrix(release), "", _engines(release), *([""] if said else []), *said)


def sentences(release: Release) -> list[str]:
    """Why each engine is as it is, what failed and where its log is, which builder is missing."""
    said = []
    for build in release["builds"]:
        target, reason = target_of(build), text(build["reason"])
        if why := text(report_of(build).get("why")):
            said.append(f"{target}: {why}")
        if build["state"] == "FAILED":
            attempts = f" after {build['attempts']} attempts" if build["attempts"] > 1 else ""
            said.append(f"{target} failed{attempts}: {reason}")
            said.append(f"  its log: fleet releases log {release['id']} --target {target}")
        elif build["missing_builder"]:
            said.append(_missing(build))
        elif build["state"] == "QUEUED" and reason:
            said.append(f"{target} waits for another attempt; the last one: {reason}")
    return said


def _bar(build: Mapping[str, Any]) -> str:
    filled = min(_BAR, max(0, int(build["progress"] * _BAR)))
    return "█" * filled + "░" * (_BAR - filled)


def _notes(seen: Watched) -> list[str]:
    notes = []
    for build in seen.release["builds"]:
        if build["missing_builder"]:
            notes.append(_missing(build))
        if build["attempts"] > 1 and build["state"] in ("BUILDING", "QUEUED"):
            last = seen.reasons.get(build["id"], "")
            notes.append(
                f"{target_of(build)}: attempt {build['attempts']}" + (f"; the last one: {last}" if last else "")
            )
        if build["state"] == "FAILED" and build["reason"]:
            notes.append(f"{target_of(build)} failed: {build['reason']}")
    return notes


def _missing(build: Mapping[str, Any]) -> str:
    return (
        f"{target_of(build)} waits for a builder: {text(build['missing_builder']).rstrip('.')}; "
        "start `python -m model_compiler run` there"
    )


def _head(release: Release) -> RenderableType:
    specs = [build["spec"] for build in release["builds"] if build["spec"]]
    margins = {MARGINS[field]: f"{value:g}" for field, value in margins_of(release).items()}
    # A build that failed says it below, in the same words.
    covered = any(build["reason"] and build["reason"] in release["reason"] for build in release["builds"])
    return facts(
        {
            "release": release["id"],
            "state": release["state"],
            "reason": "" if covered else release["reason"],
            "model": f"{release['model_name']}/{release['model_version']}",
            "input": _each(f"{spec['input_width']}×{spec['input_height']}" for spec in specs),
            "precision": _each(spec["precision"].lower() for spec in specs),
            "policy": pairs(release["policy"] or {}).replace(",", ", "),
            "gate": ", ".join(f"{name}={value}" for name, value in margins.items()),
            "calibration": release["calibration"],
            "manifest": release["manifest_digest"],
            "made": short_time(release["create_time"]),
        }
    )


def _each(words: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _matrix(release: Release) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    columns = ("TARGET", "PRECISION", "SIZE", "MS", "RECALL", "MEAN IOU", "VERDICT")
    for place, name in enumerate(columns):
        last = place == len(columns) - 1
        grid.add_column(name, justify="right" if 2 <= place <= 5 else "left", no_wrap=not last, overflow="fold")
    for build in release["builds"]:
        margins = margins_of(release, build)
        for place, candidate in enumerate(candidates(build)):
            style = "bold" if candidate.won else ""
            grid.add_row(
                Text(candidate.target if place == 0 else ""),
                *(Text(cell, style) for cell in _cells(candidate)),
                _verdict(candidate, margins),
            )
    return grid


def _cells(candidate: Candidate) -> Sequence[str]:
    recall, overlap = candidate.recall, candidate.mean_iou
    return (
        f"{'▸ ' if candidate.won else '  '}{candidate.precision}",
        size(candidate.size_bytes) if candidate.size_bytes is not None else "–",
        milliseconds(candidate.ms) if candidate.ms is not None else "–",
        percent(recall) if recall is not None else "–",
        f"{overlap:.3f}" if overlap is not None else "–",
    )


def _verdict(candidate: Candidate, margins: Mapping[str, float]) -> RenderableType:
    from rich.text import Text

    said = Text(candidate.verdict, _VERDICT_COLOURS.get(candidate.verdict, colour(candidate.verdict.upper())))
    if reason := short_reason(candidate, margins):
        said.append(f": {reason}", "default")
    return said


def _engines(release: Release) -> RenderableType:
    rows = [
        (
            target_of(build),
            build["state"],
            f"{build['engine_digest'].removeprefix('sha256:')[:12]}…" if build["engine_digest"] else "",
            verified(build),
            f"{'cached, ' if build['cached'] else ''}{build['builder_id']}",
        )
        for build in release["builds"]
    ]
    return table(("TARGET", "STATE", "ENGINE", "VERIFIED", "BUILDER"), rows)
