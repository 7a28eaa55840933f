"""A stack that outlives the terminal: who runs it, how it is started and how it is stopped.

Who runs a stack holds a lock in its data directory as long as it runs, with its process id in the file. The id is
believed only while the lock is held, so nobody else's process is ever stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maskfleet.errors import OutputError, PreconditionError, UnavailableError

LOCK = "up.lock"
LOG = Path("logs") / "up.log"
STOP_S = 40.0
"""A stack stops its agents and builder together (8 s each at most), then its plane."""

_LOOK_S = 0.1


@contextlib.contextmanager
def holding(data_dir: Path) -> Iterator[None]:
    """Says for the block that this process runs the stack in a directory.

    Raises:
        PreconditionError: another process does.
        OutputError: the directory cannot be used.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OutputError(
            f"the data directory {data_dir} cannot be used ({error.strerror})", remedy="choose one with --data-dir"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreconditionError(
                f"a stack runs in {data_dir} already (process {_pid(lock) or 'unknown'})",
                remedy="stop it with `fleet down`, or choose another directory with --data-dir",
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
        os.truncate(lock, 0)
    finally:
        os.close(lock)


def stop(data_dir: Path, *, timeout: float = STOP_S) -> int | None:
    """Stops the stack in a directory and waits until it has; its process id, None where none runs.

    Args:
        data_dir: where it keeps everything.
        timeout: seconds.

    Raises:
        UnavailableError: it does not stop in time.
    """
    try:
        lock = os.open(data_dir / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _free(lock):
            return None
        pid = _pid(lock)
        if pid is None:
            raise UnavailableError(f"the stack in {data_dir} is just starting", remedy="try again")
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + timeout
        pause = threading.Event()
        while not _free(lock):
            if time.monotonic() > end:
                raise UnavailableError(
                    f"the stack in {data_dir} (process {pid}) did not stop within {timeout:.0f} s",
                    remedy=f"see {data_dir / LOG}",
                )
            pause.wait(_LOOK_S)
        return pid
    finally:
        os.close(lock)


def start(data_dir: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs ``fleet up`` without a terminal; what its ready line said.

    Args:
        data_dir: where the stack keeps everything; the log goes there too.
        arguments: of ``fleet up``.

    Raises:
        UnavailableError: it did not start; the message says why.
        PreconditionError: one runs there already.
        OutputError: the log cannot be written.
    """
    log = data_dir / LOG
    with holding(data_dir):
        pass  # a stack that runs is said at once, in its own words
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = log.open("a+")
    except OSError as error:
        raise OutputError(f"{log} cannot be written ({error.strerror})", remedy="choose --data-dir") from None
    command = [sys.executable, "-m", "fleet.cli", "up", *arguments, "-o", "json"]
    with file:
        begin = file.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
        )
        try:
            with process.stdout or contextlib.nullcontext() as out:
                line = out.readline() if out is not None else ""
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        if line:
            process.returncode = 0  # it goes on without us, which is no oversight
            return dict(json.loads(line))
        process.wait()
        file.seek(begin)
        said = [text.removeprefix("error: ") for text in file.read().splitlines() if text.startswith("error: ")]
    raise UnavailableError(f"the stack did not start ({said[-1] if said else 'it said nothing'})", remedy=f"see {log}")


def _free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _pid(lock: int) -> int | None:
    text = os.pread(lock, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isdigit() and int(text) > 1 else None
