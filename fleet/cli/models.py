"""``fleet models``: versions in the model registry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.context import connected
from fleet.cli.output import (
    Format,
    FormatOption,
    PlaneOption,
    TokenOption,
    console,
    facts,
    say,
    short_time,
    show_list,
    show_one,
    size,
)
from fleet.cli.waiting import waiting

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fleet.plane import Plane

app = typer.Typer(no_args_is_help=True, help="Models: detectors with the decoder that reads them.")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The model's name; a second file under it becomes version 2.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An ONNX file, or a program that PyTorch exported (.pt2).")
    ],
    decoder: Annotated[str, typer.Option(help="How its outputs are read: centerface, yunet or ultraface.")],
    description: Annotated[str, typer.Option(help="A line for people.")] = "",
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Upload a model, have it checked against its decoder, and register it."""
    from fleet.cli.plain import plain
    from fleet.plane import SLOW_CALL_TIMEOUT_S
    from maskfleet.decoding import decoder_spec
    from maskfleet.ids import check_name, new_id
    from maskfleet.v1 import models_service_pb2

    check_name("model", name)
    decoder_spec(decoder)
    with connected(plane, token_file) as there:
        request = models_service_pb2.CreateModelRequest(
            request_id=new_id("req"),
            name=name,
            decoder=decoder,
            artifact_digest=_upload(there, file),
            description=description,
        )
        with waiting(
            f"checking {file.name} against the decoder {decoder} and registering it …",
            "the model registry needs some seconds after the control plane's start",
        ):
            response = there.call(there.models.CreateModel, request, timeout=SLOW_CALL_TIMEOUT_S)
    model = plain(response.model)
    say(f"added {name}/{model['version']}")
    show_one(output, model, _draw)


@app.command("list")
def list_models(
    name: Annotated[str, typer.Argument(help="Only versions of this model.")] = "",
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List model versions, newest first."""
    from fleet.cli.plain import plain
    from fleet.plane import pages
    from maskfleet.v1 import models_service_pb2

    with connected(plane, token_file) as there:
        request = models_service_pb2.ListModelsRequest(name=name)
        models = [plain(m) for page in pages(there, there.models.ListModels, request) for m in page.models]
    show_list(
        output,
        models,
        {
            "MODEL": lambda m: f"{m['name']}/{m['version']}",
            "DECODER": lambda m: m["decoder"],
            "INPUT": lambda m: f"{m['input_width']}×{m['input_height']}{'' if m['resizable'] else ' fixed'}",
            "SIZE": lambda m: size(m["size_bytes"]),
            "ADDED (UTC)": lambda m: short_time(m["create_time"]),
            "DESCRIPTION": lambda m: m["description"],
        },
    )


@app.command("show")
def show(
    model: Annotated[str, typer.Argument(metavar="NAME[/VERSION]", help="The newest version where none is given.")],
    plane: PlaneOption = None,
    token_file: TokenOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show one model version."""
    from fleet.cli.plain import plain
    from maskfleet.v1 import models_service_pb2

    with connected(plane, token_file) as there:
        response = there.call(there.models.GetModel, models_service_pb2.GetModelRequest(model=model))
    show_one(output, plain(response.model), _draw)


def _upload(plane: Plane, file: Path) -> str:
    """Uploads with a progress bar where stderr is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from fleet.cli.upload import upload

    if not sys.stderr.isatty():
        return upload(plane, file)
    columns = (TextColumn("uploading {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console(error=True), transient=True) as bar:
        task = bar.add_task(file.name, total=None)
        return upload(plane, file, progress=lambda done, total: bar.update(task, completed=done, total=total))


def _draw(model: dict[str, Any]) -> RenderableType:
    def tensors(specs: list[dict[str, Any]]) -> str:
        return "\n".join(f"{s['name']} {s['dtype']}[{', '.join(s['shape'])}]" for s in specs)

    return facts(
        {
            "model": f"{model['name']}/{model['version']}",
            "description": model["description"],
            "decoder": model["decoder"],
            "input": f"{model['input_width']}×{model['input_height']}{'' if model['resizable'] else ', fixed'}",
            "file": f"{model['artifact_digest']} ({size(model['size_bytes'])})",
            "source": model["source_uri"],
            "added": short_time(model["create_time"]),
            "inputs": tensors(model["inputs"]),
            "outputs": tensors(model["outputs"]),
        }
    )
