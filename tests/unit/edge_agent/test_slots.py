"""Two places for a release on disk: whatever is cut off, a restart comes back on the committed one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.updates import slots as slots_module
from edge_agent.updates.slots import Slots
from maskfleet.errors import DiskFullError, OutputError, PreconditionError
from maskfleet.ids import digest_bytes
from maskfleet.manifest import MANIFEST_TYPE, EngineEntry, Envelope, Manifest
from maskfleet.policy import MaskPolicy


def release(name: str, engine: bytes) -> bytes:
    """A manifest's envelope; slots do not look at signatures."""
    entry = EngineEntry("ort-cpu", digest_bytes(engine), len(engine), "onnxruntime", "1", "fp32", "engine")
    manifest = Manifest(name, 1, "", "m", 1, "", "centerface", 640, 352, MaskPolicy(), (entry,))
    return Envelope(manifest.to_payload(), MANIFEST_TYPE, {}).to_bytes()


def put(slots: Slots, tmp_path: Path, name: str, engine: bytes) -> None:
    file = tmp_path / "engine"
    file.write_bytes(engine)
    slots.fill(file, target="ort-cpu", manifest=release(name, engine), assignment=b"assignment")


def committed(slots: Slots) -> str:
    content = slots.content(slots.record.committed)
    return content.manifest.release_id if content else ""


def test_a_release_is_committed_and_found_again(tmp_path: Path) -> None:
    slots = Slots.opened(tmp_path / "updates")
    assert (slots.record.committed, slots.record.starts, slots.standby) == ("", 1, "a")
    put(slots, tmp_path, "r-1", b"one")
    slots.accept(4, "sha256:one")
    slots.commit(4, "r-1")
    again = Slots.opened(tmp_path / "updates")
    assert committed(again) == "r-1"
    assert (again.standby, again.record.generation, again.record.settled_state) == ("b", 4, "committed")
    assert again.record.starts == 2


def test_the_release_before_stays_in_the_standby_slot(tmp_path: Path) -> None:
    slots = Slots.opened(tmp_path / "updates")
    for number, engine in ((1, b"one"), (2, b"two")):
        put(slots, tmp_path, f"r-{number}", engine)
        slots.commit(number, f"r-{number}")
    assert committed(slots) == "r-2"
    assert slots.engines() == {"a": digest_bytes(b"one"), "b": digest_bytes(b"two")}


def test_an_engine_is_shared_between_slots_without_a_copy(tmp_path: Path) -> None:
    slots = Slots.opened(tmp_path / "updates")
    put(slots, tmp_path, "r-1", b"one")
    slots.commit(1, "r-1")
    mine = slots.content("a")
    assert mine is not None
    other = slots.fill(mine.engine, target="ort-cpu", manifest=release("r-2", b"one"), assignment=b"", keep=True)
    assert other.engine.samefile(mine.engine)
    slots.commit(2, "r-2")
    put(slots, tmp_path, "r-3", b"three")
    assert committed(slots) == "r-2"
    assert other.engine.read_bytes() == b"one"


def test_the_standby_slots_own_engine_can_be_taken_again(tmp_path: Path) -> None:
    slots = Slots.opened(tmp_path / "updates")
    put(slots, tmp_path, "r-1", b"one")
    content = slots.content("a")
    assert content is not None
    again = slots.fill(content.engine, target="ort-cpu", manifest=release("r-2", b"one"), assignment=b"", keep=True)
    assert (again.manifest.release_id, again.engine.read_bytes()) == ("r-2", b"one")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("nth", range(1, 14))
def test_a_kill_at_any_moment_of_an_update_comes_back_on_the_committed_slot(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots.opened(tmp_path / "updates")
    put(slots, tmp_path, "r-1", b"one")
    slots.commit(1, "r-1")
    (tmp_path / "engine").write_bytes(b"two")
    left = nth

    def dying(real):  # type: ignore[no-untyped-def]
        def step(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal left
            left -= 1
            if not left:
                raise Killed
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        for name in ("mkdir", "replace", "rename", "unlink"):
            patch.setattr(Path, name, dying(getattr(Path, name)))
        for name in ("write_atomic", "sync_directory"):
            patch.setattr(slots_module, name, dying(getattr(slots_module, name)))
        patch.setattr(slots_module.shutil, "rmtree", dying(slots_module.shutil.rmtree))
        try:
            slots.accept(2, "sha256:two")
            slots.begin_attempt()
            engine = tmp_path / "engine"
            slots.fill(engine, target="ort-cpu", manifest=release("r-2", b"two"), assignment=b"")
            slots.commit(2, "r-2")
            finished = True
        except Killed:
            finished = False
    again = Slots.opened(tmp_path / "updates")
    assert committed(again) == ("r-2" if finished else "r-1")
    assert {p.name for p in (tmp_path / "updates").iterdir()} <= {"a", "b", "parts", "state.json"}
    put(again, tmp_path, "r-3", b"three")
    again.commit(3, "r-3")
    assert committed(again) == "r-3"


def test_only_the_wanted_download_is_kept(tmp_path: Path) -> None:
    slots = Slots.opened(tmp_path / "updates")
    one, two = digest_bytes(b"one"), digest_bytes(b"two")
    slots.part(one).write_bytes(b"o")
    assert Slots.opened(tmp_path / "updates").part(one).read_bytes() == b"o"
    assert not slots.part(two).exists()
    assert not (tmp_path / "updates" / "parts" / one[7:]).exists()


def test_a_damaged_slot_is_empty(tmp_path: Path) -> None:
    slots = Slots.opened(tmp_path / "updates")
    put(slots, tmp_path, "r-1", b"one")
    slots.commit(1, "r-1")
    (tmp_path / "updates" / "a" / "manifest.json").write_bytes(b"{")
    assert slots.content("a") is None
    slots.disown()
    assert (slots.record.committed, slots.record.settled_generation) == ("", 0)


def test_a_slot_that_cannot_be_read_just_now_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots.opened(tmp_path / "updates")
    put(slots, tmp_path, "r-1", b"one")
    slots.commit(1, "r-1")

    def failing(*args: object) -> bytes:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(OutputError, match="cannot be read"):
            slots.content("a")
        assert slots.engines() == {}
    assert committed(slots) == "r-1"


def test_a_damaged_state_file_is_never_guessed_at(tmp_path: Path) -> None:
    Slots.opened(tmp_path / "updates")
    for damage in (b"{", b'{"committed": "c"}', b'{"generation": "many"}', b"[]"):
        (tmp_path / "updates" / "state.json").write_bytes(damage)
        with pytest.raises(PreconditionError, match=r"state\.json cannot be read"):
            Slots.opened(tmp_path / "updates")


def test_a_full_disk_leaves_the_state_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots.opened(tmp_path / "updates")
    before = slots.record

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(slots_module, "write_atomic", full)
    with pytest.raises(DiskFullError, match="no room left"):
        slots.accept(9, "sha256:nine")
    assert slots.record == before
