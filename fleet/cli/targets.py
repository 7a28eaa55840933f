"""``fleet targets``: what a release can be compiled for.

The registry is the ground floor's own table, so that a laptop without the compiler prints it too; only the column HERE
asks what is installed on this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.completion import complete_target
from fleet.cli.output import Format, FormatOption, console, facts, show_list, show_one

if TYPE_CHECKING:
    from rich.console import RenderableType

    from maskfleet.targets import Target

app = typer.Typer(no_args_is_help=True, help="Targets: classes of devices that an engine runs on.")


@app.command("list")
def list_targets(output: FormatOption = Format.TABLE) -> None:
    """List every target; HERE says whether this machine can build for it."""
    from fleet.compiler import why_not_here
    from maskfleet.targets import TARGETS

    listed = [_plain(entry, why_not_here(entry)) for entry in TARGETS.values()]
    if output is Format.JSON or console().width >= _WIDE:
        show_list(output, listed, {**_DEVICES, **_BUILDERS}, whole=_WHOLE)
        return
    show_list(output, listed, _DEVICES, whole=_WHOLE)
    print()  # this is the command line
    show_list(output, listed, {"TARGET": _DEVICES["TARGET"], **_BUILDERS}, whole=_WHOLE)


@app.command("show")
def show(
    target: Annotated[str, typer.Argument(help="Its name, as ort-cpu.", autocompletion=complete_target)],
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one target: what its devices are, what builds for it, and whether this machine can."""
    from fleet.compiler import why_not_here
    from maskfleet import targets

    entry = targets.target(target)
    show_one(output, _plain(entry, why_not_here(entry)), _draw)


def _plain(entry: Target, why_not: str) -> dict[str, Any]:
    return {**entry.to_json(), "buildable_here": not why_not, "why_not_here": why_not}


def _runtime(target: dict[str, Any]) -> str:
    """``1.x`` of a line of versions, ``1.7.1`` of one."""
    version = str(target["version"])
    return f"{version}x" if version.endswith(".") else version


def _machines(target: dict[str, Any]) -> str:
    """``linux/windows x86_64``; what stands for everything is left out."""
    systems = "" if len(target["systems"]) == _SYSTEMS else "/".join(target["systems"])
    return f"{systems} {' '.join(target['machines'])}".strip() or "any"


def _needs(target: dict[str, Any]) -> str:
    jetpack, driver = target["jetpack"], target["driver"]
    return f"JetPack {jetpack}" if jetpack else f"driver {driver}" if driver else "–"


_WIDE = 170
"""From here on everything fits in one table; below, what runs it and what builds it are two."""

_WHOLE = ("RUNTIME", "NEEDS", "PRECISIONS")
_SYSTEMS = 3
_DEVICES: dict[str, Callable[[dict[str, Any]], str]] = {
    "TARGET": lambda t: t["name"],
    "RUNTIME": lambda t: f"{t['backend']} {_runtime(t)}",
    "SM": lambda t: " ".join(sm.removeprefix("SM") for sm in t["sms"]) or "–",
    "MACHINES": _machines,
    "NEEDS": _needs,
}
_BUILDERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "PRECISIONS": lambda t: " ".join(t["precisions"]),
    "HERE": lambda t: "yes" if t["buildable_here"] else "no",
    "BUILT ON": lambda t: t["builders"],
}


def _draw(target: dict[str, Any]) -> RenderableType:
    driver = target["driver"]
    return facts(
        {
            "target": target["name"],
            "runs on": f"{target['backend']} {_runtime(target)} (package {target['distribution']})",
            "systems": " ".join(target["systems"]),
            "processors": " ".join(target["machines"]) or "any",
            "compute": " ".join(target["sms"]) or "no GPU",
            "JetPack": target["jetpack"],
            "driver": f"{driver} or later" if driver else "",
            "precisions": " ".join(target["precisions"]),
            "built on": target["builders"],
            "built here": "yes" if target["buildable_here"] else f"no: {target['why_not_here']}",
        }
    )
