"""What a person sees while the demo runs: steps, the commands as they run, bars, the verdict.

On a terminal the last lines are live; elsewhere there is a line for each step, command and outcome.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_NARROW = 100


class Screen:
    """The demo's screen. Safe to use from several threads.

    Attributes:
        steps: what was shown: title, command (empty where there is none), seconds.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console = console or Console(highlight=False, width=_NARROW)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self.steps: list[dict[str, Any]] = []

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def heading(self, text: str, detail: str) -> None:
        """The first lines."""
        self.console.print(Text(text, style="bold"))
        self.console.print(Text(detail, style="dim"))

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A part of the story, timed."""
        self.console.print()
        self.console.print(Text(f"▸ {title}", style="bold cyan"))
        started = time.monotonic()
        entry: dict[str, Any] = {"title": title, "command": "", "seconds": 0.0}
        self.steps.append(entry)
        bar = self.bar("at work")
        try:
            yield
        finally:
            self.remove(bar)
            entry["seconds"] = round(time.monotonic() - started, 2)

    def command(self, command: str) -> None:
        """A command line that is about to run; it belongs to the step under way."""
        self.console.print(Text(f"  $ {command}", style="yellow"), soft_wrap=True)
        if self.steps:
            before = self.steps[-1]["command"]
            self.steps[-1]["command"] = f"{before}\n$ {command}" if before else command

    def line(self, text: str) -> None:
        """A line that a command says."""
        self.console.print(Text(f"    {text}", style="dim"), soft_wrap=True)

    def done(self, text: str) -> None:
        """Something that was reached."""
        self.console.print(Text("  ✓ ", style="green").append(text, style="default"))

    def bar(self, description: str, total: int | None = None) -> TaskID:
        """A bar at the lower edge; a total of None pulses."""
        return self._progress.add_task(description, total=total, note="")

    def move(self, bar: TaskID, *, done: int | None = None, total: int | None = None, note: str | None = None) -> None:
        """Moves a bar."""
        self._progress.update(bar, completed=done, total=total)
        if note is not None:
            self._progress.update(bar, note=note)

    def advance(self, bar: TaskID) -> None:
        """Moves a bar by one."""
        self._progress.advance(bar)

    def remove(self, bar: TaskID) -> None:
        """Takes a bar away."""
        self._progress.remove_task(bar)

    def verdict(self, figures: Mapping[str, Any]) -> None:
        """The gates, and what each step of a frame costs."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for column in ("", "what must hold", "measured", "limit"):
            table.add_column(column, style="default", header_style="dim")
        for gate in figures["verdict"]["gates"]:
            mark = Text("✓", style="green") if gate["held"] else Text("✗", style="bold red")
            table.add_row(mark, gate["name"], Text(gate["figure"], style="" if gate["held"] else "red"), gate["limit"])
        self.console.print()
        self.console.print(table)
        latency = figures["latency_ms"]
        stages = ", ".join(f"{stage} {spread['p50']:.1f}" for stage, spread in latency.items())
        self.console.print(Text(f"\nmilliseconds in the agent, median: {stages}", style="dim"))
        late = ", ".join(
            f"{name} {spread['p50']:.0f} / {spread['p99']:.0f}" for name, spread in figures["lateness_ms"].items()
        )
        self.console.print(Text(f"milliseconds from capture to result, median / 99 %: {late}", style="dim"))

    def farewell(self, out: Path, *, held: bool) -> int:
        """The last lines; the exit code."""
        self.console.print()
        if held:
            self.console.print(Text("✓ Everything held.", style="bold green"))
        else:
            self.console.print(Text("✗ Not everything held; the marked limits above were not kept.", style="bold red"))
        for name in ("report.html", "masked.mp4", "contact_sheet.png", "report.json"):
            self.console.print(f"  {out / name}", markup=False)
        return 0 if held else 1
