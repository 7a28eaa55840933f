"""Downloads an engine so that no byte is fetched twice and no wrong byte is kept.

The file grows in place under a name made of its digest; a process that dies leaves it, and the next one goes on from
its length. Only a file of the right length whose SHA-256 is right is ever used.

Example::

    download(goal_digest, size, part, fetch, progress=report, stopping=stop.is_set)
    check(part, goal_digest)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from edge_agent.updates.slots import disk_errors
from maskfleet.errors import (
    CanceledError,
    CapacityError,
    DigestMismatchError,
    DiskFullError,
    IntegrityError,
    UnavailableError,
)
from maskfleet.ids import digest_file

MAX_ENGINE_BYTES = 8 << 30
SPARE_BYTES = 32 << 20
"""Left free for the slots' own small files and everybody else."""


class Fetch(Protocol):
    """Where engines come from."""

    def __call__(self, digest: str, offset: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of a file from an offset: size of the whole file (0 where it is not said) and the next bytes.

        Raises:
            FleetError: as the other side or the way there says.
        """
        ...


def free_bytes(path: Path) -> int:
    """Room on the disk that holds a path."""
    return shutil.disk_usage(path).free


def download(
    digest: str,
    size: int,
    part: Path,
    fetch: Fetch,
    *,
    progress: Callable[[int], None] = lambda done: None,
    stopping: Callable[[], bool] = lambda: False,
    free: Callable[[Path], int] = free_bytes,
) -> None:
    """Fetches what is missing of a file.

    Args:
        digest: of the whole file.
        size: of the whole file, in bytes, as the signed manifest says.
        part: the file; what it holds already is kept.
        fetch: where the rest comes from.
        progress: told how many bytes are there.
        stopping: says that it should end; what was fetched stays.
        free: room on the disk.

    Raises:
        CapacityError: the manifest asks for more than :data:`MAX_ENGINE_BYTES`.
        DiskFullError: there is no room; the part is removed, so that nothing half done fills the disk.
        IntegrityError: the other side sends a file of another size; the part is removed.
        UnavailableError: the other side ended too early; what was fetched stays.
        CanceledError: ``stopping`` said so; what was fetched stays.
    """
    if not 0 < size <= MAX_ENGINE_BYTES:
        raise CapacityError(f"engine {digest[:19]} should have {size} bytes", remedy="build the release again")
    done = part.stat().st_size if part.exists() else 0
    if done > size:
        part.unlink()
        done = 0
    progress(done)
    if done == size:
        return
    room = free(part.parent)
    if room < size - done + SPARE_BYTES:
        part.unlink(missing_ok=True)
        raise DiskFullError(
            f"engine {digest[:19]} needs {(size - done + SPARE_BYTES) >> 20} MiB on the disk of {part.parent}, "
            f"which has {room >> 20} MiB free",
            remedy="free some space there; the download begins again by itself",
        )
    try:
        with disk_errors(part), part.open("ab", buffering=0) as file:
            for total, piece in fetch(digest, done):
                if total not in (0, size) or done + len(piece) > size:
                    raise IntegrityError(
                        f"engine {digest[:19]} comes with another size than the {size} bytes of its manifest",
                        remedy="upload it again, or build the release again",
                    )
                if stopping():
                    raise CanceledError(f"the download of engine {digest[:19]} was stopped")
                _write(file, piece)
                done += len(piece)
                progress(done)
            os.fsync(file.fileno())
    except (DiskFullError, IntegrityError):
        part.unlink(missing_ok=True)
        raise
    if done < size:
        raise UnavailableError(
            f"the download of engine {digest[:19]} ended after {done} of {size} bytes", remedy="it is gone on with"
        )


def _write(file: object, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[file.write(left) :]  # type: ignore[attr-defined]  # a raw file, which may write less than all


def check(path: Path, digest: str) -> None:
    """Holds a file against its digest.

    Raises:
        DigestMismatchError: it is something else.
        OutputError: it cannot be read.
    """
    with disk_errors(path):
        found = digest_file(path)
    if found != digest:
        raise DigestMismatchError(
            f"the engine's bytes have digest {found[:19]}, its manifest says {digest[:19]}",
            remedy="it is fetched again; if it stays so, build the release again",
        )
