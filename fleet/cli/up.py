"""``fleet up``: the whole stack on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.context import Context, context_path, home, write_context
from fleet.cli.output import Format, FormatOption, console, say, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.stack import Stack

PLANE_LISTEN = "127.0.0.1:7700"
AGENT_PORT = 7710
_LOOK_S = 0.5


def up(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept; $XDG_DATA_HOME/maskfleet if absent.")
    ] = None,
    agents: Annotated[int, typer.Option(min=0, max=64, help="How many agents.")] = 1,
    any_port: Annotated[
        bool, typer.Option("--any-port", help=f"Listen on free ports instead of 7700 and {AGENT_PORT}, … .")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each agent's engine.")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Run a control plane, its builder and agents on this machine, until Ctrl-C.

    Other `fleet` commands find them by themselves. A process that dies is started again; logs are in DATA-DIR/logs.
    With `-o json` one line on stdout says when everything is ready.
    """
    from fleet.stack import Stack

    directory = (data_dir or home("XDG_DATA_HOME", ".local/share")).absolute()
    stack = Stack(
        directory,
        agents=agents,
        plane_listen="127.0.0.1:0" if any_port else PLANE_LISTEN,
        agent_port=0 if any_port else AGENT_PORT,
        threads=threads,
        report=say,
    )
    stopped = _Stopped()
    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGINT, stopped)
    try:
        say(f"starting a control plane, a builder and {agents} agents in {directory} …")
        with stack:
            context = Context(
                plane=stack.plane_address,
                token_file=stack.token_file,
                data_dir=directory,
                agents=tuple(agent.address for agent in stack.agents),
            )
            write_context(context)
            try:
                _ready(stack, context, output)
                _watch(stack, stopped)
            finally:
                say("stopping …")
    except KeyboardInterrupt:
        pass  # the ordinary end


class _Stopped:
    """A signal handler: interrupts what runs, once; stopping itself is not interrupted."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, _number: int, _frame: Any) -> None:
        if not self.event.is_set():
            self.event.set()
            raise KeyboardInterrupt


def _ready(stack: Stack, context: Context, output: Format) -> None:
    if output is Format.JSON:
        import json

        said = {"event": "ready", "plane": context.plane, "token_file": str(context.token_file)}
        print(json.dumps({**said, "data_dir": str(context.data_dir), "agents": list(context.agents)}), flush=True)
        return
    if not sys.stderr.isatty():
        console().print(_draw(stack))
    say(f"ready; commands find it through {context_path()}. Next: fleet models add NAME FILE.onnx --decoder …")
    say("Ctrl-C stops everything")


def _watch(stack: Stack, stopped: _Stopped) -> None:
    """Until a signal interrupts it."""
    if not sys.stderr.isatty():
        while True:
            stopped.event.wait(3600)
    from rich.live import Live

    with Live(_draw(stack), console=console(error=True), auto_refresh=False) as live:
        while True:
            stopped.event.wait(_LOOK_S)
            live.update(_draw(stack), refresh=True)


def _draw(stack: Stack) -> RenderableType:
    rows = [(c.name, c.state, c.address, c.pid or "", str(c.log)) for c in stack.processes]
    return table(("PROCESS", "STATE", "ADDRESS", "PID", "LOG"), rows)
