"""``fleet targets``: what a release can be compiled for."""

from __future__ import annotations

import typer

from fleet.cli.output import Format, FormatOption, show_list

app = typer.Typer(no_args_is_help=True, help="Targets: classes of devices that an engine runs on.")


@app.command("list")
def list_targets(output: FormatOption = Format.TABLE) -> None:
    """List the targets that the compiler on this machine knows."""
    from fleet.compiler import targets

    show_list(
        output,
        targets(),
        {
            "TARGET": lambda t: t["name"],
            "BACKEND": lambda t: t.get("backend", ""),
            "DESCRIPTION": lambda t: t.get("description", ""),
            "BUILDS HERE": lambda t: {True: "yes", False: "no"}.get(t.get("buildable"), ""),
        },
    )
