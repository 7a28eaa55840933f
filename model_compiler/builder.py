"""The builder: leases builds from the plane, one after the other, until it is stopped.

- A lease is kept by heartbeats, which carry phase and progress; the answer may say to stop. A lease that the plane no
  longer knows is work of somebody else by now: the build is stopped and nothing more is said of it.
- Files are fetched and sent from where they stopped, and held against their digests.
- A plane that cannot be reached is tried again, ever slower, for ever. A token that it refuses ends the builder.
- A builder that is told to stop gives its lease back at once, so that another can take it.

Example::

    Builder(Plane(address, token), data.path, Settings(), stop).run()
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_agent.updates.download import check, download
from maskfleet.errors import (
    AuthenticationError,
    BuildCrashError,
    CanceledError,
    CapacityError,
    DeadlineError,
    FleetError,
    ForbiddenError,
    IntegrityError,
    InternalError,
    NotFoundError,
    OutputError,
    PreconditionError,
    UnavailableError,
)
from maskfleet.logs import correlated, get_logger
from maskfleet.targets import buildable
from model_compiler import calibration
from model_compiler.cache import Built, Cache
from model_compiler.plane import BuilderFacts, Lease, Plane
from model_compiler.process import Limits, log_tail
from model_compiler.search import run_search
from model_compiler.tools import facts, installed_versions, machine

_UNREACHABLE = (UnavailableError, DeadlineError)
_RETRYABLE = (BuildCrashError, CapacityError, DeadlineError, IntegrityError, OutputError, UnavailableError)
_KEPT_MODELS = 16


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a builder works.

    Attributes:
        wait_s: how long a request for work may wait at the plane, at most 30.
        backoff_s: least and most seconds between tries to reach the plane.
        limits: of one build.
        cache_bytes: how much finished engines may take.
        calibration_dir: folder of calibration sets, as NAME/VERSION; None where there are none.
    """

    wait_s: float = 20.0
    backoff_s: tuple[float, float] = (0.5, 15.0)
    limits: Limits = Limits()
    cache_bytes: int = 8 << 30
    calibration_dir: Path | None = None


class Builder:
    """Leases and does builds.

    Args:
        plane: where work comes from.
        folder: for models, engines and builds under way.
        settings: how it works.
        stop: set it to end the builder.
    """

    def __init__(self, plane: Plane, folder: Path, settings: Settings, stop: threading.Event) -> None:
        self._plane, self._settings, self._stop = plane, settings, stop
        self._models, self._work = folder / "models", folder / "work"
        shutil.rmtree(self._work, ignore_errors=True)  # of a builder that was killed
        for path in (self._models, self._work):
            path.mkdir(parents=True, exist_ok=True)
        self._cache = Cache(folder / "cache", max_bytes=settings.cache_bytes)
        self._versions = installed_versions()
        self._targets = [entry.name for entry in buildable(machine())]
        self.builder_id = f"{socket.gethostname()}-{os.getpid()}"
        self._log = get_logger(__name__)

    @property
    def targets(self) -> list[str]:
        """What this machine can build."""
        return list(self._targets)

    def run(self) -> None:
        """Works until it is stopped.

        Raises:
            AuthenticationError, ForbiddenError: the plane refuses the token.
        """
        least, most = self._settings.backoff_s
        pause = least
        while not self._stop.is_set():
            try:
                lease = self._plane.lease(self._facts(), wait=self._settings.wait_s, stop=self._stop)
                pause = least
            except (AuthenticationError, ForbiddenError):
                raise
            except FleetError as error:
                self._log.warning("no work to be had", error=str(error), again_in_s=pause)
                self._stop.wait(pause)
                pause = min(pause * 2, most)
                continue
            if lease is not None:
                with correlated(lease.correlation_id or lease.build_id):
                    self._do(lease)

    def _facts(self) -> BuilderFacts:
        """What this builder is and can do, now: calibration sets may have come."""
        return BuilderFacts(
            builder_id=self.builder_id,
            targets=self._targets,
            versions=self._versions,
            platform=platform.platform(),
            machine=facts(),
            calibration_sets=calibration.sets_in(self._settings.calibration_dir),
        )

    def _do(self, lease: Lease) -> None:
        """One build, from lease to end."""
        log = self._log.bind(build=lease.build_id, release=lease.release_id, target=lease.message.target)
        log.info("build leased", model=lease.model)
        workdir = Path(tempfile.mkdtemp(dir=self._work, prefix="build-"))
        pulse = _Pulse(self._plane, lease, self._stop)
        try:
            with pulse.beating():
                built, failure = self._built(lease, workdir, pulse)
            if pulse.lost:
                log.warning("the lease is gone; somebody else has the build")
                return
            tail = log_tail(workdir)
            if built is not None:
                report = {**built.report, "builder_id": self.builder_id, "cached": built.cached}
                self._said(lease, lambda: self._plane.succeed(lease.id, built, report, tail))
                log.info("build succeeded", engine=built.engine_digest, cached=built.cached)
            elif failure is not None:
                again = isinstance(failure, _RETRYABLE) or type(failure) is InternalError or self._stop.is_set()
                kind, reason = type(failure).__name__, str(failure)
                self._said(lease, lambda: self._plane.fail(lease.id, kind, reason, tail, retryable=again))
                log.warning("build failed", kind=kind, reason=reason, retryable=again)
        except FleetError as error:
            log.warning("the end of the build could not be told", error=str(error))
        finally:
            shutil.rmtree(workdir, ignore_errors=True)

    def _built(self, lease: Lease, workdir: Path, pulse: _Pulse) -> tuple[Built | None, FleetError | None]:
        """The engine, uploaded, or why there is none."""
        try:
            spec = lease.spec()
            source: list[Path] = []

            def fetched() -> Path:  # only where something is built, and then once
                if not source:
                    pulse.say("download", 0.0)
                    source.append(self._model(spec.model_digest, pulse))
                return source[0]

            built = run_search(
                spec,
                fetched,
                workdir,
                calibration=calibration.named(spec.calibration, self._settings.calibration_dir),
                cache=self._cache,
                elsewhere=lambda recipe="", key="": self._plane.find_engine(lease.id, recipe, key),
                limits=self._settings.limits,
                progress=lambda phase, fraction: pulse.say(phase, 0.05 + 0.85 * fraction),
                cancel=pulse.cancel,
            )
            if (engine := built.engine) is not None:
                pulse.say("upload", 0.9)
                self._again(lambda: self._plane.upload(engine, built.engine_digest, pulse.cancel.is_set), pulse)
            return built, None
        except FleetError as error:
            if self._stop.is_set() and isinstance(error, CanceledError):
                return None, CanceledError("the builder was stopped", remedy="another builder takes the build over")
            return None, error
        except OSError as error:
            return None, OutputError(
                f"the builder's data directory cannot be used ({error.strerror})", remedy="make room there"
            )

    def _model(self, digest: str, pulse: _Pulse) -> Path:
        """The source file, from this machine or from the plane."""
        path = self._models / f"{digest.removeprefix('sha256:')}.onnx"
        if path.exists():
            try:
                check(path, digest)
                os.utime(path)
                return path
            except IntegrityError:
                path.unlink()
        part = path.with_suffix(".part")

        def fetch() -> None:
            complete, size = self._plane.stat(digest)
            if not complete:
                raise NotFoundError(f"the plane has no model {digest[:19]}", remedy="add the model again")
            download(digest, size, part, self._plane.fetch, stopping=pulse.cancel.is_set)

        self._again(fetch, pulse)
        try:
            check(part, digest)
        except IntegrityError:
            part.unlink()
            raise
        part.replace(path)
        old = sorted(self._models.glob("*.onnx"), key=lambda p: p.stat().st_mtime_ns)[:-_KEPT_MODELS]
        for stale in old:
            stale.unlink(missing_ok=True)
        return path

    def _again(self, call: Callable[[], None], pulse: _Pulse) -> None:
        """Calls until the plane was reached, or the build is to stop."""
        pause, most = self._settings.backoff_s
        while True:
            try:
                call()
                return
            except _UNREACHABLE:
                if pulse.cancel.wait(pause):
                    raise CanceledError("the build was canceled") from None
                pause = min(pause * 2, most)

    def _said(self, lease: Lease, call: Callable[[], None]) -> None:
        """Tells the plane how a build ended, for as long as the lease may hold."""
        end = time.monotonic() + (2.0 if self._stop.is_set() else lease.ttl.total_seconds())
        pause, most = self._settings.backoff_s
        while True:
            try:
                call()
                return
            except _UNREACHABLE:
                if time.monotonic() + pause > end:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, most)


class _Pulse:
    """Heartbeats of one lease, from a thread of their own.

    Attributes:
        cancel: set once the build is to stop, whoever says so.
        lost: the plane no longer knows the lease.
    """

    def __init__(self, plane: Plane, lease: Lease, stop: threading.Event) -> None:
        self._plane, self._lease, self._stop = plane, lease, stop
        self._every = lease.ttl.total_seconds() / 3
        self._lock = threading.Lock()
        self._state = ("download", 0.0)
        self._ended = threading.Event()
        self._news = threading.Event()
        self.cancel = threading.Event()
        self.lost = False

    def say(self, phase: str, progress: float) -> None:
        """What the next heartbeat carries; a new phase is told soon."""
        with self._lock:
            new = phase != self._state[0]
            self._state = (phase, min(progress, 1.0))
        if new:
            self._news.set()

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Beats for the block."""
        threads = [
            threading.Thread(target=self._beat, name="heartbeat", daemon=True),
            threading.Thread(target=self._heed, name="heed-stop", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._news.set()
            for thread in threads:
                thread.join()

    def _beat(self) -> None:
        while not self._ended.is_set():
            self._news.clear()
            with self._lock:
                phase, progress = self._state
            try:
                if self._plane.heartbeat(self._lease.id, phase, progress):
                    self.cancel.set()
            except (NotFoundError, PreconditionError):
                self.lost = True
                self.cancel.set()
                return
            except FleetError:
                pass  # the plane is away; the lease may outlive that
            # Half a second apart at least, so that a quick build does not flood the plane.
            if not self._ended.wait(min(0.5, self._every)):
                self._news.wait(max(self._every - 0.5, 0.0))

    def _heed(self) -> None:
        while not self._ended.wait(0.1):
            if self._stop.is_set():
                self.cancel.set()
                return
