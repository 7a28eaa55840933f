"""Devices as the plane sees them live: who is there, what they say, and their health windows.

What a device says is written to the store where it changed; that it was heard of is written now and then, and live
otherwise. A report costs the same whatever the size of the fleet.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta

from control_plane.domain.device import Device, Facts, Report
from control_plane.domain.health import Window
from control_plane.domain.selector import Selector
from control_plane.enrolment import find_by_name
from control_plane.events import note
from control_plane.links import Ack, Link, Links
from control_plane.store.port import Reading, Store, Writing
from control_plane.windows import HealthCounts, History, Intake
from maskfleet.clock import Clock
from maskfleet.errors import AuthenticationError, InvalidInputError, NotFoundError, UnavailableError
from maskfleet.logs import get_logger

LAST_SEEN_EVERY = timedelta(seconds=30)
ELSEWHERE_FOR = 1.5 * LAST_SEEN_EVERY
"""For so long after its last word through another plane a device counts as connected there: the next one is written
once every :data:`LAST_SEEN_EVERY`, and has to travel."""

MAX_DEPARTURES = 200  # that one transaction writes down
OUT_OF_JOINT_S = 2.0
STOOD_STILL_S = 15.0
_MIN_PREFIX = 4


class Fleet:
    """The devices."""

    def __init__(self, store: Store, links: Links, clock: Clock) -> None:
        self._store = store
        self._links = links
        self._clock = clock
        self._started = clock.now()
        self._reports: dict[str, Report] = {}
        self._seen: dict[str, datetime] = {}
        self._unwritten: set[str] = set()
        self._departures: list[tuple[str, datetime]] = []
        self._written = clock.now()
        self._stored: dict[str, Report] | None = None
        self._words: dict[str, datetime] = {}
        self._elsewhere: dict[str, float] = {}
        self._deaf = self._started
        self._looked = (self._started, clock.monotonic())
        self._intake = Intake(store, clock)
        self.history = History()
        self._log = get_logger(__name__)

    async def join(self, device_id: str, facts: Facts, report: Report) -> Link:
        """A device opens its stream.

        Raises:
            AuthenticationError: it never enrolled here.
        """
        async with self._store.writing() as tx:
            device = await tx.get(Device, device_id)
            if device is None:
                raise AuthenticationError(
                    f"device {device_id} is not known to this plane", remedy="enrol it with a join token"
                )
            self._heard(device_id, report)
            self._elsewhere.pop(device_id, None)
            self._unwritten.discard(device_id)
            await tx.put(dataclasses.replace(device, facts=facts, report=report, last_seen=self._clock.now()))
            noted = await self._note_departures(tx)
            await note(tx, "device.connected", device_id, f"{device.name} connected", device_id, now=self._clock.now())
        del self._departures[:noted]
        self._log.info("device connected", device=device_id, name=device.name)
        return self._links.open(device_id)

    def leave(self, link: Link) -> None:
        """A stream ended."""
        if self._links.close(link):
            self._seen[link.device_id] = self._clock.now()
            self._unwritten.add(link.device_id)
            self._departures.append((link.device_id, self._clock.now()))
            self._log.info("device disconnected", device=link.device_id)

    async def _note_departures(self, tx: Writing) -> int:
        """Streams end at any moment; that they did is written with the next transaction here."""
        due = self._departures[:MAX_DEPARTURES]
        for device_id, when in due:
            device = await tx.get(Device, device_id)
            name = device.name if device is not None else device_id
            await note(tx, "device.disconnected", device_id, f"{name} disconnected", device_id, now=when)
        return len(due)

    def _heard(self, device_id: str, report: Report | None = None) -> None:
        self._seen[device_id] = self._words[device_id] = self._clock.now()
        self._unwritten.add(device_id)
        if report is not None:
            self._reports[device_id] = report

    async def reported(self, device_id: str, report: Report) -> bool:
        """A device reports; whether anything but the progress of a download is new."""
        before = self._reports.get(device_id)
        self._heard(device_id, report)
        if before is not None and before.without_progress() == report.without_progress():
            return before != report
        async with self._store.writing() as tx:
            device = await tx.get(Device, device_id)
            if device is not None:
                await tx.put(dataclasses.replace(device, report=report, last_seen=self._clock.now()))
        return True

    async def health(self, device_id: str, window: Window) -> Ack:
        """Takes in a health window; what to acknowledge, once it is in the store (:mod:`control_plane.windows`).

        Raises:
            UnavailableError: the database does not answer.
            DiskFullError: there is no room.
        """
        self._heard(device_id)
        try:
            return await self._intake.take(device_id, window)
        except UnavailableError:
            self.hears_nothing()
            raise

    def hears_nothing(self) -> None:
        """The database does not answer: nothing that a device says is heard, and no device can connect."""
        self._deaf = self._clock.now()

    @property
    def windows(self) -> HealthCounts:
        """Health windows since the start of the process."""
        return self._intake.counts

    @property
    def listening_since(self) -> datetime:
        """Since when this process has been up to hear devices.

        That is its start, or when the database was last away, or when time was last out of joint: somebody set the
        clock, or the process stood still and what devices said meanwhile is yet to be read.
        """
        now, monotonic = self._clock.now(), self._clock.monotonic()
        wall, stood = (now - self._looked[0]).total_seconds(), monotonic - self._looked[1]
        if abs(wall - stood) > OUT_OF_JOINT_S or stood > STOOD_STILL_S:
            self._deaf = now
        self._looked = (now, monotonic)
        return self._deaf

    def last_word(self, device_id: str) -> datetime | None:
        """When a device last said something to this process; None where it has not."""
        return self._words.get(device_id)

    def told_elsewhere(self, device: Device) -> None:
        """A device's record was written by another plane: it may be connected there."""
        if not self.online(device.id):
            known = self._seen.get(device.id, self._clock.now() - ELSEWHERE_FOR)
            if device.last_seen > known:  # a new word; an old record that is read again is none
                self._elsewhere[device.id] = self._clock.monotonic()
            self._reports[device.id] = device.report
            self._seen[device.id] = max(self._seen.get(device.id, device.last_seen), device.last_seen)

    def online(self, device_id: str) -> bool:
        """Whether a device's stream is open."""
        return device_id in self._links

    def there(self, device_id: str) -> bool:
        """Whether a device is connected, here or, as far as its last word tells, to another plane."""
        if self.online(device_id):
            return True
        heard = self._elsewhere.get(device_id)
        return heard is not None and self._clock.monotonic() - heard < ELSEWHERE_FOR.total_seconds()

    def online_count(self) -> int:
        """How many streams are open."""
        return len(self._links)

    async def spread(self) -> Counter[tuple[str, ...]]:
        """How many devices there are by the release that serves, its target, and the engine's state or OFFLINE."""
        if self._stored is None:
            async with self._store.reading() as look:
                self._stored = {device.id: device.report for device in await look.select(Device)}
        found: Counter[tuple[str, ...]] = Counter()
        for device_id, report in {**self._stored, **self._reports}.items():
            engine = next((c for c in report.components if c.name == "engine"), None)
            release, target = (engine.serving_release_id, engine.target) if engine is not None else ("", "")
            state = engine.state.value if engine is not None else "EMPTY"
            found[(release or "none", target or "none", state if self.online(device_id) else "OFFLINE")] += 1
        return found

    def report(self, device_id: str) -> Report | None:
        """What a device said last since the start of the process."""
        return self._reports.get(device_id)

    def offline_for(self, device_id: str, now: datetime) -> timedelta:
        """For how long a device has been away, as far as this process was there to see it."""
        if self.online(device_id):
            return timedelta(0)
        return now - max(self._seen.get(device_id, self._started), self._started)

    def live(self, device: Device) -> Device:
        """A device from the store with what is newer in memory."""
        return dataclasses.replace(
            device,
            report=self._reports.get(device.id, device.report),
            last_seen=max(device.last_seen, self._seen.get(device.id, device.last_seen)),
        )

    async def find(self, name: str) -> Device:
        """The device of an id, a name, or the first letters of an id.

        Raises:
            NotFoundError: there is none.
            InvalidInputError: the letters begin several ids.
        """
        async with self._store.reading() as look:
            return self.live(await self._find(look, name))

    @staticmethod
    async def _find(look: Reading, name: str) -> Device:
        if not name:
            raise InvalidInputError("no device is named", remedy="give an id or a name")
        if (device := await look.get(Device, name) or await find_by_name(look, name)) is not None:
            return device
        found = []
        if name.startswith("d-") and len(name) >= _MIN_PREFIX:
            found = [d for d in await look.select(Device) if d.id.startswith(name)]
        if len(found) > 1:
            raise InvalidInputError(f"{name} begins the ids of {len(found)} devices", remedy="give more letters")
        if not found:
            raise NotFoundError(f"there is no device {name!r}", remedy="see fleet devices list")
        return found[0]

    async def select(self, selector: str, *, after: str | None, limit: int) -> list[Device]:
        """Devices that a selector matches, by name.

        Args:
            selector: as it was written.
            after: begin behind this name.
            limit: how many at most.

        Raises:
            BadSelectorError: it does not parse.
        """
        matching = Selector.parse(selector)
        async with self._store.reading() as look:
            devices = await look.select(Device, after=after, limit=None if matching.terms else limit)
        return [self.live(d) for d in devices if matching.matches(d.attributes())][:limit]

    async def relabel(self, name: str, set_: Mapping[str, str], remove: tuple[str, ...]) -> Device:
        """Changes a device's labels.

        Raises:
            NotFoundError: there is no such device.
            InvalidInputError: a label is none.
        """
        async with self._store.writing() as tx:
            device = (await self._find(tx, name)).relabelled(set_, remove)
            await tx.put(device)
        return self.live(device)

    async def tick(self, now: datetime, *, at_once: bool = False) -> None:
        """Writes down who left, and now and then who was heard of."""
        _ = self.listening_since  # looks at the clocks
        while self._departures:
            async with self._store.writing() as tx:
                noted = await self._note_departures(tx)
            del self._departures[:noted]  # and not before they are in the store
        if not self._unwritten or (now - self._written < LAST_SEEN_EVERY and not at_once):
            return
        due, self._unwritten, self._written = self._unwritten, set(), now
        async with self._store.writing() as tx:
            for device_id in sorted(due):
                device = await tx.get(Device, device_id)
                if device is not None and self.online(device_id):
                    await tx.put(self.live(device))
                elif device is not None:  # what it says now, it says to another plane
                    await tx.put(dataclasses.replace(device, last_seen=self.live(device).last_seen))
