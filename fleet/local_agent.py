"""An agent of one's own for one job: started with a package, without a control plane, gone afterwards.

Example::

    with local_agent(package) as address, MaskingClient(address) as client:
        …
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from fleet.client import MaskingClient
from fleet.processes import Child
from maskfleet.errors import FleetError, UnavailableError

START_S = 60.0
_LOOK_S = 0.05


@contextlib.contextmanager
def local_agent(package: Path, *, threads: int | None = None) -> Iterator[str]:
    """Runs an agent with a package for the block; its address. Everything that it keeps is deleted afterwards.

    Args:
        package: directory with ``manifest.json`` and ``engines/``.
        threads: of its engine; None for its own choice.

    Raises:
        UnavailableError: it did not start, or cannot serve the package; the message says why.
    """
    with tempfile.TemporaryDirectory(prefix="maskfleet-", ignore_cleanup_errors=True) as directory:
        arguments = ["--data-dir", f"{directory}/agent", "--package", str(package.absolute())]
        with agent_process(arguments, log=Path(directory) / "agent.log", threads=threads) as address:
            yield address


@contextlib.contextmanager
def agent_process(arguments: Sequence[str], *, log: Path, threads: int | None = None) -> Iterator[str]:
    """Runs an agent until the end of the block; its address, once it has a release to mask with.

    Raises:
        UnavailableError: it did not start, or has nothing to mask with.
    """
    command = [sys.executable, "-m", "edge_agent", *arguments, "--listen", "127.0.0.1:0"]
    command += ["--metrics-listen", "127.0.0.1:0", *(["--threads", str(threads)] if threads else [])]
    with Child("the local agent", lambda _ready: command, log=log) as child:
        address = str(child.wait_ready(START_S)["listen"])
        _wait_serving(address, child)
        yield address


def _wait_serving(address: str, child: Child) -> None:
    end = time.monotonic() + START_S
    pause = threading.Event()
    with MaskingClient(address, timeout=timedelta(seconds=5)) as client:
        while True:
            with contextlib.suppress(UnavailableError):
                if client.is_serving():
                    return
            if child.pid is None or time.monotonic() > end:
                said = "; ".join(child.log_tail(3))[-400:]
                raise UnavailableError(
                    f"the local agent has no release to mask with ({said or 'it says nothing'})",
                    remedy="compile the model again, or give another one with --model",
                )
            pause.wait(_LOOK_S)


def serves(address: str) -> bool:
    """Whether an agent is there and has a release to mask with."""
    try:
        with MaskingClient(address, timeout=timedelta(seconds=1)) as client:
            return client.is_serving()
    except FleetError:
        return False
