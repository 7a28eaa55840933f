"""The cache gives back what went in, whole, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskfleet.ids import digest_bytes
from model_compiler.cache import Built, Cache

KEYS = [digest_bytes(b"key %d" % i) for i in range(4)]
RECIPES = [digest_bytes(b"recipe %d" % i) for i in range(4)]


def put(cache: Cache, tmp_path: Path, i: int, data: bytes = b"engine") -> Built:
    path = tmp_path / f"engine-{i}"
    path.write_bytes(data)
    return cache.put(KEYS[i], RECIPES[i], path, {"number": i})


def test_what_was_put_is_found_by_key_and_by_recipe(tmp_path: Path) -> None:
    built = put(Cache(tmp_path / "cache"), tmp_path, 0)
    again = Cache(tmp_path / "cache")
    for found in (again.get(KEYS[0]), again.find(RECIPES[0])):
        assert found is not None
        assert found.cached
        assert not built.cached
        assert found.engine.read_bytes() == b"engine"
        assert (found.engine_digest, found.report) == (digest_bytes(b"engine"), {"number": 0})
    assert again.get(KEYS[1]) is None
    assert again.find(RECIPES[1]) is None


def _flip(folder: Path) -> None:
    data = bytearray((folder / "engine").read_bytes())
    data[3] ^= 1
    (folder / "engine").write_bytes(data)


BROKEN = {
    "a flipped bit": _flip,
    "a missing engine": lambda folder: (folder / "engine").unlink(),
    "a report cut short": lambda folder: (folder / "entry.json").write_text('{"engine_dig'),
    "a report of another kind": lambda folder: (folder / "entry.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_an_entry_that_does_not_hold_is_no_entry(tmp_path: Path, damage: object) -> None:
    cache = Cache(tmp_path / "cache")
    put(cache, tmp_path, 0)
    damage(tmp_path / "cache" / "entries" / KEYS[0].removeprefix("sha256:"))  # type: ignore[operator]
    assert cache.find(RECIPES[0]) is None
    put(cache, tmp_path, 0, b"built again")
    found = cache.find(RECIPES[0])
    assert found is not None
    assert found.engine.read_bytes() == b"built again"


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=4000)
    for i in range(3):
        put(cache, tmp_path, i, bytes(1000))
        os.utime(tmp_path / "cache" / "entries" / KEYS[i].removeprefix("sha256:"), ns=(i, i))
    assert cache.find(RECIPES[0]) is not None  # used just now
    put(cache, tmp_path, 3, bytes(1000))
    assert [cache.get(key) is not None for key in KEYS] == [True, False, True, True]
    assert cache.find(RECIPES[1]) is None
    assert len(list((tmp_path / "cache" / "recipes").iterdir())) == 3


def test_an_entry_larger_than_the_cache_still_serves_its_own_build(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=10)
    assert put(cache, tmp_path, 0, bytes(1000)).engine.exists()


def test_what_a_killed_builder_left_half_done_is_swept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    staged = tmp_path / "cache" / "entries" / ".staged-abc"
    staged.mkdir()
    (staged / "engine").write_bytes(b"half")
    put(cache, tmp_path, 0)
    assert not staged.exists()
