"""``fleet``: noun, then verb.

The one place where errors become lines and exit codes (:mod:`fleet.cli.exits`). Commands import gRPC, OpenCV and PyAV
when they run, so that ``fleet --help`` and completion are quick.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fleet.cli import devices, events, mask, models, releases, rollouts, targets, up
from fleet.cli.exits import FAILED, HELP, INTERRUPTED, WRONG_INPUT, exit_code
from maskfleet.errors import FleetError
from maskfleet.logs import correlated

app = typer.Typer(
    name="fleet",
    no_args_is_help=True,
    help="Masks identities in live video on devices, and keeps the fleet of such devices up to date.",
    epilog=HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("down")(up.down)
app.command("mask")(mask.mask)
app.command("events")(events.events)
app.add_typer(models.app, name="models")
app.add_typer(releases.app, name="releases")
app.add_typer(devices.app, name="devices")
app.add_typer(rollouts.app, name="rollouts")
app.add_typer(targets.app, name="targets")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"maskfleet {version('maskfleet')}")  # this is the command line
        raise typer.Exit


@app.callback()
def _fleet(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code. Errors of the catalogue become one line on stderr, without a traceback.

    Args:
        arguments: without the program's name; those of the process where absent.
    """
    if arguments is None:
        signal.signal(signal.SIGTERM, _interrupt)  # children are stopped and temporary files deleted
    command = typer.main.get_command(app)
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    try:
        with correlated():
            code = command.main(
                args=list(sys.argv[1:] if arguments is None else arguments), prog_name="fleet", standalone_mode=False
            )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except FleetError as error:
        return _failed(str(error), exit_code(error))
    except usage_error as error:
        return _refused(error)
    except (KeyboardInterrupt, typer.Abort):
        return _failed("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone. Nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _failed(text: str, code: int) -> int:
    line = " ".join(text.split())
    print(f"error: {line}", file=sys.stderr, flush=True)  # this is the command line
    return code


def _refused(error: Exception) -> int:
    """A command line that does not parse."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "fleet"
    if type(error).__name__ == "NoArgsIsHelpError":  # a noun without a verb: the help was printed in its place
        if text := str(getattr(error, "message", "")).strip():
            print(text, file=sys.stderr)  # this is the command line
        return WRONG_INPUT
    message = getattr(error, "format_message", lambda: str(error))()
    return _failed(f"{message.rstrip('.')}: see `{path} --help`", WRONG_INPUT)
