"""``fleet up`` and ``fleet down``: the whole stack on this machine, until Ctrl-C or in the background."""

from __future__ import annotations

import enum
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.context import Context, context_path, home, read_context, write_context
from fleet.cli.output import Format, FormatOption, console, say, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.stack import Stack

PLANE_LISTEN = "127.0.0.1:7700"
AGENT_PORT = 7710
_LOOK_S = 0.5
_OWN = {
    "config", "data-dir", "plane", "listen", "metrics-listen", "name", "join-token-file", "package", "threads", "otlp",
}  # fmt: skip


class OtlpWord(enum.Enum):
    """Where agents send OpenTelemetry metrics."""

    ENV = "env"
    PLANE = "plane"
    OFF = "off"


def up(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept; $XDG_DATA_HOME/maskfleet if absent.")
    ] = None,
    agents: Annotated[int, typer.Option(min=0, max=64, help="How many agents.")] = 1,
    any_port: Annotated[
        bool, typer.Option("--any-port", help=f"Listen on free ports instead of 7700 and {AGENT_PORT}, … .")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each agent's engine.")] = None,
    otlp: Annotated[
        OtlpWord, typer.Option(help="Where agents send OpenTelemetry metrics: as the OTEL_… variables say, or here.")
    ] = OtlpWord.ENV,
    agent_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A setting of every agent, as health-interval-s=2; repeat it."),
    ] = None,
    plane_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the control plane; repeat it.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready; `fleet down` stops it.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Run a control plane, its builder and agents on this machine, until Ctrl-C.

    Other `fleet` commands find them by themselves. A process that dies is started again; logs are in DATA-DIR/logs.
    With `-o json` one line on stdout says when everything is ready.
    """
    from fleet.cli.detached import holding, start
    from fleet.stack import Stack

    directory = (data_dir or home("XDG_DATA_HOME", ".local/share")).absolute()
    agent_arguments = [*_settings(agent_option, "--agent-option"), "--otlp", otlp.value]
    plane_arguments = _settings(plane_option, "--plane-option")
    if detach:
        again = ["--data-dir", str(directory), "--agents", str(agents), "--otlp", otlp.value]
        again += ["--any-port"] if any_port else []
        again += ["--threads", str(threads)] if threads else []
        again += [f"--agent-option={text}" for text in agent_option or ()]
        again += [f"--plane-option={text}" for text in plane_option or ()]
        say(f"starting a control plane, a builder and {agents} agents in {directory} …")
        _detached(start(directory, again), output)
        return
    stack = Stack(
        directory,
        agents=agents,
        plane_listen="127.0.0.1:0" if any_port else PLANE_LISTEN,
        agent_port=0 if any_port else AGENT_PORT,
        threads=threads,
        plane_arguments=plane_arguments,
        agent_arguments=agent_arguments,
        report=say,
    )
    stopped = _Stopped()
    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGINT, stopped)
    try:
        say(f"starting a control plane, a builder and {agents} agents in {directory} …")
        with holding(directory), stack:
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


def down(
    data_dir: Annotated[
        Path | None, typer.Option(help="Of the stack; the one that commands speak to if absent.")
    ] = None,
) -> None:
    """Stop the stack on this machine; what its agents committed stays."""
    from fleet.cli.detached import stop

    context = read_context()
    known = context.data_dir if context is not None else home("XDG_DATA_HOME", ".local/share")
    directory = (data_dir or known).absolute()
    pid = stop(directory)
    say(f"nothing runs in {directory}" if pid is None else f"stopped (process {pid}, {directory})")


def _settings(texts: list[str] | None, flag: str) -> list[str]:
    """``key=value`` texts as flags of a process.

    Raises:
        InvalidInputError: one is no such pair, or is set by ``fleet up`` itself.
    """
    from maskfleet.errors import InvalidInputError

    arguments = []
    for text in texts or ():
        key, equals, value = text.partition("=")
        key = key.removeprefix("--").replace("_", "-")
        if not equals or not key or not key.replace("-", "").isalnum():
            raise InvalidInputError(f"{flag} {text!r} is no setting", remedy="give KEY=VALUE, as health-interval-s=2")
        if key in _OWN:
            raise InvalidInputError(f"{key} is set by `fleet up` itself", remedy="see `fleet up --help`")
        arguments.append(f"--{key}={value}")
    return arguments


def _detached(said: dict[str, Any], output: Format) -> None:
    if output is Format.JSON:
        import json

        print(json.dumps(said), flush=True)  # this is the command line
        return
    say(f"ready: control plane at {said['plane']}, agents at {', '.join(said['agents']) or 'none'}")
    say("`fleet down` stops everything")


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
