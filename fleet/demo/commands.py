"""``fleet`` commands as a person would type them, each a process of its own.

Example::

    fleet = Commands({"XDG_CONFIG_HOME": "demo-out/data/config"})
    release = fleet.run("releases", "create", "--model", "centerface", …, "-o", "json").result
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from maskfleet.errors import CanceledError, InternalError

PROGRAM = (sys.executable, "-m", "fleet.cli")
TIMEOUT_S = 150.0


@dataclasses.dataclass(frozen=True)
class Ran:
    """A command that was run.

    Attributes:
        command: as a person types it.
        seconds: how long it took.
        said: what it said while it ran.
        result: what it printed, where that is JSON, or the last of its JSON lines; None otherwise.
        code: its exit code.
    """

    command: str
    seconds: float
    said: tuple[str, ...]
    result: Any
    code: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the result."""
        return {"command": self.command, "seconds": round(self.seconds, 2), "said": list(self.said)}


class Commands:
    """Runs commands.

    Args:
        environment: added to this process's own.
        before: is told the command line, right before it runs.
        line: is told each line that a command says while it runs.
        after: is told how it went.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        before: Callable[[str], None] = lambda _command: None,
        line: Callable[[str], None] = lambda _line: None,
        after: Callable[[Ran], None] = lambda _ran: None,
    ) -> None:
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._before = before
        self._line = line
        self._after = after
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Ends what runs, from another thread; nothing is started any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def run(self, *arguments: str, codes: Collection[int] = (0,)) -> Ran:
        """Runs ``fleet`` with these arguments and waits for it. It is stopped where this is interrupted.

        Args:
            arguments: after ``fleet``.
            codes: exit codes that are expected.

        Raises:
            InternalError: it ended with another code, or took too long.
            CanceledError: it was stopped.
        """
        command = shown(arguments)
        self._before(command)
        started = time.monotonic()
        with self._lock:
            if self._stopped:
                raise CanceledError(f"`{command}` was not started any more")
            process = subprocess.Popen(
                [*PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=self._environment,
            )
            self._running.add(process)
        said: list[str] = []
        listener = threading.Thread(target=self._listen, args=(process, said), daemon=True)
        listener.start()
        late = threading.Timer(TIMEOUT_S, process.terminate)
        late.daemon = True
        late.start()
        try:
            output = process.stdout.read() if process.stdout is not None else ""
            code = process.wait()
            listener.join()
        finally:
            late.cancel()
            with self._lock:
                self._running.discard(process)
            if process.poll() is None:
                process.terminate()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        ran = Ran(command, time.monotonic() - started, tuple(said), _parsed(output), code)
        if self._stopped:
            raise CanceledError(f"`{command}` was stopped")
        if code not in codes:
            why = next((text.removeprefix("error: ") for text in reversed(said) if text.startswith("error: ")), "")
            raise InternalError(f"`{command}` ended with code {code}" + (f" ({why})" if why else ""))
        self._after(ran)
        return ran

    def _listen(self, process: subprocess.Popen[str], said: list[str]) -> None:
        if process.stderr is None:
            return
        for text in process.stderr:
            if line := text.rstrip():
                said.append(line)
                self._line(line)


def shown(arguments: Sequence[str]) -> str:
    """The command line as a person types it."""
    return shlex.join(["fleet", *arguments])


def _parsed(output: str) -> Any:
    for text in (output, output.strip().rsplit("\n", 1)[-1]):
        try:
            return json.loads(text)
        except ValueError:
            continue
    return None
