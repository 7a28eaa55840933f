"""Two places for a release on disk, and which of them a restart comes back on.

::

    updates/
      state.json          what is committed, accepted and settled; written atomically
      a/ b/               engine, manifest.json, assignment.json, target
      parts/<digest>      a download that is not whole yet

Rules:

- Only :meth:`Slots.commit` moves the committed slot, by one atomic write; what is cut off before it changes nothing.
- The committed slot is never written to. The standby slot is filled in a directory of its own and renamed into place.
- What a dead process left behind is removed at the next start; only downloads stay, to be gone on with.

Example::

    slots = Slots.opened(data.path / "updates")
    slots.fill(engine, target="ort-cpu", manifest=envelope, assignment=assignment)
    slots.commit(goal)
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from maskfleet.datadir import sync_directory, write_atomic
from maskfleet.errors import DiskFullError, FleetError, IntegrityError, OutputError, PreconditionError
from maskfleet.ids import check_digest
from maskfleet.manifest import EngineEntry, Envelope, Manifest, release_digest

NAMES = ("a", "b")


@dataclasses.dataclass(frozen=True)
class Record:
    """What ``state.json`` holds.

    Attributes:
        committed: ``a``, ``b``, or empty where nothing is committed.
        generation: the highest generation that was accepted.
        generation_digest: the release that it meant.
        settled_generation: the last generation that ended.
        settled_state: ``committed``, ``reverted``, or ``empty`` where nothing is wanted and nothing there.
        settled_reason: why it was reverted.
        settled_release_id: what it was about.
        attempts: loads that were begun for the accepted generation and did not end.
        starts: how often the agent has started.
    """

    committed: str = ""
    generation: int = 0
    generation_digest: str = ""
    settled_generation: int = 0
    settled_state: str = ""
    settled_reason: str = ""
    settled_release_id: str = ""
    attempts: int = 0
    starts: int = 0


@dataclasses.dataclass(frozen=True)
class Content:
    """What a slot holds. Nothing of it is verified yet.

    Attributes:
        engine: path of the engine.
        entry: the engine in the manifest.
        manifest: the release.
        envelope: the manifest as it was signed.
        release_digest: of the manifest's payload.
    """

    engine: Path
    entry: EngineEntry
    manifest: Manifest
    envelope: Envelope
    release_digest: str


class Slots:
    """The two slots. Used by one thread."""

    def __init__(self, path: Path, record: Record) -> None:
        self._path = path
        self._record = record

    @classmethod
    def opened(cls, path: Path) -> Slots:
        """Opens the slots, removes what a dead process left behind and counts the start.

        Raises:
            PreconditionError: the state file cannot be read.
            OutputError: the directory cannot be written.
        """
        try:
            (path / "parts").mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OutputError(f"{path} cannot be made ({error.strerror})", remedy="check the data directory") from None
        slots = cls(path, _read(path / "state.json"))
        for leftover in path.iterdir():
            if leftover.name not in (*NAMES, "parts", "state.json"):
                _remove(leftover)
        slots._save(starts=slots._record.starts + 1)
        return slots

    @property
    def record(self) -> Record:
        """What is committed, accepted and settled."""
        return self._record

    @property
    def standby(self) -> str:
        """The slot that may be written to."""
        return "b" if self._record.committed == "a" else "a"

    def part(self, digest: str) -> Path:
        """Where a download is kept until it is whole. Parts of other downloads are removed."""
        name = check_digest(digest).partition(":")[2]
        parts = self._path / "parts"
        for other in parts.iterdir():
            if other.name != name:
                _remove(other)
        return parts / name

    def content(self, slot: str) -> Content | None:
        """What a slot holds; None where it is empty or damaged.

        Raises:
            OutputError: the system cannot read it just now, which says nothing of what it holds.
        """
        here = self._path / slot
        gone = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        with _readable(here), contextlib.suppress(*gone, ValueError, FleetError):
            envelope = Envelope.from_bytes((here / "manifest.json").read_bytes())
            manifest = Manifest.from_payload(envelope.payload)
            entry = manifest.engine_for([(here / "target").read_text()])
            if (here / "engine").stat().st_size == entry.size_bytes:
                return Content(here / "engine", entry, manifest, envelope, release_digest(envelope.payload))
        return None

    def engines(self) -> dict[str, str]:
        """Engine digest by slot, for the slots that hold something."""
        found: dict[str, str] = {}
        for slot in NAMES:
            with contextlib.suppress(OutputError):  # what cannot be read cannot be taken from there
                content = self.content(slot)
                if content is not None:
                    found[slot] = content.entry.digest
        return found

    def accept(self, generation: int, digest: str) -> None:
        """Takes a generation for the highest one."""
        self._save(generation=generation, generation_digest=digest, attempts=0)

    def begin_attempt(self) -> None:
        """Notes that a load begins: one that never ends is a process that died of it."""
        self._save(attempts=self._record.attempts + 1)

    def end_attempts(self) -> None:
        """Notes that the agent ended in order in the midst of an attempt, which is nobody's fault."""
        if self._record.attempts:
            self._save(attempts=0)

    def fill(self, engine: Path, *, target: str, manifest: bytes, assignment: bytes, keep: bool = False) -> Content:
        """Puts a release into the standby slot.

        Args:
            engine: the whole engine; moved, or linked where ``keep`` is set.
            target: that it is for.
            manifest: envelope of the release.
            assignment: envelope of the assignment.
            keep: the file belongs to another slot and stays.

        Raises:
            DiskFullError: there is no room.
            OutputError: the slot cannot be written.
            IntegrityError: the pieces do not belong together.
        """
        slot, fresh = self._path / self.standby, self._path / f"{self.standby}.new"
        with disk_errors(slot):
            _remove(fresh)
            fresh.mkdir(mode=0o700)
            for name, data in (("manifest.json", manifest), ("assignment.json", assignment)):
                write_atomic(fresh / name, data)
            write_atomic(fresh / "target", target.encode())
            if keep:
                try:
                    os.link(engine, fresh / "engine")
                except OSError:  # a file system without links
                    shutil.copyfile(engine, fresh / "engine")
            else:
                engine.replace(fresh / "engine")
            sync_directory(fresh)
            _remove(slot)
            fresh.rename(slot)
            sync_directory(self._path)
        content = self.content(self.standby)
        if content is None:
            raise IntegrityError("the standby slot cannot be read back", remedy="check the disk for errors")
        return content

    def empty_standby(self) -> None:
        """Removes what the standby slot holds."""
        _remove(self._path / self.standby)

    def commit(self, generation: int, release_id: str) -> None:
        """Makes the standby slot the committed one."""
        self._settle(generation, release_id, "committed", "", committed=self.standby)

    def keep(self, generation: int, release_id: str) -> None:
        """Settles a generation that wants what is committed already, or nothing where nothing is."""
        committed = self._record.committed
        self._settle(generation, release_id, "committed" if committed else "empty", "", committed=committed)

    def revert(self, generation: int, release_id: str, reason: str) -> None:
        """Settles a generation that was refused; the committed slot stays."""
        self._settle(generation, release_id, "reverted", reason, committed=self._record.committed)

    def disown(self) -> None:
        """Gives up a committed slot whose content is damaged, so that the plane's wish is carried out anew."""
        broken = self._record.committed
        self._save(committed="", settled_generation=0, settled_state="", settled_reason="", settled_release_id="")
        if broken:
            _remove(self._path / broken)

    def _settle(self, generation: int, release_id: str, state: str, reason: str, *, committed: str) -> None:
        self._save(
            committed=committed,
            settled_generation=generation,
            settled_state=state,
            settled_reason=reason,
            settled_release_id=release_id,
            attempts=0,
        )

    def _save(self, **fields: object) -> None:
        record = dataclasses.replace(self._record, **fields)  # type: ignore[arg-type]  # fields of Record, by name
        with disk_errors(self._path / "state.json"):
            write_atomic(self._path / "state.json", json.dumps(dataclasses.asdict(record)).encode())
        self._record = record


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the system's errors at a path into the catalogue's.

    Raises:
        DiskFullError: there is no room.
        OutputError: anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no room left to write {path}", remedy="free some space on that disk") from None
        raise OutputError(f"{path} cannot be written ({error.strerror})", remedy="check the disk") from None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({error.strerror})", remedy="check the disk") from None


def _read(path: Path) -> Record:
    if not path.exists():
        return Record()
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise TypeError("no object")
        known = {field.name: values[field.name] for field in dataclasses.fields(Record) if field.name in values}
        record = Record(**known)
        if record.committed not in ("", *NAMES) or not isinstance(record.generation, int):
            raise ValueError("values out of range")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PreconditionError(
            f"{path} cannot be read ({error})", remedy="restore it, or start with a new data directory"
        ) from None
    return record


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
