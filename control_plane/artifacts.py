"""Files by digest in the data directory: models on their way in, engines on their way out.

- ``artifacts/<64 hex>`` is whole and checked; ``artifacts/partial/<64 hex>`` is on its way. The file system is the
  record: there is no second one that could differ from it.
- What was received of an upload stays for the next try, until its digest turns out wrong or the disk is full.
- One upload at a time of one digest; a second waits, and finds the file there.
- Whoever asks whether a file is there is told of whole ones only: a file that was damaged on the disk is dropped, so
  that it is uploaded again. Each is read for that once, and again when it changes.

Example::

    artifacts = Artifacts(data.path / "artifacts")
    size = await artifacts.receive(digest, size_bytes, offset, chunks)
    async for chunk in artifacts.chunks(digest, offset=0): ...
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from maskfleet.datadir import sync_directory
from maskfleet.errors import (
    CapacityError,
    DigestMismatchError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from maskfleet.ids import check_digest, digest_file
from maskfleet.logs import get_logger

MAX_BYTES = 2 << 30
MAX_CHUNK = 1 << 20
READ_CHUNK = 256 << 10
_SCRATCH = ".scratch-"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Artifacts:
    """The folder of artifacts. One instance a folder.

    Args:
        folder: where; made where it is missing.
        max_bytes: the largest file that is taken.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._partial = folder / "partial"
        self._partial.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._partial.glob(f"{_SCRATCH}*"):  # of a plane that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._max_bytes = max_bytes
        self._checked: dict[str, tuple[int, int, int]] = {}
        self._uploads: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def path(self, digest: str) -> Path:
        """Where a whole file is.

        Raises:
            InvalidInputError: that is no digest.
            NotFoundError: it is not there.
        """
        path = self._folder / check_digest(digest).removeprefix("sha256:")
        if not path.is_file():
            raise NotFoundError(f"there is no artifact {digest}", remedy="upload it first")
        return path

    def size(self, digest: str) -> int | None:
        """Size of a whole file in bytes; None where it is not there."""
        try:
            return self.path(digest).stat().st_size
        except NotFoundError:
            return None

    async def whole(self, digest: str) -> int | None:
        """Size in bytes of a file that is what its digest says; None where it is not there, or was damaged and is gone
        now.

        Raises:
            InvalidInputError: that is no digest.
        """
        try:
            path = self.path(digest)
            mark = _mark(path)
            if self._checked.get(path.name) == mark:
                return mark[0]
            actual = await asyncio.to_thread(digest_file, path)
            if _mark(path) != mark:  # somebody dropped it, and it came again: ask anew
                return await self.whole(digest)
            if actual == digest:
                self._checked[path.name] = mark
                return mark[0]
        except (NotFoundError, FileNotFoundError):
            return None
        get_logger(__name__).error("an artifact was damaged on the disk and is dropped", digest=digest, found=actual)
        self.drop(digest)
        return None

    def drop(self, digest: str) -> None:
        """Removes a file; one that is being read is read to its end.

        Raises:
            InvalidInputError: that is no digest.
        """
        name = check_digest(digest).removeprefix("sha256:")
        self._checked.pop(name, None)
        (self._folder / name).unlink(missing_ok=True)

    def received(self, digest: str) -> int:
        """How many bytes of an upload are there."""
        try:
            return (self._partial / check_digest(digest).removeprefix("sha256:")).stat().st_size
        except FileNotFoundError:
            return 0

    async def receive(self, digest: str, size_bytes: int, offset: int, chunks: AsyncIterator[bytes]) -> int:
        """Takes a file in.

        Args:
            digest: of the whole file.
            size_bytes: of the whole file.
            offset: where the chunks begin; at most :meth:`received`.
            chunks: at most 1 MiB each.

        Returns:
            The size.

        Raises:
            InvalidInputError: digest, size or offset is wrong, a chunk is too large, or there are more bytes than said.
            CapacityError: the file is larger than is taken.
            DiskFullError: there is no room; nothing is kept.
            PreconditionError: the chunks ended early; what came is kept.
            DigestMismatchError: the whole has another digest; nothing is kept.
        """
        name = check_digest(digest).removeprefix("sha256:")
        if not 0 < size_bytes <= self._max_bytes:
            if size_bytes <= 0:
                raise InvalidInputError("the upload says that it is empty", remedy="say the size of the whole file")
            raise CapacityError(
                f"{size_bytes} bytes are more than the plane takes", remedy=f"keep files under {self._max_bytes} bytes"
            )
        turn = self._uploads.setdefault(name, asyncio.Lock())
        async with turn:
            if (there := await self.whole(digest)) is not None:
                return there
            partial = self._partial / name
            try:
                await self._write(partial, size_bytes, offset, chunks)
                await self._finish(partial, digest)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise UnavailableError(
                        f"the artifact cannot be written ({error.strerror})", remedy="check the plane's data directory"
                    ) from None
                partial.unlink(missing_ok=True)
                raise DiskFullError(
                    f"the plane's disk has no room for {size_bytes} bytes", remedy="make room there and try again"
                ) from None
            return size_bytes

    async def _write(self, partial: Path, size_bytes: int, offset: int, chunks: AsyncIterator[bytes]) -> None:
        there = partial.stat().st_size if partial.exists() else 0
        if offset > there:
            raise InvalidInputError(
                f"the upload begins at {offset}, the plane has {there} bytes", remedy=f"begin at {there} or before"
            )
        if shutil.disk_usage(self._partial).free < size_bytes - offset:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file = await asyncio.to_thread(_opened_at, partial, offset)
        position = offset
        try:
            async for chunk in chunks:
                if len(chunk) > MAX_CHUNK:
                    raise InvalidInputError(
                        f"a chunk has {len(chunk)} bytes", remedy=f"send at most {MAX_CHUNK} bytes at a time"
                    )
                position += len(chunk)
                if position > size_bytes:
                    raise InvalidInputError(
                        f"the upload has more than the {size_bytes} bytes that it said", remedy="say the right size"
                    )
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_synced, file)
        finally:
            with contextlib.suppress(OSError):
                file.close()
        if position < size_bytes:
            raise PreconditionError(
                f"the upload ended at {position} of {size_bytes} bytes", remedy="go on from there: what came is kept"
            )

    async def _finish(self, partial: Path, digest: str) -> None:
        actual = await asyncio.to_thread(digest_file, partial)
        if actual != digest:
            partial.unlink(missing_ok=True)
            raise DigestMismatchError(
                f"the upload has digest {actual}, it was announced as {digest}", remedy="send the whole file again"
            )
        final = partial.replace(self._folder / partial.name)
        self._checked[final.name] = _mark(final)
        await asyncio.to_thread(sync_directory, self._folder)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the same disk for the block."""
        with tempfile.TemporaryDirectory(dir=self._partial, prefix=_SCRATCH) as folder:
            yield Path(folder)

    async def keep(self, path: Path) -> str:
        """Takes in a file that was made in :meth:`scratch`; its digest."""
        digest = await asyncio.to_thread(digest_file, path)
        path.replace(self._folder / digest.removeprefix("sha256:"))
        await asyncio.to_thread(sync_directory, self._folder)
        return digest

    async def chunks(self, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        """A file's bytes from an offset, 256 KiB at a time.

        Raises:
            InvalidInputError: no digest, or the offset is behind the end.
            NotFoundError: it is not there.
        """
        path = self.path(digest)
        size = path.stat().st_size
        if offset > size:
            raise InvalidInputError(f"offset {offset} is behind the end at {size}", remedy="begin at 0")
        file = await asyncio.to_thread(path.open, "rb")
        try:
            file.seek(offset)
            while chunk := await asyncio.to_thread(file.read, READ_CHUNK):
                yield chunk
        finally:
            file.close()


def _mark(path: Path) -> tuple[int, int, int]:
    """What changes when a file does: its size, when it was written, and which it is."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _opened_at(path: Path, offset: int) -> BinaryIO:
    """The file, cut at an offset and open behind it."""
    file = path.open("r+b") if path.exists() else path.open("x+b")
    file.truncate(offset)
    file.seek(offset)
    return file


def _synced(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
