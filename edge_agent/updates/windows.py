"""Health windows: counted up frame by frame, closed at intervals, kept on disk until the plane has them.

A window is about one release: frames are counted under the release that masked them. An interval in which nothing
happened gives a window too, for a device that has nothing to do is not a silent one.

Example::

    counts = Counts(boot_id, starts=3, start_ns=now)
    counts.frame("r-3", outcome="MASKED", reason="DETECTED", stages_ms={"INFER": 12.5}, scores=[0.9])
    for window in counts.closed(now, serving="r-3", temperatures={}):
        store.add(window)
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from google.protobuf.message import DecodeError

from edge_agent.updates.codec import window_from, window_message
from edge_agent.updates.messages import Buckets, Window
from edge_agent.updates.slots import disk_errors
from maskfleet.errors import DamagedFileError, DiskFullError, OutputError
from maskfleet.logs import get_logger
from maskfleet.v1 import devices_pb2

_log = get_logger(__name__)

LATENCY_BOUNDS_MS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 33, 40, 50, 66, 100, 150, 250, 500, 1000, 2500)
CONFIDENCE_BOUNDS = tuple(round(i / 20, 2) for i in range(1, 20))
MAX_KEPT = 10_000
"""More than a day of windows of ten seconds; beyond it the oldest are lost."""

GUARDED = frozenset({"FULL_MASK", "DROPPED"})
ERRORS = frozenset({"ENGINE_FAILED", "DECODE_FAILED", "MASKING_FAILED", "NO_ENGINE", "SOURCE_FRAME"})


class Tally:
    """A histogram that is being filled."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value; bounds are inclusive."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> Buckets:
        """What was counted."""
        return Buckets(self._bounds, tuple(self._counts), self._sum)


class _PerRelease:
    def __init__(self) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()
        self.guarded: collections.Counter[str] = collections.Counter()
        self.stages: dict[str, Tally] = {}
        self.detections = 0
        self.confidence = Tally(CONFIDENCE_BOUNDS)


class Counts:
    """What has happened since the last window was closed. Safe to use from several threads."""

    def __init__(self, boot_id: str, *, starts: int, start_ns: int) -> None:
        self._boot_id = boot_id
        self._starts = starts
        self._start_ns = start_ns
        self._sequence = 0
        self._lock = threading.Lock()
        self._releases: dict[str, _PerRelease] = {}
        self._loads: collections.Counter[str] = collections.Counter()
        self._tests: collections.Counter[str] = collections.Counter()

    def frame(
        self, release: str, *, outcome: str, reason: str, stages_ms: Mapping[str, float], scores: Iterable[float]
    ) -> None:
        """Counts a frame.

        Args:
            release: that masked it; empty where there was none.
            outcome: as ``MASKED``.
            reason: as ``DETECTED``.
            stages_ms: milliseconds by stage.
            scores: of the detections.
        """
        with self._lock:
            mine = self._releases.setdefault(release, _PerRelease())
            mine.outcomes[outcome] += 1
            if reason in ERRORS:
                mine.errors[reason] += 1
            if outcome in GUARDED:
                mine.guarded[reason] += 1
            for stage, value in stages_ms.items():
                if stage not in mine.stages:
                    mine.stages[stage] = Tally(LATENCY_BOUNDS_MS)
                mine.stages[stage].add(value)
            for score in scores:
                mine.detections += 1
                mine.confidence.add(score)

    def noted(self, what: str, result: str) -> None:
        """Counts a load or a self-test."""
        with self._lock:
            if what == "engine_load":
                self._loads[result] += 1
            elif what == "self_test":
                self._tests[result] += 1

    def closed(self, now_ns: int, *, serving: str, temperatures: Mapping[str, float]) -> list[Window]:
        """Windows of the interval that ends now, the serving release's last; loads and self-tests go with that one.

        Args:
            now_ns: on the monotonic clock.
            serving: the release that serves; empty where none does.
            temperatures: degrees Celsius by sensor.
        """
        with self._lock:
            begin, self._start_ns = self._start_ns, now_ns
            releases, self._releases = self._releases, {}
            loads, self._loads = dict(self._loads), collections.Counter()
            tests, self._tests = dict(self._tests), collections.Counter()
            last = releases.pop(serving, None) or _PerRelease()
            windows = []
            for name, counts in (*releases.items(), (serving, last)):
                self._sequence += 1
                final = name == serving
                windows.append(
                    Window(
                        boot_id=self._boot_id,
                        sequence=self._sequence,
                        start_monotonic_ns=begin,
                        end_monotonic_ns=now_ns,
                        release_id=name,
                        frames_by_outcome=dict(counts.outcomes),
                        errors_by_kind=dict(counts.errors),
                        latency_ms_by_stage={stage: tally.buckets() for stage, tally in counts.stages.items()},
                        detections=counts.detections,
                        confidence=counts.confidence.buckets(),
                        engine_loads_by_result=loads if final else {},
                        self_tests_by_result=tests if final else {},
                        guard_actions_by_reason=dict(counts.guarded),
                        starts=self._starts,
                        temperatures_c=dict(temperatures),
                    )
                )
            return windows


class WindowStore:
    """Windows that the plane does not have yet, in a file. Safe to use from several threads.

    Raises:
        OutputError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = path
        try:
            self._open()
            self._rows()
        except DamagedFileError as error:
            self._db.close()
            self._put_aside()
            _log.warning("the file of health windows is damaged; they begin anew", path=str(path), error=str(error))
            self._open()

    def _open(self) -> None:
        path = self._path
        with _disk(path):
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            # A window that a power cut takes is a gap that the plane sees; a broken file would be all of them.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS windows (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, "
                "sequence INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (boot, sequence))"
            )

    def _put_aside(self) -> None:
        with disk_errors(self._path):
            self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _rows(self) -> list[tuple[int, bytes]]:
        with self._lock, _disk(self._path):
            return self._db.execute("SELECT id, CAST(body AS BLOB) FROM windows ORDER BY id").fetchall()

    def add(self, window: Window) -> None:
        """Keeps a window; beyond :data:`MAX_KEPT` the oldest goes.

        Raises:
            DiskFullError: there is no room.
        """
        body = window_message(window).SerializeToString()
        with self._lock, _disk(self._path):
            self._db.execute(
                "INSERT OR REPLACE INTO windows (boot, sequence, body) VALUES (?, ?, ?)",
                (window.boot_id, window.sequence, body),
            )
            self._db.execute("DELETE FROM windows WHERE id <= (SELECT MAX(id) FROM windows) - ?", (MAX_KEPT,))

    def forget(self, boot_id: str, sequence: int) -> None:
        """Removes what the plane has: a boot's windows up to a sequence."""
        with self._lock, _disk(self._path):
            self._db.execute("DELETE FROM windows WHERE boot = ? AND sequence <= ?", (boot_id, sequence))

    def pending(self) -> list[Window]:
        """All that are kept and can be read, oldest first."""
        windows = []
        for number, body in self._rows():
            try:
                windows.append(window_from(devices_pb2.HealthWindow.FromString(body)))
            except (DecodeError, TypeError, ValueError) as error:
                _log.warning("a health window on disk cannot be read", row=number, error=str(error))
        return windows

    def close(self) -> None:
        """Closes the file."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._db.close()


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if "full" in str(error):
            raise DiskFullError(f"no room left to write {path}", remedy="free some space on that disk") from None
        damaged = (
            type(error) is sqlite3.DatabaseError
        )  # what may pass, as a lock or a full disk, has classes of its own
        raise (DamagedFileError if damaged else OutputError)(
            f"{path} cannot be used ({error})", remedy="move it away; health windows begin anew"
        ) from None
