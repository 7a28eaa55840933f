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
from typing import Any

from maskfleet.errors import BuildCrashError, BuildError, CanceledError, FleetError, InternalError, catalogue
from maskfleet.ids import digest_file
from maskfleet.targets import check_buildable, target
from model_compiler.cache import Built, Cache
from model_compiler.precision import pictures_digest
from model_compiler.spec import BuildSpec
from model_compiler.tools import installed_versions, machine

LOG_TAIL_BYTES = 64 << 10
_GRACE_S = 2.0
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


def run_build(
    spec: BuildSpec,
    source: Path,
    workdir: Path,
    *,
    cache: Cache | None = None,
    limits: Limits = Limits(),
    progress: Callable[[str, float], None] = lambda _phase, _fraction: None,
    cancel: threading.Event | None = None,
) -> Built:
    """Builds, or finds the engine in the cache.

    Args:
        spec: what to build.
        source: the ONNX file.
        workdir: an empty folder for this build; afterwards it holds ``build.log``, and the engine where there is no
            cache.
        cache: where finished engines are.
        limits: for the process.
        progress: told the phase and how far the whole is, 0 to 1.
        cancel: set it to stop the build.

    Raises:
        BuildCrashError: the process died, or ran out of memory or time.
        CanceledError: ``cancel`` was set.
        FleetError: what the pipeline raised.
    """
    cancel = cancel or threading.Event()
    versions = installed_versions()
    check_buildable(target(spec.target), machine())
    recipe = spec.recipe(versions, pictures_digest(spec.precision))
    if cache is not None and (hit := cache.find(recipe)) is not None:
        progress("cached", 1.0)
        return hit
    engine = workdir / "engine"
    job = {
        "spec": spec.to_json(),
        "source": str(source),
        "engine": str(engine),
        "cache": str(cache.root) if cache is not None else None,
        "memory_bytes": limits.memory_bytes,
        "parent": os.getpid(),
    }
    (workdir / "job.json").write_text(json.dumps(job))
    done = _watched(workdir, limits, progress, cancel)
    key = str(done["key"])
    if done["cached"] and cache is not None and (hit := cache.get(key)) is not None:
        cache.remember(recipe, key)
        return hit
    if cache is not None:
        return cache.put(key, recipe, engine, done["report"])
    return Built(key, engine, digest_file(engine), engine.stat().st_size, done["report"], cached=False)


def log_tail(workdir: Path) -> str:
    """The end of a build's log, at most 64 KiB; empty where it never began."""
    try:
        with (workdir / "build.log").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - LOG_TAIL_BYTES, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _watched(
    workdir: Path, limits: Limits, progress: Callable[[str, float], None], cancel: threading.Event
) -> dict[str, Any]:
    """Runs the worker to its end."""
    # One thread a library: a build is one of many things on its machine, and threads cost address space.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    last: dict[str, Any] = {}
    ended = threading.Event()
    with (workdir / "build.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "model_compiler.worker", str(workdir / "job.json")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )

    def read() -> None:
        assert process.stdout is not None  # noqa: S101  # it was asked for above
        try:
            with process.stdout:
                for line in process.stdout:
                    # A worker that is killed while it writes leaves half a line: its end says what happened.
                    with contextlib.suppress(ValueError):
                        message = json.loads(line)
                        if "phase" in message:
                            progress(message["phase"], message["progress"])
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


def _error(said: dict[str, str] | None, code: int, log: str, limits: Limits) -> FleetError:
    """What a failed worker's words, exit code and log come to."""
    own = catalogue().get(said["kind"], InternalError) if said else None
    # An allocation that fails comes back as whatever the library that it failed in makes of it.
    vague = own is None or own is InternalError or own is BuildCrashError or not issubclass(own, FleetError)
    if said and own and not vague and not (own is BuildError or _NO_MEMORY.search(said["message"])):
        return own(said["message"], remedy=said["remedy"])
    text = (said["message"] if said else "") + log[-4096:]
    if _NO_MEMORY.search(text) or own is BuildCrashError:
        return BuildCrashError(
            f"the build needs more than {limits.memory_bytes >> 20} MiB of memory",
            remedy="give the builder more with --build-memory-mb, or build a smaller input size",
        )
    if said and own:
        return own(said["message"], remedy=said["remedy"] or "see the build's log")
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    hint = ", perhaps by the system for want of memory" if code == -signal.SIGKILL else ""
    return BuildCrashError(f"the build's process ended {how}{hint}", remedy="see the end of the build's log")
