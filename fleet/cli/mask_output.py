"""What ``fleet mask`` says: how far it is, and what became of the frames."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fleet.cli.output import Format, console, print_json, say

if TYPE_CHECKING:
    from fleet.folder_job import FolderReport
    from fleet.masking_job import Progress, Report

_EVERY_S = 2.0


@contextlib.contextmanager
def bar(name: str) -> Iterator[Progress]:
    """A progress bar on a terminal, a line every two seconds elsewhere."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _EVERY_S:
                last = time.monotonic()
                say(f"{name}: frame {done}" + (f" of {total}" if total else ""))

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} frames/s"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=console(error=True), transient=True) as drawn:
        task = drawn.add_task(name, total=None, rate="–")

        def update(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            drawn.update(task, completed=done, total=max(total, done) if total else None, rate=f"{rate:.1f}")

        yield update


def tell(done: Report | FolderReport, format_: Format) -> None:
    """The summary, for people or as JSON; notes on stderr."""
    from fleet.masking_job import Report

    if isinstance(done, Report):
        _tell_file(done, format_)
    else:
        _tell_folder(done, format_)


def _tell_file(done: Report, format_: Format) -> None:
    summary = done.summary()
    if format_ is Format.JSON:
        print_json({"output": str(done.output), **summary, "notes": done.notes})
    else:
        speed = f", {summary['frames_per_second']} frames/s" if done.kind == "video" else ""
        most = _counted(summary["most_regions"], "face")
        faces = f"at most {most} a frame" if done.kind == "video" else most
        counts = f"{_counted(summary['frames'], 'frame')} ({_outcomes(summary['outcomes'])})"
        print(f"{done.output}: {counts}, {faces}{speed}", flush=True)  # this is the command line
    for note in done.notes:
        say(f"note: {note}")
    if uncertain := done.uncertain():
        reasons = ", ".join(f"{n} {word}" for word, n in summary["reasons"].items())
        say(f"note: {uncertain} frames could not be masked with certainty and are hidden whole ({reasons})")


def _tell_folder(done: FolderReport, format_: Format) -> None:
    summary = done.summary()
    if format_ is Format.JSON:
        failed = [{"input": str(path), "reason": reason} for path, reason in done.failed]
        print_json({"output": str(done.output), **summary, "failed_files": failed})
    else:
        outcomes = f" ({_outcomes(summary['outcomes'])})" if summary["frames"] else ""
        parts = [f"{_counted(summary['masked'], 'file')} masked, {_counted(summary['frames'], 'frame')}{outcomes}"]
        parts += [f"{summary['failed']} failed"] if summary["failed"] else []
        parts += [f"{summary['kept']} there already (--force masks them again)"] if summary["kept"] else []
        parts += [f"{summary['skipped']} left out, neither picture nor video"] if summary["skipped"] else []
        print(f"{done.output}: {'; '.join(parts)}", flush=True)  # this is the command line
    for report in done.done:
        for note in report.notes:
            say(f"note: {report.source.name}: {note}")
    if uncertain := done.uncertain():
        say(f"note: {uncertain} frames could not be masked with certainty and are hidden whole")
    if done.failed:
        say(f"error: {_counted(len(done.failed), 'file')} could not be masked: see the lines above")


def _outcomes(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
