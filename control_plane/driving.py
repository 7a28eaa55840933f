"""The driver's seat: what one of several planes on a database does, and what the others leave to it.

The plane that holds the lease moves rollouts. The others serve everything else: devices' streams, builds, reads and
watches. What a device tells them is written to the store, whose notification reaches the driver; what the driver
assigns reaches the device's plane in the same way. A call that moves a rollout is refused with UNAVAILABLE elsewhere
than at the driver.

Example::

    seat = Seat(store, lease, controller, fleet, links, changes)
    if await seat.tick():          # once a second
        await controller.tick(now)
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc.aio

from control_plane.assigning import desired_of
from control_plane.changes import Changes
from control_plane.controller import Controller
from control_plane.domain.device import Assignment, Device, Report
from control_plane.domain.release import Release
from control_plane.domain.rollout import Member, Rollout
from control_plane.fleet import Fleet
from control_plane.interception import around
from control_plane.leadership import Lease, elsewhere
from control_plane.links import Desired, Links
from control_plane.store.port import Reading, Store
from maskfleet.logs import get_logger

DRIVER_ONLY = frozenset(
    f"/maskfleet.v1.RolloutsService/{verb}Rollout" for verb in ("Create", "Abort", "Pause", "Resume", "Promote")
)


class Seat:
    """Who drives, seen from one plane."""

    def __init__(
        self, store: Store, lease: Lease, controller: Controller, fleet: Fleet, links: Links, changes: Changes
    ) -> None:
        self.driving = False
        self._store = store
        self._lease = lease
        self._controller = controller
        self._fleet = fleet
        self._links = links
        self._changes = changes
        self._devices: set[str] = set()
        self._assignments: set[str] = set()
        self._anything = False
        self._log = get_logger(__name__)

    def hear(self, topic: str | None) -> None:
        """Another process wrote something; :meth:`tick` looks at it, or :meth:`catch_up` at once."""
        kind, _, name = (topic or "").partition("/")
        if topic is None:
            self._anything = True
        elif kind == "device":
            self._devices.add(name)
        elif kind == "assignment":
            self._assignments.add(name)

    @property
    def behind(self) -> bool:
        """Whether something was heard and not yet looked at."""
        return bool(self._anything or self._devices or self._assignments)

    async def tick(self) -> bool:
        """Takes the seat, keeps it or gives it up; whether this plane drives.

        Raises:
            UnavailableError: the database does not answer.
        """
        holds = await self._lease.hold()
        if self.driving and not holds:
            self.driving = False
            self._log.warning("another plane may drive from now on, or the database is away")
            await self._controller.stand_down()
            self._changes.hear(None)  # watchers saw what memory held: from now on they see the store
        if holds and not self.driving:
            async with self._store.writing():
                pass  # a turn of the writers: whoever drove before has written its last
            await self._controller.stand_down()
            await self._controller.resume()
            self.driving = self._anything = True
            self._log.info("this plane drives the rollouts")
        await self.catch_up()
        return self.driving

    async def catch_up(self) -> None:
        """Looks at what other processes wrote.

        Raises:
            UnavailableError: the database does not answer; what was heard is kept.
        """
        if not self.behind:
            return
        devices, assignments, anything = set(self._devices), set(self._assignments), self._anything
        self._devices.clear()
        self._assignments.clear()
        self._anything = False
        try:
            async with self._store.reading() as look:
                if anything:
                    devices |= await self._of_active_rollouts(look)
                    assignments |= self._links.open_devices()
                for device_id in sorted(assignments & self._links.open_devices()):
                    desired = await _desired(look, device_id)
                    if desired is not None:
                        self._links.want(device_id, desired)
                found = [
                    (device, await look.get(Assignment, device_id))
                    for device_id in sorted(devices)
                    if (device := await look.get(Device, device_id)) is not None
                ]
            for device, assignment in found:
                self._fleet.told_elsewhere(device)
                report = self._fleet.live(device).report
                if self.driving and assignment is not None and report.generation > assignment.generation:
                    await self._controller.connected(device.id, report)  # the store was restored from a copy
                elif self.driving:
                    await self._controller.reported(device.id, report)
        except BaseException:
            self._devices |= devices
            self._assignments |= assignments
            self._anything |= anything
            raise

    async def _of_active_rollouts(self, look: Reading) -> set[str]:
        if not self.driving:
            return set()
        rollouts = await look.select(Rollout, {"active": 1})
        return {m.device_id for r in rollouts for m in await look.select(Member, {"rollout_id": r.id})}

    async def connected(self, device_id: str, report: Report) -> Desired | None:
        """A device opened its stream here: what is wanted of it, or None."""
        if self.driving:
            return await self._controller.connected(device_id, report)
        async with self._store.reading() as look:
            return await _desired(look, device_id)

    async def reported(self, device_id: str, report: Report) -> None:
        """A device said here where it stands. (Elsewhere than at the driver it is in the store already.)"""
        if self.driving:
            await self._controller.reported(device_id, report)

    async def leave(self) -> None:
        """Gives the seat up, for the next one to take at once."""
        self.driving = False
        await self._lease.release()


async def _desired(look: Reading, device_id: str) -> Desired | None:
    assignment = await look.get(Assignment, device_id)
    if assignment is None or not assignment.envelope:
        return None
    release = await look.get(Release, assignment.release_id) if assignment.release_id else None
    digest, manifest = (release.manifest_digest, release.manifest) if release is not None else ("", b"")
    return desired_of(assignment, digest, manifest)


class DrivenElsewhere(grpc.aio.ServerInterceptor):
    """Refuses what only the driver can do, elsewhere than at the driver. Comes after the one that asks who calls."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method not in DRIVER_ONLY:
            return handler

        @contextlib.contextmanager
        def entered() -> Iterator[None]:
            if not self._seat.driving:
                raise elsewhere()
            yield

        return around(handler, entered)
