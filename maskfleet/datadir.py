"""One data directory per process, with a lock and a format version.

>>> # with DataDir.opened(Path("/var/lib/maskfleet/agent"), owner="edge_agent") as data: data.path / "slots"
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from maskfleet.errors import OutputError, PreconditionError

FORMAT = 1


class DataDir:
    """A directory that this process holds alone, mode 0700.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, *, owner: str) -> Iterator[DataDir]:
        """Makes the directory where it is missing, locks it and checks its format.

        Raises:
            PreconditionError: another process holds it, it belongs to another kind of
                process, or a newer version wrote it.
            OutputError: it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutputError(
                f"the data directory {path} cannot be used ({error.strerror})", remedy="choose one with --data-dir"
            ) from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PreconditionError(
                    f"another process uses the data directory {path}",
                    remedy="stop it, or choose another directory with --data-dir",
                ) from None
            cls._check_format(path, owner)
            try:
                if path.stat().st_mode & 0o077:  # it was there before
                    path.chmod(0o700)
            except OSError as error:
                raise OutputError(
                    f"the data directory {path} cannot be closed to others ({error.strerror})",
                    remedy="choose one of this user's own with --data-dir",
                ) from None
            yield cls(path)
        finally:
            os.close(lock)

    @staticmethod
    def _check_format(path: Path, owner: str) -> None:
        mark = path / "format.json"
        if not mark.exists():
            write_atomic(mark, json.dumps({"owner": owner, "format": FORMAT}).encode())
            return
        try:
            found = json.loads(mark.read_bytes())
            version, holder = int(found["format"]), str(found["owner"])
        except (ValueError, KeyError, TypeError) as error:
            raise PreconditionError(
                f"{mark} cannot be read ({error})", remedy="restore it, or start with a new directory"
            ) from None
        if holder != owner:
            raise PreconditionError(f"{path} belongs to {holder}", remedy="choose another directory with --data-dir")
        if version > FORMAT:
            raise PreconditionError(
                f"{path} has format {version}; this version knows {FORMAT}", remedy="install a newer maskfleet"
            )


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Writes a file so that it is whole or not there, also after a power cut: temporary file, fsync, rename, fsync."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes a rename or unlink in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
