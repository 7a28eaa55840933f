"""The model compiler, run as a process: packages for this machine, and what it can build for here.

The SDK and the command line import nothing of the compiler; a machine without it gets one line that says how to
install it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from importlib import metadata
from pathlib import Path

from maskfleet import errors
from maskfleet.errors import FleetError, InternalError, NotFoundError, OutputError, PreconditionError, UnavailableError
from maskfleet.ids import digest_file
from maskfleet.targets import Machine, Target, unbuildable

COMPILE_TIMEOUT_S = 300.0
LOCAL_TARGET = "ort-cpu"
_CACHE_FORMAT = 1


def why_not_here(entry: Target) -> str:
    """Why this machine cannot build for a target, in a sentence; empty where it can.

    Versions are read without importing anything. What GPU there is, is asked of the compiler, and only where everything
    else fits.
    """
    if not _installed():
        return "the model compiler is not installed here (pip install 'maskfleet[compiler]')"
    machine = Machine(platform.system().lower(), _arch(), runtimes=_versions({entry.distribution, "pycuda"}))
    if entry.built_anywhere:
        return unbuildable(entry, machine)
    fitting = dataclasses.replace(machine, compute_capability=entry.sms[0], jetpack=entry.jetpack)
    if why := unbuildable(entry, fitting):
        return why
    return "" if entry.name in _buildable_by_compiler() else f"{entry.name} is built on {entry.builders}"


@functools.cache
def _buildable_by_compiler() -> frozenset[str]:
    """Targets that the compiler says it can build here, GPU and all.

    Raises:
        FleetError: it cannot say.
    """
    said = _run(["targets", "-o", "json"], timeout=60.0)
    try:
        return frozenset(str(row["name"]) for row in json.loads(said) if row["buildable_here"])
    except (ValueError, KeyError, TypeError):
        raise InternalError("the model compiler's list of targets cannot be read") from None


def _versions(names: Collection[str]) -> dict[str, str]:
    """Versions of packages, of those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _arch() -> str:
    said = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(said, said)


def _installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("model_compiler", "onnx"))


def package(
    model: Path,
    decoder: str,
    cache: Path,
    *,
    size: tuple[int, int] = (0, 0),
    say: Callable[[str], None] = lambda _text: None,
) -> Path:
    """A package for an agent on this machine's CPU: compiled once, then taken from the cache.

    Args:
        model: an ONNX file.
        decoder: how its outputs are read.
        cache: directory of packages.
        size: width and height of the engine's input; zeros for the decoder's own.
        say: is told in a sentence that it takes a moment.

    Raises:
        NotFoundError: there is no such file.
        BadModelError: it is no ONNX, or not what the decoder reads.
        FleetError: it cannot be compiled.
        OutputError: the cache cannot be written.
    """
    if not model.is_file():
        raise NotFoundError(f"there is no file {model}", remedy="check --model")
    inputs = [_CACHE_FORMAT, metadata.version("maskfleet"), digest_file(model), decoder, LOCAL_TARGET, *size]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]
    made = cache / key
    if (made / "manifest.json").is_file():
        return made
    say(f"compiling {model.name} for this machine (kept for the next time)")
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = Path(tempfile.mkdtemp(dir=cache, prefix=".making-"))
    except OSError as error:
        raise OutputError(
            f"the cache {cache} cannot be written ({error.strerror})",
            remedy="set XDG_CACHE_HOME to another directory",
        ) from None
    try:
        sizes = ["--width", str(size[0]), "--height", str(size[1])] if all(size) else []
        arguments = ["compile", str(model), "--decoder", decoder, "--target", LOCAL_TARGET, *sizes]
        try:
            _run([*arguments, "-o", str(work / "package")], timeout=COMPILE_TIMEOUT_S)
        except FleetError as error:
            said, named = str(error), f"the package {work / 'package'}"
            if named not in said:
                raise
            # It would have another -o, which nobody gave.
            raise OutputError(
                said.replace(named, f"the cache {cache}").partition(": ")[0],
                remedy="make room there, or set XDG_CACHE_HOME to another directory",
            ) from None
        try:
            os.replace(work / "package", made)  # noqa: PTH105  # a directory, whole or not there
        except OSError:
            if not (made / "manifest.json").is_file():  # otherwise somebody else made it meanwhile
                raise
        return made
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(arguments: Sequence[str], *, timeout: float) -> str:
    """Runs the compiler; its stdout.

    Raises:
        FleetError: its own error, as its own class where it says so.
    """
    if not _installed():
        raise PreconditionError(
            "the model compiler is not installed here", remedy="pip install 'maskfleet[compiler]', or choose a package"
        )
    command = [sys.executable, "-m", "model_compiler", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"the model compiler took longer than {timeout:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    raise _said(done)


def _said(done: subprocess.CompletedProcess[str]) -> FleetError:
    """The error that a compiler that failed told."""
    try:
        said = json.loads(done.stdout)["error"]
        kind = errors.catalogue().get(str(said["kind"]), InternalError)
        return kind(str(said["message"]), remedy=str(said.get("remedy", "")))
    except (ValueError, KeyError, TypeError):
        pass
    lines = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
    kind = errors.InvalidInputError if done.returncode == 2 else InternalError
    if lines:
        return kind(lines[-1])
    return InternalError(f"the model compiler ended with code {done.returncode}: {done.stderr[-300:].strip()}")
