"""Downloads: nothing fetched twice, nothing wrong kept, nothing half done on a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.updates.download import SPARE_BYTES, check, download
from maskfleet.errors import (
    CanceledError,
    CapacityError,
    DigestMismatchError,
    DiskFullError,
    IntegrityError,
    UnavailableError,
)
from maskfleet.ids import digest_bytes

DATA = bytes(range(256)) * 40
DIGEST = digest_bytes(DATA)


class Source:
    """Serves DATA in pieces of 1,000 bytes and notes the offsets that it was asked for."""

    def __init__(self, data: bytes = DATA, *, total: int = 0, fail_after: int | None = None) -> None:
        self.data, self.total, self.fail_after = data, total or len(data), fail_after
        self.offsets: list[int] = []

    def __call__(self, digest: str, offset: int) -> Iterator[tuple[int, bytes]]:
        self.offsets.append(offset)
        for at in range(offset, len(self.data), 1000):
            if self.fail_after is not None and at - offset >= self.fail_after:
                raise UnavailableError("the plane is away")
            yield self.total if at == offset else 0, self.data[at : at + 1000]


def test_a_download_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    part, seen = tmp_path / "part", list[int]()
    with pytest.raises(UnavailableError):
        download(DIGEST, len(DATA), part, Source(fail_after=3000), progress=seen.append)
    source = Source()
    download(DIGEST, len(DATA), part, source, progress=seen.append)
    assert source.offsets == [3000]
    assert part.read_bytes() == DATA
    assert seen == sorted(seen)
    assert seen[-1] == len(DATA)
    check(part, DIGEST)


def test_a_whole_file_is_not_fetched_again(tmp_path: Path) -> None:
    part, source = tmp_path / "part", Source()
    part.write_bytes(DATA)
    download(DIGEST, len(DATA), part, source)
    assert source.offsets == []


def test_a_part_that_is_too_long_is_begun_anew(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(DATA + b"more")
    download(DIGEST, len(DATA), part, Source())
    assert part.read_bytes() == DATA


def test_an_end_that_comes_too_early_is_gone_on_with(tmp_path: Path) -> None:
    part = tmp_path / "part"
    with pytest.raises(UnavailableError, match="ended after 5000"):
        download(DIGEST, len(DATA), part, Source(DATA[:5000], total=len(DATA)))
    assert part.stat().st_size == 5000


@pytest.mark.parametrize(
    "source",
    [Source(total=len(DATA) + 1), Source(DATA + b"more", total=len(DATA))],
    ids=["another size is announced", "more bytes come than were announced"],
)
def test_another_size_than_the_manifests_is_refused(tmp_path: Path, source: Source) -> None:
    with pytest.raises(IntegrityError, match="another size"):
        download(DIGEST, len(DATA), tmp_path / "part", source)
    assert not (tmp_path / "part").exists()


def test_a_disk_without_room_is_not_begun_to_be_filled(tmp_path: Path) -> None:
    source = Source()
    with pytest.raises(DiskFullError, match="MiB free"):
        download(DIGEST, len(DATA), tmp_path / "part", source, free=lambda path: SPARE_BYTES)
    assert source.offsets == []
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_nothing_half_done(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.symlink_to("/dev/full")  # the system's own: every write fails with ENOSPC
    with pytest.raises(DiskFullError, match="free some space"):
        download(DIGEST, len(DATA), part, Source())
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_nobody_wants_any_more_stops_and_keeps_what_it_has(tmp_path: Path) -> None:
    part, seen = tmp_path / "part", list[int]()
    with pytest.raises(CanceledError):
        download(DIGEST, len(DATA), part, Source(), progress=seen.append, stopping=lambda: len(seen) > 2)
    assert part.stat().st_size == 2000


def test_a_manifest_with_an_absurd_size_is_refused(tmp_path: Path) -> None:
    for size in (0, 1 << 50):
        with pytest.raises(CapacityError):
            download(DIGEST, size, tmp_path / "part", Source())


def test_wrong_bytes_are_found(tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(DATA[:-1] + b"!")
    with pytest.raises(DigestMismatchError, match="its manifest says"):
        check(tmp_path / "engine", DIGEST)
