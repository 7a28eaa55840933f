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
            "BACKEND": lambda t: f"{t['backend']} {t['version']}".rstrip(". "),
            "COMPUTE CAPABILITIES": lambda t: " ".join(t["sms"]) or "–",
            "PRECISIONS": lambda t: " ".join(t["precisions"]),
            "BUILT ON": lambda t: t["builders"],
            "HERE": lambda t: "yes" if t["buildable_here"] else "no",
        },
    )
