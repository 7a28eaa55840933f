"""Processes of ours as children: started, awaited until ready, kept running, stopped.

Rules:

- A child says that it is ready by one JSON line on stdout, ``{"event": "ready", …}``; its stderr goes to a log file.
- A child that ends before it was ever ready has failed to start; the last ``error:`` line of its log says why.
- A child that was ready and ends is started again, after a pause that doubles with each early end. It is given what its
  ready line said, so that it can come back on the same address.
- Only the processes that were started here are ever stopped: SIGTERM first, SIGKILL after a grace.
- Children are in process groups of their own: Ctrl-C in a terminal reaches the parent alone, which stops them in order.
- A parent that is killed takes its children along (:mod:`fleet.lifeline`).

Example::

    with Child("agent", lambda ready: [sys.executable, "-m", "edge_agent", …], log=Path("agent.log")) as child:
        address = child.wait_ready(timeout=30)["listen"]
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fleet import lifeline
from maskfleet.errors import CanceledError, FleetError, InvalidInputError, OutputError, UnavailableError

STOP_GRACE_S = 8.0
"""A process drains for up to 5 s; what still runs after this is killed."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A child that ran this long has its pauses start over."""

_TAIL_BYTES = 16 << 10

Ready = Mapping[str, Any]
Arguments = Callable[[Ready | None], Sequence[str]]


def pause_before_restart(ends: int) -> float:
    """Seconds to wait before a child that has ended ``ends`` times in a row (from 1) is started again."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (ends - 1)))


class Child:
    """One process. Safe to use from several threads.

    Args:
        name: for messages, as ``agent-1``.
        arguments: makes the command line; it is given the last ready line, or None at the first start.
        log: file that stderr is appended to.
        restart: start it again when it ends after having been ready.
        report: is told in a sentence what happens; called from a thread of this child.
        environment: added to this process's own.
    """

    def __init__(
        self,
        name: str,
        arguments: Arguments,
        *,
        log: Path,
        restart: bool = False,
        report: Callable[[str], None] = lambda _text: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.ends = 0
        self._arguments = arguments
        self._restart = restart
        self._report = report
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._ready: Ready | None = None
        self._is_ready = False
        self._failed: FleetError | None = None
        self._log_start = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Child:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        with self._changed:
            return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def state(self) -> str:
        """``starting``, ``ready``, ``restarting`` or ``stopped``."""
        if self._stopping.is_set() or self._failed is not None:
            return "stopped"
        if self.pid is None:
            return "restarting" if self._ready is not None else "starting"
        return "ready" if self._is_ready else "starting"

    @property
    def ready(self) -> Ready:
        """What its last ready line said; empty before the first."""
        with self._changed:
            return self._ready or {}

    @property
    def address(self) -> str:
        """Where it listens, as ``127.0.0.1:7710``."""
        return str(self.ready.get("listen", ""))

    def start(self) -> None:
        """Starts the process and the thread that looks after it.

        Raises:
            OutputError: its log cannot be written.
            UnavailableError: the program does not exist.
        """
        started = threading.Event()
        failures: list[Exception] = []

        def run() -> None:
            # The process ends with the thread that starts it: this one waits for its end.
            try:
                self._spawn()
            except Exception as error:  # noqa: BLE001  # raised below, in the caller's thread
                failures.append(error)
                return
            finally:
                started.set()
            self._look_after()

        self._thread = threading.Thread(target=run, name=f"child-{self.name}", daemon=True)
        self._thread.start()
        started.wait()
        if failures:
            raise failures[0]

    def wait_ready(self, timeout: float) -> Ready:
        """Waits until it is ready; what its ready line said.

        Args:
            timeout: seconds.

        Raises:
            UnavailableError: it ended before, or takes too long.
            InvalidInputError: it refused its command line or configuration.
            CanceledError: :meth:`stop` was called meanwhile.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_ready or self._failed is not None or self._stopping.is_set(), timeout
            )
            if self._failed is not None:
                raise self._failed
            if self._stopping.is_set():
                raise CanceledError(f"{self.name} was stopped before it was ready")
            if not self._is_ready:
                raise UnavailableError(
                    f"{self.name} was not ready within {timeout:.0f} s", remedy=f"its log is {self.log}"
                )
            return self._ready or {}

    def kill(self) -> None:
        """Ends the process at once, as a crash would (SIGKILL). It is started again where it restarts."""
        with self._changed:
            if self._process is not None:
                self._process.kill()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM and returns."""
        self._stopping.set()
        with self._changed:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            self._changed.notify_all()

    def stop(self, grace: float = STOP_GRACE_S) -> int | None:
        """Stops the process: SIGTERM, and SIGKILL after a grace. Its exit code; None where it never ran.

        Args:
            grace: seconds.
        """
        self.ask_to_stop()
        with self._changed:
            process = self._process
        if process is None:
            return None
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            self._report(f"{self.name} did not stop within {grace:.0f} s and was killed")
            process.kill()
            process.wait()
        if self._thread is not None:
            self._thread.join()
        return process.returncode

    def log_tail(self, lines: int = 20) -> list[str]:
        """The last lines of its log, of this start only."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]
        return []

    def _spawn(self) -> None:
        with self._changed:
            if self._stopping.is_set():
                return
            arguments = list(self._arguments(self._ready))
            if shutil.which(arguments[0]) is None:
                raise UnavailableError(f"{arguments[0]} cannot be started", remedy="install maskfleet again")
            if sys.platform == "linux":
                tie = [sys.executable, "-I", "-S", lifeline.__file__, str(os.getpid())]
                arguments = [*tie, *arguments]
            try:
                self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with self.log.open("ab") as log:
                    self._log_start = log.tell()
                    self._process = subprocess.Popen(
                        arguments,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        env=self._environment,
                        process_group=0,
                    )
            except OSError as error:
                raise OutputError(
                    f"the log {self.log} cannot be written ({error.strerror})", remedy="choose another directory"
                ) from None

    def _look_after(self) -> None:
        while True:
            process = self._process
            if process is None or process.stdout is None:
                return
            started = time.monotonic()
            with process.stdout:
                for line in process.stdout:
                    self._read(line)
            code = process.wait()
            with self._changed:
                was_ready, self._is_ready = self._is_ready, False
                if not was_ready and self._ready is None and not self._stopping.is_set():
                    self._failed = self._why(code)
                self._changed.notify_all()
            if self._stopping.is_set() or self._failed is not None:
                return
            if not self._restart:
                self._report(f"{self.name} ended with code {code}; its log is {self.log}")
                return
            self.ends = 1 if time.monotonic() - started > STEADY_S else self.ends + 1
            pause = pause_before_restart(self.ends)
            self._report(f"{self.name} ended with code {code} and starts again in {pause:g} s; its log is {self.log}")
            if self._stopping.wait(pause):
                return
            try:
                self._spawn()
            except FleetError as error:
                with self._changed:
                    self._failed = error
                    self._changed.notify_all()
                self._report(f"{self.name} cannot be started again: {error}")
                return

    def _read(self, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if not isinstance(said, dict) or said.get("event") != "ready":
            return
        with self._changed:
            again = self._ready is not None
            self._ready, self._is_ready = said, True
            self._changed.notify_all()
        if again:
            self._report(f"{self.name} is back")

    def _why(self, code: int) -> FleetError:
        """What an end before the first ready line means."""
        said = [line for line in self.log_tail(200) if line.startswith("error: ")]
        if said:
            kind = InvalidInputError if code == 2 else UnavailableError
            return kind(f"{self.name} did not start ({said[-1].removeprefix('error: ')})")
        last = next((line.strip()[:300] for line in reversed(self.log_tail()) if line.strip()), "it said nothing")
        return UnavailableError(f"{self.name} ended with code {code} at its start ({last})", remedy=f"see {self.log}")


def stop_all(children: Sequence[Child], grace: float = STOP_GRACE_S) -> None:
    """Stops children together, so that their graces do not add up."""
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.stop(grace)
