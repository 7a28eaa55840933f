"""Health windows on their way into the store, and what the judge reads of them.

Windows that come while a transaction is under way go into the next one together, whichever devices they are from: a
fleet that returns after an outage costs a transaction for hundreds of windows and not for each. A window is
acknowledged after the commit, and never before those that came before it.

Example::

    intake = Intake(store, clock)
    ack = await intake.take("d-1", window)
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from control_plane.domain.health import (
    FOLD,
    KEPT,
    StoredWindow,
    Window,
    WindowMark,
    backwards,
    fault,
    folded,
    gap,
    is_news,
)
from control_plane.domain.judge.evidence import Interval, interval_of
from control_plane.links import Ack
from control_plane.store.port import Reading, Store, Writing
from maskfleet.clock import Clock
from maskfleet.errors import UnavailableError
from maskfleet.logs import get_logger

MAX_BATCH = 256
_MAX_MARKS = 32
_MOST = 3 * KEPT  # intervals of a device that memory holds
_MAX_DEVICES = 4_000  # that memory holds intervals of
_PAGE = 500


@dataclasses.dataclass
class HealthCounts:
    """Health windows since the start of the process.

    Attributes:
        stored: new ones.
        repeated: known already, or older than what is known.
        refused: that made no sense.
        missing: that a device lost before it could send them, seen by the gap in their numbers.
        commits: transactions that it took.
    """

    stored: int = 0
    repeated: int = 0
    refused: int = 0
    missing: int = 0
    commits: int = 0


@dataclasses.dataclass
class _Waiting:
    device_id: str
    window: Window
    ack: Ack | None = None
    error: Exception | None = None


class Intake:
    """Takes windows in."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()
        self._waiting: deque[_Waiting] = deque()
        self.counts = HealthCounts()
        self._log = get_logger(__name__)

    async def take(self, device_id: str, window: Window) -> Ack:
        """Takes a window in; what to acknowledge, once it is in the store.

        Raises:
            UnavailableError: the database does not answer.
            DiskFullError: there is no room.
        """
        mine = _Waiting(device_id, window)
        self._waiting.append(mine)
        async with self._turn:
            while mine.ack is None and mine.error is None:
                await self._commit()
        if mine.error is not None:
            raise mine.error
        return mine.ack or Ack(window.boot_id, window.sequence)

    async def _commit(self) -> None:
        """Everything that waits, or as much as one transaction takes."""
        batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        try:
            try:
                await self._write_all(batch)
            except UnavailableError:
                raise
            except Exception:
                if len(batch) == 1:
                    raise
                for item in batch:  # one of them is at fault, and the others need not share its fate
                    await self._write_alone(item)
        except Exception as error:  # noqa: BLE001  # each stream is told; devices keep what was not acknowledged
            for item in batch:
                item.error = error
        except BaseException:
            self._waiting.extendleft(item for item in reversed(batch) if item.ack is None and item.error is None)
            raise  # whoever waits next does the rest

    async def _write_alone(self, item: _Waiting) -> None:
        try:
            await self._write_all([item])
        except Exception as error:  # noqa: BLE001  # as above
            item.error = error

    async def _write_all(self, batch: list[_Waiting]) -> None:
        counts = HealthCounts(commits=1)
        async with self._store.writing() as tx:
            for item in batch:
                await self._write(tx, item.device_id, item.window, counts)
        for field in dataclasses.fields(counts):
            setattr(self.counts, field.name, getattr(self.counts, field.name) + getattr(counts, field.name))
        for item in batch:
            item.ack = Ack(item.window.boot_id, item.window.sequence)

    async def _write(self, tx: Writing, device_id: str, window: Window, counts: HealthCounts) -> None:
        wrong, mark = fault(window), None
        if not wrong:
            mark = await tx.get(WindowMark, f"{device_id}/{window.boot_id}")
            if not is_news(window, mark):
                counts.repeated += 1
                return
            wrong = backwards(window, mark)
        if wrong:
            counts.refused += 1
            self._log.warning("health window refused", device=device_id, sequence=window.sequence, reason=wrong)
            return
        if mark is None:
            await _prune(tx, device_id)
        counts.missing += gap(window, mark)
        counts.stored += 1
        number = await tx.next_number("health")
        await tx.put(
            StoredWindow(device_id, window.boot_id, window.sequence, number, self._clock.now(), window),
            WindowMark(device_id, window.boot_id, window.sequence, window.start_monotonic_ns, window.end_monotonic_ns),
        )
        await _fold(tx, device_id, window, mark)


async def _prune(tx: Writing, device_id: str) -> None:
    """Before the first window of a boot: what earlier boots left over."""
    windows = await tx.select(StoredWindow, {"device_id": device_id}, descending=True)
    await tx.delete(StoredWindow, [f"{device_id}/{w.boot_id}/{w.sequence}" for w in windows[2 * KEPT :]])
    known = {w.boot_id for w in windows}
    marks = await tx.select(WindowMark, {"device_id": device_id})
    if len(marks) > _MAX_MARKS:
        await tx.delete(WindowMark, [f"{device_id}/{m.boot_id}" for m in marks if m.boot_id not in known])


async def _fold(tx: Writing, device_id: str, window: Window, mark: WindowMark | None) -> None:
    """What has become old since the last window of the boot; by key, so that it costs the same in any fleet."""
    last = mark.sequence if mark is not None else 0
    for end in range(last // FOLD * FOLD + FOLD, window.sequence + 1, FOLD)[-2 * KEPT // FOLD :]:
        old = [f"{device_id}/{window.boot_id}/{n - KEPT}" for n in range(end - FOLD + 1, end + 1) if n > KEPT]
        found = [w for key in old if (w := await tx.get(StoredWindow, key)) is not None]
        kept = folded(found)
        names = {w.sequence for w in kept}
        await tx.put(*kept)
        await tx.delete(StoredWindow, [key for key in old if int(key.rpartition("/")[2]) not in names])
        first = end - KEPT - KEPT * FOLD
        await tx.delete(
            StoredWindow, [f"{device_id}/{window.boot_id}/{n}" for n in range(first - FOLD + 1, first + 1) if n > 0]
        )


class History:
    """Intervals of the devices that are judged, in memory: a look costs what is new since the last one."""

    def __init__(self) -> None:
        self._newest: int | None = None
        self._known: dict[str, deque[Interval]] = {}

    async def of(self, look: Reading, device_ids: Iterable[str]) -> Mapping[str, Sequence[Interval]]:
        """Intervals by device, in the order of their receipt."""
        await self._catch_up(look)
        asked = list(device_ids)
        found: dict[str, Sequence[Interval]] = {}
        for device_id in asked:
            known = self._known.pop(device_id, None)
            if known is None:
                windows = await look.select(StoredWindow, {"device_id": device_id})
                known = deque(map(interval_of, windows), maxlen=_MOST)
            self._known[device_id] = known  # the last one asked for is the last to go
            found[device_id] = tuple(known)
        for device_id in list(self._known)[: max(0, len(self._known) - max(_MAX_DEVICES, len(asked)))]:
            del self._known[device_id]
        return found

    async def _catch_up(self, look: Reading) -> None:
        if self._newest is None:
            newest = await look.select(StoredWindow, descending=True, limit=1)
            self._newest = newest[0].number if newest else 0
        while True:
            page = await look.select(StoredWindow, after=self._newest, limit=_PAGE)
            for stored in page:
                self._newest = stored.number
                if stored.device_id in self._known:
                    self._known[stored.device_id].append(interval_of(stored))
            if len(page) < _PAGE:
                return
