"""Finished engines on disk, by the key of what went into them.

- An entry is a folder that appears whole (renamed into place) or not at all.
- An engine's digest is checked on a hit, once for each state of its file; an entry that does not hold is removed and
  built again.
- The cache is bounded; what was not used for longest goes first.

Example::

    cache = Cache(data.path / "cache", max_bytes=8 << 30)
    if (hit := cache.find(recipe)) is None:
        hit = cache.put(key, recipe, engine_path, report)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from maskfleet.datadir import sync_directory, write_atomic
from maskfleet.errors import DiskFullError, OutputError
from maskfleet.ids import check_digest, digest_file


@dataclasses.dataclass(frozen=True)
class Built:
    """A finished engine.

    Attributes:
        key: over what went in.
        engine: where it lies; None where it was built elsewhere and lies with the plane.
        engine_digest: its digest.
        size_bytes: its size.
        report: what was found while it was built.
        cached: it was not built now.
        recipe: over what went in before anything was computed.
    """

    key: str
    engine: Path | None
    engine_digest: str
    size_bytes: int
    report: dict[str, Any]
    cached: bool
    recipe: str = ""


class Cache:
    """A folder of finished engines. One process writes it, from any of its threads.

    Attributes:
        root: the folder; made where it is missing.
    """

    def __init__(self, root: Path, *, max_bytes: int = 8 << 30) -> None:
        self.root = root
        self._entries, self._recipes = root / "entries", root / "recipes"
        self._max_bytes = max_bytes
        self._writing = threading.Lock()
        self._digests: dict[Path, tuple[tuple[int, int, int], str]] = {}
        for folder in (self._entries, self._recipes):
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, recipe: str) -> Built | None:
        """The engine that a recipe led to before, or None."""
        try:
            note = json.loads(self._recipe(recipe).read_bytes())
            hit = self.get(check_digest(note["key"]))
            if hit is None:
                return None
            return dataclasses.replace(hit, recipe=recipe, report={**hit.report, **note.get("report", {})})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def get(self, key: str) -> Built | None:
        """The engine of a key, checked, or None."""
        folder = self._folder(key)
        try:
            entry = json.loads((folder / "entry.json").read_bytes())
            size = (folder / "engine").stat().st_size
            if self._digest(folder / "engine") != entry["engine_digest"]:
                raise ValueError("the engine's digest does not hold")
            built = Built(key, folder / "engine", entry["engine_digest"], size, entry["report"], cached=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)
        return built

    def remember(self, recipe: str, key: str, report: dict[str, Any] | None = None) -> None:
        """Notes that a recipe leads to a key, with what its report has beyond the engine's own."""
        write_atomic(self._recipe(recipe), json.dumps({"key": key, "report": report or {}}).encode())

    def put(self, key: str, recipe: str, engine: Path, report: dict[str, Any]) -> Built:
        """Takes an engine in. The file is moved where that is possible.

        Raises:
            DiskFullError: there is no room.
            OutputError: it cannot be written for another reason.
        """
        with self._writing:
            return self._put(key, recipe, engine, report)

    def _put(self, key: str, recipe: str, engine: Path, report: dict[str, Any]) -> Built:
        folder = self._folder(key)
        try:
            staged = Path(tempfile.mkdtemp(dir=self._entries, prefix=".staged-"))
            try:
                shutil.move(engine, staged / "engine")
                digest = digest_file(staged / "engine")
                stat = (staged / "engine").stat()
                entry = {"engine_digest": digest, "recipe": recipe, "report": report}
                write_atomic(staged / "entry.json", json.dumps(entry).encode())
                with (staged / "engine").open("rb") as file:
                    os.fsync(file.fileno())
                # Engines differ from build to build: the newer one replaces the older, whole.
                shutil.rmtree(folder, ignore_errors=True)
                staged.rename(folder)
                self._digests[folder / "engine"] = (stat.st_ino, stat.st_size, stat.st_mtime_ns), digest
                sync_directory(self._entries)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
            self.remember(recipe, key)
        except OSError as error:
            cls = DiskFullError if error.errno == 28 else OutputError
            raise cls(
                f"the engine cannot be kept ({error.strerror})", remedy="make room in the builder's data directory"
            ) from None
        self._bound(keep=folder)
        size = (folder / "engine").stat().st_size
        return Built(key, folder / "engine", digest, size, report, cached=False, recipe=recipe)

    def _digest(self, path: Path) -> str:
        stat = path.stat()
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known = self._digests.get(path)
        if known is None or known[0] != state:
            self._digests[path] = known = (state, digest_file(path))
        return known[1]

    def _bound(self, keep: Path) -> None:
        """Removes what was not used for longest until the rest fits, and recipes that lead nowhere."""
        sizes = {}
        for folder in self._entries.iterdir():
            if folder.name.startswith(".staged-"):
                shutil.rmtree(folder, ignore_errors=True)  # of a builder that was killed
                continue
            sizes[folder] = sum(file.stat().st_size for file in folder.iterdir())
        total = sum(sizes.values())
        for folder in sorted(sizes, key=lambda f: f.stat().st_mtime_ns):
            if total <= self._max_bytes:
                break
            if folder != keep:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]
        for recipe in self._recipes.glob("*.json"):
            try:
                alive = self._folder(json.loads(recipe.read_bytes())["key"]).is_dir()
            except (ValueError, KeyError, TypeError):
                alive = False
            if not alive:
                recipe.unlink(missing_ok=True)

    def _folder(self, key: str) -> Path:
        return self._entries / check_digest(key).removeprefix("sha256:")

    def _recipe(self, recipe: str) -> Path:
        return self._recipes / (check_digest(recipe).removeprefix("sha256:") + ".json")
