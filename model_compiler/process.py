"""Starts a build in a process of its own, watches it, and turns every way in which it can end into a value or an error.

Example::

    built = run_build(spec, model_path, workdir, cache=cache, limits=Limits(), progress=print, cancel=threading.Event())
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from maskfleet.errors import (
    BuildCrashError,
    BuildError,
    CanceledError,
    FleetError,
    GateRefusedError,
    InternalError,
    catalogue,
)
from maskfleet.ids import digest_file
from maskfleet.targets import check_buildable, target
from model_compiler.cache import Built, Cache
from model_compiler.calibration import OWN, CalibrationSet
from model_compiler.precision import pictures_digest
from model_compiler.spec import BuildSpec
from model_compiler.tools import machine, versions_for

LOG_TAIL_BYTES = 64 << 10
_GRACE_S = 2.0

Source = Callable[[], Path]
"""Gives a file; it may have to be fetched first."""

_NO_MEMORY = re.compile(
    r"bad_alloc|MemoryError|[Cc]annot allocate memory|[Ff]ailed to allocate|failed to map segment|[Oo]ut of memory"
    r"|can't start new thread|Resource temporarily unavailable"
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one build may use.

    Attributes:
        memory_bytes: of address space; CenterFace needs less than a gigabyte of it in memory.
        seconds: of time.
    """

    memory_bytes: int = 6 << 30
    seconds: float = 600.0


DEFAULT_LIMITS = Limits()


class Elsewhere(Protocol):
    """Engines that others have built: the fleet's, by way of the plane."""

    def __call__(self, *, recipe: str = "", key: str = "") -> Built | None:
        """The engine of a recipe or a key; None where there is none, or nobody can be asked."""
        ...


def nowhere(*, recipe: str = "", key: str = "") -> Built | None:
    """Nobody else has built anything."""
    return None


def run_build(
    spec: BuildSpec,
    source: Source,
    workdir: Path,
    *,
    calibration: CalibrationSet = OWN,
    cache: Cache | None = None,
    elsewhere: Elsewhere = nowhere,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[str, float], None] = lambda _phase, _fraction: None,
    cancel: threading.Event | None = None,
) -> Built:
    """Builds at one precision, or finds the engine in the cache or in the fleet.

    Args:
        spec: what to build; not ``auto``, which is :func:`model_compiler.search.run_search`'s.
        source: gives the ONNX file; asked only where something has to be built.
        workdir: an empty folder for this build; afterwards it holds ``build.log``, and the engine where there is no
            cache.
        calibration: what ranges for eight bits are learnt from.
        cache: where finished engines are.
        elsewhere: who else may have built it.
        limits: for the process.
        progress: told the phase and how far the whole is, 0 to 1.
        cancel: set it to stop the build.

    Raises:
        BuildCrashError: the process died, or ran out of memory or time.
        CanceledError: ``cancel`` was set.
        FleetError: what the pipeline raised.
    """
    cancel = cancel or threading.Event()
    recipe = recipe_of(spec, calibration)
    if (hit := found_before(recipe, cache, elsewhere)) is not None:
        progress("cached", 1.0)
        return hit
    engine = workdir / "engine"
    job = {
        "spec": spec.to_json(),
        "source": str(source()),
        "engine": str(engine),
        "calibration": {"name": calibration.name, "folder": str(calibration.folder) if calibration.folder else None},
        "memory_bytes": limits.memory_bytes,
        "parent": os.getpid(),
    }
    (workdir / "job.json").write_text(json.dumps(job))
    hits: dict[str, Built] = {}

    def known(key: str) -> bool:
        found = cache.get(key) if cache is not None else None
        found = found or elsewhere(key=key)
        if found is not None:
            hits[key] = found
        return found is not None

    done = _watched(workdir, limits, progress, cancel, known)
    key = str(done["key"])
    if key in hits:
        if cache is not None and hits[key].engine is not None:
            cache.remember(recipe, key)
        return dataclasses.replace(hits[key], recipe=recipe)
    if cache is not None:
        return cache.put(key, recipe, engine, done["report"])
    size = engine.stat().st_size
    return Built(key, engine, digest_file(engine), size, done["report"], cached=False, recipe=recipe)


def recipe_of(spec: BuildSpec, calibration: CalibrationSet) -> str:
    """The key of what goes in, on this machine.

    Raises:
        UnsupportedError: this machine cannot build for the target.
        InvalidInputError: the calibration set is needed and cannot be used.
    """
    entry = check_buildable(target(spec.target), machine())
    return spec.recipe(versions_for(entry), pictures_digest(spec.precision, calibration))


def found_before(recipe: str, cache: Cache | None, elsewhere: Elsewhere) -> Built | None:
    """The engine that a recipe led to before, here or elsewhere."""
    hit = cache.find(recipe) if cache is not None else None
    return hit or elsewhere(recipe=recipe)


def log_tail(workdir: Path) -> str:
    """The ends of the logs of all builds below a folder, the newest last, at most 64 KiB; empty where none began."""
    parts = []
    logs = sorted(workdir.rglob("build.log"), key=lambda path: path.stat().st_mtime_ns)
    for path in logs:
        head = f"== {path.parent.name}\n" if len(logs) > 1 else ""
        parts.append(head.encode() + _end(path, LOG_TAIL_BYTES // len(logs) - len(head)))
    return b"\n".join(parts).decode(errors="replace")


def _end(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - size, 0))
            return file.read()
    except OSError:
        return b""


def _watched(
    workdir: Path,
    limits: Limits,
    progress: Callable[[str, float], None],
    cancel: threading.Event,
    known: Callable[[str], bool],
) -> dict[str, Any]:
    """Runs the worker to its end."""
    # One thread a library: a build is one of many things on its machine, and threads cost address space.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    last: dict[str, Any] = {}
    ended = threading.Event()
    with (workdir / "build.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "model_compiler.worker", str(workdir / "job.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )

    def read() -> None:
        assert process.stdout is not None  # noqa: S101  # both were asked for above
        assert process.stdin is not None  # noqa: S101
        try:
            with process.stdout, process.stdin:
                for line in process.stdout:
                    # A worker that is killed while it writes leaves half a line: its end says what happened.
                    with contextlib.suppress(ValueError, BrokenPipeError):
                        message = json.loads(line)
                        if "phase" in message:
                            progress(message["phase"], message["progress"])
                        elif "known" in message:
                            process.stdin.write(b"true\n" if known(message["known"]) else b"false\n")
                            process.stdin.flush()
                        else:
                            last.update(message)
        finally:
            ended.set()

    reader = threading.Thread(target=read, name="build-progress", daemon=True)
    reader.start()
    deadline = time.monotonic() + limits.seconds
    timed_out = False
    try:
        while not ended.wait(0.1):
            if cancel.is_set():
                process.terminate()
                ended.wait(_GRACE_S)
                break
            if time.monotonic() > deadline:
                timed_out = True
                break
    finally:
        if not ended.is_set():
            _kill(process)
        code = process.wait()
        reader.join()
    if "done" in last and not timed_out:
        return dict(last["done"])
    if cancel.is_set():
        raise CanceledError("the build was canceled")
    if timed_out:
        raise BuildCrashError(
            f"the build took longer than {limits.seconds:g} s", remedy="give the builder more time with --build-seconds"
        )
    raise _error(last.get("error"), code, log_tail(workdir), limits)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group: what the worker started goes with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _error(said: dict[str, Any] | None, code: int, log: str, limits: Limits) -> FleetError:
    """What a failed worker's words, exit code and log come to."""
    own = catalogue().get(said["kind"], InternalError) if said else None
    # An allocation that fails comes back as whatever the library that it failed in makes of it.
    vague = own is None or own is InternalError or own is BuildCrashError or not issubclass(own, FleetError)
    if said and own and not vague and not (own is BuildError or _NO_MEMORY.search(said["message"])):
        return _told(own, said)
    text = (said["message"] if said else "") + log[-4096:]
    if _NO_MEMORY.search(text) or own is BuildCrashError:
        return BuildCrashError(
            f"the build needs more than {limits.memory_bytes >> 20} MiB of memory",
            remedy="give the builder more with --build-memory-mb, or build a smaller input size",
        )
    if said and own:
        return _told(own, said)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    hint = ", perhaps by the system for want of memory" if code == -signal.SIGKILL else ""
    return BuildCrashError(f"the build's process ended {how}{hint}", remedy="see the end of the build's log")


def _told(own: type[FleetError], said: dict[str, Any]) -> FleetError:
    error = own(said["message"], remedy=said["remedy"] or "see the build's log")
    if isinstance(error, GateRefusedError):
        error.report = said.get("report", {})
    return error
