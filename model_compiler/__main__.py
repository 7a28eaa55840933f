"""``python -m model_compiler run | inspect | export | compile | targets``.

- ``run`` leases builds from a plane until it is stopped.
- ``inspect FILE.onnx --decoder D`` says whether a file can be built, and at which sizes: one JSON object.
- ``export FILE.pt2 -o FILE.onnx`` makes ONNX of a program that PyTorch exported.
- ``compile FILE.onnx|models:/name/version --decoder D --target T -o DIR`` makes a package for an agent without a plane.
- ``targets`` shows the registry.

Bad input exits with 2, everything else with 1, each with one line on standard error.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskfleet import targets
from maskfleet.clock import SystemClock
from maskfleet.config import load, setting
from maskfleet.datadir import DataDir
from maskfleet.decoding import decoder_spec
from maskfleet.errors import BadModelError, BadPolicyError, FleetError, InvalidInputError
from maskfleet.ids import digest_file
from maskfleet.logs import configure
from maskfleet.policy import MaskPolicy

if TYPE_CHECKING:
    from model_compiler.cache import Built

PREFIX = "MASKFLEET_COMPILER"


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Of ``run``."""

    plane: str = setting("address of the plane, as 127.0.0.1:7700")
    token_file: Path = setting("file with the builder's token", parse=Path)
    data_dir: Path = setting("where models, engines and builds under way are kept", parse=Path)
    build_memory_mb: int = setting("memory that one build may use, in MiB of address space", default=6144, parse=int)
    build_seconds: float = setting("time that one build may take, in seconds", default=600.0, parse=float)
    cache_mb: int = setting("how much finished engines may take, in MiB", default=8192, parse=int)
    calibration_dir: Path | None = setting(
        "folder of calibration sets, as NAME/VERSION with pictures; they never leave this machine",
        default=None,
        parse=Path,
    )
    log_level: str = setting("least level of the log", default="INFO")


def main(argv: Sequence[str], environ: dict[str, str]) -> int:
    """Runs a subcommand; its exit code."""
    commands: dict[str, Callable[[Sequence[str], dict[str, str]], int]] = {
        "run": run,
        "inspect": inspect,
        "export": export,
        "compile": compile_package,
        "targets": show_targets,
    }
    if not argv or argv[0] not in commands:
        usage = f"usage: python -m model_compiler {{{','.join(commands)}}} …"
        print(usage if argv and argv[0] in ("-h", "--help") else f"error: no such command: {usage}", file=sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    try:
        return commands[argv[0]](argv[1:], environ)
    except FleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInputError) else 1


def run(argv: Sequence[str], environ: dict[str, str]) -> int:
    """The builder."""
    config = load(RunConfig, prog="model_compiler run", prefix=PREFIX, argv=argv, environ=environ)
    configure("model_compiler", level=config.log_level)
    from model_compiler.builder import Builder, Settings
    from model_compiler.plane import Plane
    from model_compiler.process import Limits

    try:
        token = config.token_file.read_text().strip()
    except OSError as error:
        raise InvalidInputError(
            f"{config.token_file} cannot be read ({error.strerror})", remedy="give the plane's builder.token"
        ) from None
    settings = Settings(
        limits=Limits(memory_bytes=config.build_memory_mb << 20, seconds=config.build_seconds),
        cache_bytes=config.cache_mb << 20,
        calibration_dir=config.calibration_dir,
    )
    with DataDir.opened(config.data_dir, owner="model_compiler") as data, stopping() as stop:
        plane = Plane(config.plane, token)
        try:
            builder = Builder(plane, data.path, settings, stop)
            ready = {"event": "ready", "builder_id": builder.builder_id, "targets": builder.targets}
            print(json.dumps(ready), flush=True)
            builder.run()
        finally:
            plane.close()
    return 0


def inspect(argv: Sequence[str], _environ: dict[str, str]) -> int:
    """Whether a file can be built. Run it as a process: what it reads may be anything."""
    parser = _parser("inspect")
    parser.add_argument("model", type=Path, metavar="FILE.onnx")
    parser.add_argument("--decoder", required=True)
    parser.add_argument("--onnx", type=Path, metavar="OUT.onnx", help="where ONNX goes that is made of a PyTorch model")
    given = parser.parse_args(list(argv))
    configure("model_compiler", level=given.log_level)
    from model_compiler.prepare import inspect as inspected
    from model_compiler.torch_source import exported, is_torch

    try:
        decoder, model = decoder_spec(given.decoder), given.model
        if made := given.onnx is not None and is_torch(model):
            model = exported(model, given.onnx)
        print(json.dumps({**inspected(_read(model), decoder).to_json(), "exported": made}))
    except FleetError as error:
        print(json.dumps({"error": _described(error)}))
        raise
    return 0


def export(argv: Sequence[str], _environ: dict[str, str]) -> int:
    """ONNX of what PyTorch exported."""
    parser = _parser("export")
    parser.add_argument("model", type=Path, metavar="FILE.pt2")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.onnx")
    given = parser.parse_args(list(argv))
    configure("model_compiler", level=given.log_level)
    from model_compiler.torch_source import exported, is_torch

    _read(given.model, 1)
    if not is_torch(given.model):
        raise BadModelError(f"{given.model} is no PyTorch model", remedy="give a .pt2 file of torch.export.save")
    exported(given.model, given.output)
    print(json.dumps({"event": "done", "model": str(given.output), "digest": digest_file(given.output)}))
    return 0


def compile_package(argv: Sequence[str], environ: dict[str, str]) -> int:
    """A package for an agent without a plane."""
    parser = _parser("compile")
    parser.add_argument("model", metavar="FILE.onnx|FILE.pt2|models:/NAME/VERSION")
    parser.add_argument("--decoder", required=True)
    parser.add_argument("--target", action="append", help="may come several times (default: ort-cpu)")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, int8, or auto: the fastest that passes")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="pictures that ranges for int8 are learnt from")
    parser.add_argument("--workspace-mb", type=int, default=0, help="scratch memory that TensorRT may plan with")
    parser.add_argument("--width", type=int, default=0, help="of the input, in pixels (default: the decoder's)")
    parser.add_argument("--height", type=int, default=0)
    parser.add_argument("--policy", default="{}", help="differences from the default policy, as JSON")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep finished engines here")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write what was found")
    parser.add_argument("--build-memory-mb", type=int, default=6144)
    parser.add_argument("--build-seconds", type=float, default=600.0)
    parser.add_argument("--progress", action="store_true", help="say each step as a line of JSON")
    given = parser.parse_args(list(argv))
    configure("model_compiler", level=given.log_level)
    from model_compiler.cache import Cache
    from model_compiler.calibration import OWN, CalibrationSet
    from model_compiler.package import check_folder, write_package
    from model_compiler.process import Limits
    from model_compiler.search import run_search
    from model_compiler.spec import BuildSpec

    learnt = CalibrationSet(given.calibration.name, given.calibration) if given.calibration else OWN
    policy, names = _policy(given.policy, given.decoder), given.target or ["ort-cpu"]
    check_folder(given.output)
    with stopping() as stop, tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        source = _source(given.model, environ, Path(folder))
        cache = Cache(given.cache) if given.cache else None
        limits = Limits(memory_bytes=given.build_memory_mb << 20, seconds=given.build_seconds)

        def build(name: str) -> Built:
            spec = BuildSpec(
                model_digest=digest_file(source),
                decoder=given.decoder,
                target=name,
                precision=given.precision,
                width=given.width,
                height=given.height,
                min_confidence=policy.min_confidence,
                nms_iou=policy.nms_iou,
                workspace_mb=given.workspace_mb,
            )

            def show(phase: str, fraction: float) -> None:
                if given.progress:
                    line = {"event": "progress", "target": name, "phase": phase, "progress": round(fraction, 3)}
                    sys.stdout.write(json.dumps(line) + "\n")  # in one piece: builds run side by side
                    sys.stdout.flush()

            workdir = Path(folder) / name
            workdir.mkdir()
            return run_search(
                spec,
                lambda: source,
                workdir,
                calibration=learnt,
                cache=cache,
                limits=limits,
                progress=show,
                cancel=stop,
            )

        built = _side_by_side(build, list(dict.fromkeys(names)), stop)
        manifest = write_package(given.output, Path(given.model), given.decoder, built, policy, now=SystemClock().now())
        reports = [{**one.report, "cached": one.cached} for one in built]
    if given.report:
        given.report.write_text(json.dumps(reports, indent=1))
    done = {
        "event": "done",
        "package": str(given.output),
        "input_size": [manifest.input_width, manifest.input_height],
        "engines": [dataclasses.asdict(entry) for entry in manifest.engines],
    }
    print(json.dumps(done), flush=True)
    return 0


def _side_by_side(build: Callable[[str], Built], names: Sequence[str], stop: threading.Event) -> list[Built]:
    """An engine for each target, in the order of the names.

    What cannot be timed here is built side by side, as far as there are processors; what can be timed is alone.
    """
    from model_compiler.tools import machine

    untimed = [name for name in names if targets.mismatch(targets.target(name), machine())]
    done: dict[str, Built] = {}
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        try:
            done.update(zip(untimed, pool.map(build, untimed)))
        except BaseException:
            stop.set()  # one that fails ends the others
            raise
    for name in names:
        if name not in done:
            done[name] = build(name)
    return [done[name] for name in names]


def show_targets(argv: Sequence[str], _environ: dict[str, str]) -> int:
    """The registry, for people or programs."""
    parser = _parser("targets")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    given = parser.parse_args(list(argv))
    if given.output == "json":
        from model_compiler import tools

        here = {entry.name for entry in targets.buildable(tools.machine())}
        rows = [{**entry.to_json(), "buildable_here": entry.name in here} for entry in targets.TARGETS.values()]
        print(json.dumps(rows))
    else:
        print(targets.table())
    return 0


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def handle(_number: int, _frame: Any) -> None:
        # Not here: the main thread may hold the event's lock at this very moment.
        threading.Thread(target=stop.set, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m model_compiler {command}", allow_abbrev=False)
    parser.add_argument("--log-level", default="WARNING")
    return parser


def _source(model: str, environ: dict[str, str], folder: Path) -> Path:
    from model_compiler import registry_source
    from model_compiler.torch_source import exported, is_torch

    if model.startswith(registry_source.SCHEME):
        path = registry_source.fetched(model, environ.get("MLFLOW_TRACKING_URI", ""), folder)
    else:
        path = Path(model)
        _read(path, 1)
    return exported(path, folder / "exported.onnx") if is_torch(path) else path


def _read(path: Path, count: int = -1) -> bytes:
    """A file's bytes, or its first."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise BadModelError(f"{path} cannot be read ({error.strerror})", remedy="give an ONNX file") from None


def _policy(text: str, decoder: str) -> MaskPolicy:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadPolicyError(f"the policy is no JSON ({error})", remedy='give {"margin": 0.3} or alike') from None
    if not isinstance(values, dict):
        raise BadPolicyError("the policy is no JSON object", remedy='give {"margin": 0.3} or alike')
    return MaskPolicy.from_json({**decoder_spec(decoder).default_policy().to_json(), **values})


def _described(error: FleetError) -> dict[str, str]:
    return {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
