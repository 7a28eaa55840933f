"""Artifacts: nothing half done, whatever an upload does."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.artifacts import Artifacts
from maskfleet.errors import CapacityError, DiskFullError, FleetError, InvalidInputError, NotFoundError
from maskfleet.ids import digest_bytes

DATA = b"0123456789" * 100
DIGEST = digest_bytes(DATA)


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    assert await artifacts.receive(DIGEST, len(DATA), 0, pieces(DATA[:300], DATA[300:])) == len(DATA)
    assert b"".join([c async for c in artifacts.chunks(DIGEST)]) == DATA
    assert b"".join([c async for c in artifacts.chunks(DIGEST, offset=990)]) == DATA[990:]
    assert [c async for c in artifacts.chunks(DIGEST, offset=len(DATA))] == []
    assert list((tmp_path / "partial").iterdir()) == []


async def test_two_uploads_of_one_file_at_once_both_end_well(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    sizes = await asyncio.gather(*(artifacts.receive(DIGEST, len(DATA), 0, pieces(DATA)) for _ in range(3)))
    assert sizes == [len(DATA)] * 3


BAD = {
    "no digest": (("x", 10, 0, b"x"), InvalidInputError, "no digest"),
    "a digest that leads elsewhere": (("sha256:../../etc", 10, 0, b"x"), InvalidInputError, "no digest"),
    "no size": ((DIGEST, 0, 0, DATA), InvalidInputError, "empty"),
    "too large": ((DIGEST, 3 << 30, 0, DATA), CapacityError, "more than the plane takes"),
    "an offset behind what is there": ((DIGEST, len(DATA), 5, DATA), InvalidInputError, "begins at 5"),
    "more bytes than said": ((DIGEST, 10, 0, DATA), InvalidInputError, "more than the 10"),
    "a chunk that is too large": ((DIGEST, 9 << 20, 0, b"x" * ((1 << 20) + 1)), InvalidInputError, "a chunk has"),
}


@pytest.mark.parametrize(("upload", "cls", "text"), BAD.values(), ids=BAD.keys())
async def test_a_bad_upload_is_refused(
    tmp_path: Path, upload: tuple[str, int, int, bytes], cls: type[FleetError], text: str
) -> None:
    digest, size, offset, data = upload
    with pytest.raises(cls, match=text):
        await Artifacts(tmp_path).receive(digest, size, offset, pieces(data))
    assert [p for p in tmp_path.iterdir() if p.name != "partial"] == []


async def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield DATA[:500]
        raise OSError(errno.ENOSPC, "No space left on device")

    artifacts = Artifacts(tmp_path)
    with pytest.raises(DiskFullError, match="no room"):
        await artifacts.receive(DIGEST, len(DATA), 0, failing())
    assert artifacts.received(DIGEST) == 0
    assert artifacts.size(DIGEST) is None


async def test_a_file_for_which_there_is_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(100, 90, 10))
    with pytest.raises(DiskFullError):
        await Artifacts(tmp_path).receive(DIGEST, len(DATA), 0, pieces(DATA))


async def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=DIGEST):
        Artifacts(tmp_path).path(DIGEST)


async def test_a_file_that_was_damaged_on_the_disk_is_uploaded_again(tmp_path: Path) -> None:
    await Artifacts(tmp_path).receive(DIGEST, len(DATA), 0, pieces(DATA))
    artifacts = Artifacts(tmp_path)  # of a plane that was started again
    assert await artifacts.whole(DIGEST) == len(DATA)
    artifacts.path(DIGEST).write_bytes(b"x" + DATA[1:])
    assert await artifacts.whole(DIGEST) is None
    assert await artifacts.receive(DIGEST, len(DATA), 0, pieces(DATA)) == len(DATA)
    assert artifacts.path(DIGEST).read_bytes() == DATA


async def test_an_upload_takes_the_place_of_a_damaged_file(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    await artifacts.receive(DIGEST, len(DATA), 0, pieces(DATA))
    artifacts.path(DIGEST).write_bytes(DATA[:500])
    await asyncio.gather(*(artifacts.receive(DIGEST, len(DATA), 0, pieces(DATA)) for _ in range(3)))
    assert artifacts.path(DIGEST).read_bytes() == DATA


async def test_a_file_is_read_once_for_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(tmp_path)
    await artifacts.receive(DIGEST, len(DATA), 0, pieces(DATA))
    again = Artifacts(tmp_path)
    assert await again.whole(DIGEST) == len(DATA)
    monkeypatch.setattr("control_plane.artifacts.digest_file", lambda _path: pytest.fail("it was read again"))
    assert await artifacts.whole(DIGEST) == await again.whole(DIGEST) == len(DATA)
