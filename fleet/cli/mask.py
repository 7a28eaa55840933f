"""``fleet mask``: an image, a video, a folder of both or a camera in, the same masked out."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.context import connected, home, read_context
from fleet.cli.mask_output import bar, tell
from fleet.cli.output import Format, PlaneOption, TokenOption, say
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
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from fleet.client import MaskingClient
    from fleet.folder_job import FolderReport
    from fleet.masking_job import Progress, Report

    Run = Callable[[MaskingClient], Report | FolderReport]


def mask(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a video, a folder of both, or camera:0.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE|FOLDER", help="Where the result goes; a camera needs none."),
    ] = None,
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
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=86400, help="How long a camera is masked; else until Ctrl-C.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="The summary for people, or as JSON.")] = Format.TABLE,
    plane: PlaneOption = None,
    token_file: TokenOption = None,
) -> None:
    """Mask the faces in an image or a video; its sound is carried over.

    A frame that cannot be masked with certainty is masked whole, or black: the source never passes.
    A folder is mirrored into another one; files that fail are told, and the others are masked.
    A camera is masked live; Ctrl-C finishes its file.
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
    job = _job(source, output, policy, seconds=seconds, force=force)

    from fleet.client import MaskingClient
    from fleet.masking_job import IMAGE_TIMEOUT

    if report is not None:
        _check_report(report, source, output, force=force)
    with _agent(model, decoder, size, plane, token_file) as (address, name):
        with MaskingClient(address, timeout=IMAGE_TIMEOUT) as client:
            done = job(client)
    words = {key: getattr(value, "value", value) for key, value in policy.items()}
    if report is not None:
        _write_report(report, done.to_json(model=name, policy=words))
    tell(done, format_)
    if getattr(done, "failed", None):
        raise typer.Exit(1)


def _job(source: Path, output: Path | None, policy: dict[str, Any], *, seconds: float | None, force: bool) -> Run:
    """What is to be done; it was looked at, before an agent is started.

    Raises:
        InvalidInputError: an option is missing, or belongs to a camera.
        FleetError: as the ``check_…`` of the job.
    """
    from maskfleet.errors import InvalidInputError

    if str(source).startswith("camera:") and not source.exists():
        return _camera_job(str(source), output, policy, seconds=seconds, force=force)
    if seconds is not None:
        raise InvalidInputError("--seconds belongs to a camera", remedy="leave it out, or give camera:0")
    if output is None:
        raise InvalidInputError("where does the result go?", remedy="add -o and a name")
    return (_folder_job if source.is_dir() else _file_job)(source, output, policy, force=force)


def _file_job(source: Path, output: Path, policy: dict[str, Any], *, force: bool) -> Run:
    from fleet.masking_job import check_paths, mask_file

    check_paths(source, output, force=force)

    def run(client: MaskingClient) -> Report:
        with bar(source.name) as progress:
            return mask_file(client, source, output, policy=policy, force=force, progress=progress)

    return run


def _folder_job(source: Path, output: Path, policy: dict[str, Any], *, force: bool) -> Run:
    from fleet.folder_job import check_folders, mask_folder

    check_folders(source, output)

    def run(client: MaskingClient) -> FolderReport:
        def progress(name: str, number: int, count: int) -> AbstractContextManager[Progress]:
            return bar(f"{number} of {count}: {name}")

        return mask_folder(client, source, output, policy=policy, force=force, progress=progress, told=say)

    return run


def _camera_job(name: str, output: Path | None, policy: dict[str, Any], *, seconds: float | None, force: bool) -> Run:
    from fleet.camera import Camera, camera_device, check_output, mask_camera

    check_output(output, force=force)
    camera_device(name)

    def run(client: MaskingClient) -> Report:
        stop = threading.Event()

        def finish(_number: int, _frame: Any) -> None:
            if stop.is_set():
                raise KeyboardInterrupt  # a second one does not wait
            stop.set()

        with Camera.opened(name) as camera, bar(name) as progress:
            before = {number: signal.signal(number, finish) for number in (signal.SIGINT, signal.SIGTERM)}
            say(f"masking {name}, {camera.info.width}×{camera.info.height}; Ctrl-C ends it")
            try:
                return mask_camera(client, camera, output, stop=stop, seconds=seconds, policy=policy, progress=progress)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return run


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


def _check_report(path: Path, source: Path, output: Path | None, *, force: bool) -> None:
    from fleet.masking_job import check_writable
    from maskfleet.errors import AlreadyExistsError, InvalidInputError, OutputError

    if not path.absolute().parent.is_dir() or path.is_dir():
        raise OutputError(f"the report {path} cannot be written", remedy="check --report")
    # Before anything is masked: a report over the source would be the end of it.
    others = [other for other in (source, output) if other is not None]
    if any(path.resolve() == o.resolve() or (path.exists() and o.exists() and path.samefile(o)) for o in others):
        raise InvalidInputError(
            f"the report {path} is the input or the output", remedy="give another name with --report"
        )
    if path.exists() and not force:
        raise AlreadyExistsError(f"{path} exists already", remedy="give another name, or --force to replace it")
    check_writable(path, what=f"the report {path}", remedy="check --report")


def _write_report(path: Path, values: dict[str, Any]) -> None:
    from maskfleet.datadir import write_atomic
    from maskfleet.errors import OutputError

    try:
        write_atomic(path, json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise OutputError(f"the report {path} cannot be written ({error.strerror})", remedy="check --report") from None
