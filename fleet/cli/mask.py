"""``fleet mask``: an image or a video in, a masked one out."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.context import connected, home, read_context
from fleet.cli.output import Format, PlaneOption, TokenOption, console, print_json, say
from fleet.cli.policy import (
    CoastOption,
    ConfidenceOption,
    FailClosedOption,
    MarginOption,
    ShapeOption,
    SizeOption,
    StrengthOption,
    StyleOption,
    changes,
    parse_size,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fleet.masking_job import Progress, Report

_EVERY_S = 2.0


def mask(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image or a video.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the result goes.")],
    style: StyleOption = None,
    shape: ShapeOption = None,
    strength: StrengthOption = None,
    margin: MarginOption = None,
    min_confidence: ConfidenceOption = None,
    coast_frames: CoastOption = None,
    fail_closed: FailClosedOption = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="One entry for each frame.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.onnx", help="If absent, the release committed on this machine, else CenterFace."
        ),
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="How FILE.onnx is read: centerface, yunet or ultraface.")] = None,
    input_size: SizeOption = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="The summary for people, or as JSON.")] = Format.TABLE,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
) -> None:
    """Mask the faces in an image or a video; its sound is carried over.

    A frame that cannot be masked with certainty is masked whole, or black: the source never passes.
    """
    policy = changes(
        style=style,
        shape=shape,
        strength=strength,
        margin=margin,
        min_confidence=min_confidence,
        coast_frames=coast_frames,
        fail_closed=fail_closed,
    )
    size = parse_size(input_size)

    from fleet.client import MaskingClient
    from fleet.masking_job import IMAGE_TIMEOUT, check_paths, mask_file

    check_paths(source, output, force=force)
    if report is not None:
        _check_report(report, source, output, force=force)
    with _agent(model, decoder, size, plane, token_file) as (address, name):
        with MaskingClient(address, timeout=IMAGE_TIMEOUT) as client, _bar(source.name) as progress:
            done = mask_file(client, source, output, policy=policy, force=force, progress=progress)
    words = {key: getattr(value, "value", value) for key, value in policy.items()}
    if report is not None:
        _write_report(report, done.to_json(model=name, policy=words))
    _tell(done, format_)


@contextlib.contextmanager
def _agent(
    model: str | None, decoder: str | None, size: tuple[int, int], plane: str | None, token_file: Path | None
) -> Iterator[tuple[str, str]]:
    """An agent to mask through, and a name for its model."""
    from fleet import model_choice

    cache = home("XDG_CACHE_HOME", ".cache")
    chosen: AbstractContextManager[tuple[str, str]]
    with contextlib.ExitStack() as stack:
        if model is None:
            if decoder is not None or any(size):
                from maskfleet.errors import InvalidInputError

                raise InvalidInputError("--decoder and --input-size belong to a model", remedy="add --model FILE.onnx")
            context = read_context()
            addresses, data_dir = (context.agents, context.data_dir) if context is not None else ((), None)
            chosen = model_choice.agent_by_default(addresses, data_dir, cache, say=say)
        elif Path(model).is_file() or model.lower().endswith(".onnx"):
            chosen = model_choice.agent_for_file(Path(model), decoder, cache, size=size, say=say)
        else:
            there = stack.enter_context(connected(plane, token_file))
            chosen = model_choice.agent_for_name(model, there, cache, size=size, say=say)
        yield stack.enter_context(chosen)


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} frames/s"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=console(error=True), transient=True) as bar:
        task = bar.add_task(name, total=None, rate="–")

        def update(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=max(total, done) if total else None, rate=f"{rate:.1f}")

        yield update


def _tell(done: Report, format_: Format) -> None:
    summary = done.summary()
    if format_ is Format.JSON:
        print_json({"output": str(done.output), **summary, "notes": done.notes})
    else:
        outcomes = ", ".join(f"{n} {word}" for word, n in summary["outcomes"].items() if n)
        speed = f", {summary['frames_per_second']} frames/s" if done.kind == "video" else ""
        most = _counted(summary["most_regions"], "face")
        faces = f"at most {most} a frame" if done.kind == "video" else most
        print(f"{done.output}: {_counted(summary['frames'], 'frame')} ({outcomes}), {faces}{speed}", flush=True)
    for note in done.notes:
        say(f"note: {note}")
    if uncertain := done.uncertain():
        reasons = ", ".join(f"{n} {word}" for word, n in summary["reasons"].items())
        say(f"note: {uncertain} frames could not be masked with certainty and are hidden whole ({reasons})")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _check_report(path: Path, source: Path, output: Path, *, force: bool) -> None:
    from maskfleet.errors import AlreadyExistsError, InvalidInputError, OutputError

    if not path.absolute().parent.is_dir() or path.is_dir():
        raise OutputError(f"the report {path} cannot be written", remedy="check --report")
    # Before anything is masked: a report over the source would be the end of it.
    if path.resolve() == output.resolve() or any(
        path.exists() and o.exists() and path.samefile(o) for o in (source, output)
    ):
        raise InvalidInputError(
            f"the report {path} is the input or the output", remedy="give another name with --report"
        )
    if path.exists() and not force:
        raise AlreadyExistsError(f"{path} exists already", remedy="give another name, or --force to replace it")


def _write_report(path: Path, values: dict[str, Any]) -> None:
    from maskfleet.datadir import write_atomic
    from maskfleet.errors import OutputError

    try:
        write_atomic(path, json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise OutputError(f"the report {path} cannot be written ({error.strerror})", remedy="check --report") from None
