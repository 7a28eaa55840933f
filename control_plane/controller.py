"""The reconcile loop: rollouts against what devices say, one writer.

Everything that moves a rollout goes through here, one at a time: a create, an abort, a report, the clock. Each takes
its decision from :mod:`control_plane.domain.rollout`, writes it in one transaction, and only then changes what is in
memory and tells devices and watchers. Memory holds the active rollouts as the store has them, so that a report costs a
look-up and, where a device moved, a small transaction; after a restart it is read again (:meth:`Controller.resume`).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from control_plane.changes import Changes
from control_plane.domain.device import Assignment, Device, Report
from control_plane.domain.release import Release, ReleaseState
from control_plane.domain.rollout import (
    RECALLABLE,
    Member,
    MemberEvent,
    MemberState,
    Move,
    OpenWave,
    Recall,
    Rollout,
    RolloutEvent,
    RolloutState,
    decide,
    give_up,
    observe,
    wanted_release,
)
from control_plane.domain.selector import Selector
from control_plane.fleet import Fleet
from control_plane.links import Desired, Links
from control_plane.requests import Asked, earlier
from control_plane.signing import Signer
from control_plane.store.port import Reading, Store, Writing
from maskfleet.clock import Clock
from maskfleet.errors import NoEngineError, NoMatchError, NotFoundError, PreconditionError, RolloutConflictError
from maskfleet.logs import get_logger

_NAMED = 5  # devices that an error names


class Active:
    """A rollout that has not ended, as the store has it."""

    def __init__(self, rollout: Rollout, members: Iterable[Member]) -> None:
        self.rollout = rollout
        self.members = {member.device_id: member for member in members}
        self.tally = Counter((m.wave, m.state) for m in self.members.values())

    def replace(self, member: Member) -> None:
        """Takes a member's new value."""
        old = self.members[member.device_id]
        self.tally[(old.wave, old.state)] -= 1
        self.tally[(member.wave, member.state)] += 1
        self.members[member.device_id] = member


@dataclasses.dataclass
class Change:
    """What a transaction writes, and memory takes over after it."""

    rollout: Rollout
    members: dict[str, Member] = dataclasses.field(default_factory=dict)
    assignments: list[Assignment] = dataclasses.field(default_factory=list)


class Controller:
    """Moves rollouts."""

    def __init__(
        self, store: Store, fleet: Fleet, links: Links, signer: Signer, changes: Changes, clock: Clock
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._links = links
        self._signer = signer
        self._changes = changes
        self._clock = clock
        self._turn = asyncio.Lock()
        self._active: dict[str, Active] = {}
        self._rollout_of: dict[str, str] = {}
        self._manifests: dict[str, Release] = {}
        self._log = get_logger(__name__)

    async def resume(self) -> None:
        """Reads the active rollouts from the store and goes on with them."""
        async with self._turn:
            async with self._store.reading() as look:
                for rollout in await look.select(Rollout, {"active": 1}):
                    self._take(Active(rollout, await look.select(Member, {"rollout_id": rollout.id})))
            for active in list(self._active.values()):
                self._log.info("rollout resumed", rollout=active.rollout.id, state=active.rollout.state.value)
                await self._settle(active)

    async def stand_down(self) -> None:
        """Another process drives from now on: what memory holds may be old. :meth:`resume` reads it again."""
        async with self._turn:
            self._active.clear()
            self._rollout_of.clear()

    def _take(self, active: Active) -> None:
        self._active[active.rollout.id] = active
        for device_id in active.members:
            self._rollout_of[device_id] = active.rollout.id

    async def create(self, asked: Asked, release_id: str, selector: str) -> str:
        """Starts a rollout and gives its id.

        Raises:
            NotFoundError: no such release.
            PreconditionError: the release is not READY.
            BadSelectorError: the selector does not parse.
            NoMatchError: it matches no device.
            RolloutConflictError: a device is in another rollout.
            NoEngineError: the release has no engine for a device.
        """
        matching = Selector.parse(selector)
        async with self._turn:
            async with self._store.writing() as tx:
                if (done := await earlier(tx, asked)) is not None:
                    return done
                release = await _ready(tx, release_id)
                devices = [d for d in await tx.select(Device) if matching.matches(d.attributes())]
                self._check(devices, release, selector)
                number, now = await tx.next_number("rollout"), self._clock.now()
                rollout = Rollout(
                    f"ro-{number}", number, release.id, release.manifest_digest, selector, RolloutState.PENDING, now
                )
                members = [
                    Member(rollout.id, d.id, d.name, before.release_id if before else "", wave=0)
                    for d in devices
                    for before in [await tx.get(Assignment, d.id)]
                ]
                await tx.put(rollout)
                await tx.put(*members, asked.done(rollout.id, now))
            active = Active(rollout, members)
            self._take(active)
            self._log.info("rollout made", rollout=rollout.id, release=release.id, devices=len(members))
            await self._settle(active)
            return rollout.id

    def _check(self, devices: list[Device], release: Release, selector: str) -> None:
        if not devices:
            raise NoMatchError(
                f"the selector {selector!r} matches no device" if selector else "there is no device",
                remedy="see fleet devices list" if selector else "enrol one with a join token",
            )
        busy = [d for d in devices if d.id in self._rollout_of]
        if busy:
            others = sorted({self._rollout_of[d.id] for d in busy})
            raise RolloutConflictError(
                f"{_named(busy)} already in {', '.join(others)}",
                remedy="wait until that ends, or abort it, or choose other devices",
            )
        without = [d for d in devices if not set(d.facts.targets) & set(release.targets)]
        if without:
            needed = sorted({t for d in without for t in d.facts.targets[:1]}) or ["that they can run"]
            raise NoEngineError(
                f"release {release.id} has engines for {', '.join(release.targets)}, none for {_named(without)}",
                remedy=f"make a release with a target {' and '.join(needed)}, or choose other devices",
            )

    async def abort(self, rollout_id: str) -> None:
        """Stops a rollout; one that is being stopped, or was, stays as it is.

        Raises:
            NotFoundError: there is none.
            PreconditionError: it has ended in another way.
        """
        async with self._turn:
            active = self._active.get(rollout_id)
            if active is None:
                async with self._store.reading() as look:
                    found = await _rollout(look, rollout_id)
                if found.state is not RolloutState.ABORTED:
                    found.moved(RolloutEvent.ABORT, reason="", now=self._clock.now())  # says why it cannot be
                return
            if active.rollout.state is not RolloutState.ABORTING:
                moved = active.rollout.moved(RolloutEvent.ABORT, reason="an operator stopped it", now=self._clock.now())
                await self._write(active, Change(moved))
            await self._settle(active)

    async def connected(self, device_id: str, report: Report) -> Desired | None:
        """A device opened its stream: what is wanted of it, or None."""
        async with self._turn:
            async with self._store.writing() as tx:
                assignment = await tx.get(Assignment, device_id)
                if assignment is not None and report.generation > assignment.generation:
                    # The store was restored from a copy: what it would say looks old to the device.
                    assignment = await self._assign(tx, device_id, assignment.release_id, above=report.generation)
                    await tx.put(assignment)
            active = self._active.get(self._rollout_of.get(device_id, ""))
            if active is not None and assignment is not None:
                member = active.members[device_id]
                if 0 < member.generation < assignment.generation and member.state in (
                    MemberState.UPDATING,
                    MemberState.REVERTING,
                ):
                    member = dataclasses.replace(member, generation=assignment.generation)
                    await self._write(active, Change(active.rollout, {device_id: member}))
        await self.reported(device_id, report)
        return await self._desired(assignment) if assignment is not None else None

    async def reported(self, device_id: str, report: Report) -> None:
        """A device said where it stands."""
        if device_id not in self._rollout_of:
            return
        async with self._turn:
            active = self._active.get(self._rollout_of.get(device_id, ""))
            if active is None:
                return
            before, rollout = active.members[device_id], active.rollout
            after = observe(before, report, release_id=rollout.release_id, release_digest=rollout.release_digest)
            if after is before:
                return
            if after.state is before.state:
                active.replace(after)  # what it does is for people only: not worth a write
                self._changes.touch(rollout.id)
                return
            await self._member_moved(active, after)

    async def _member_moved(self, active: Active, member: Member) -> None:
        change = Change(active.rollout, {member.device_id: member})
        if member.state is MemberState.FAILED:
            reason = f"{member.device_name}: {member.detail}"
            change.rollout = dataclasses.replace(active.rollout, reason=reason)
        self._log.info(
            "device moved",
            rollout=member.rollout_id,
            device=member.device_id,
            name=member.device_name,
            state=member.state.value,
            detail=member.detail,
        )
        await self._write(active, change)
        await self._settle(active)

    async def tick(self, now: datetime) -> None:
        """What time alone brings about."""
        async with self._turn:
            for active in list(self._active.values()):
                if active.rollout.state is RolloutState.ABORTING:
                    for member in list(active.members.values()):
                        left = give_up(member, self._fleet.offline_for(member.device_id, now))
                        if left is not member:
                            await self._member_moved(active, left)
                await self._settle(active)

    async def _settle(self, active: Active) -> None:
        """Asks and does, until nothing is to be done."""
        while actions := decide(active.rollout, active.tally, self._clock.now()):
            change = Change(active.rollout)
            for action in actions:
                match action:
                    case Move():
                        now = self._clock.now()
                        change.rollout = change.rollout.moved(action.event, reason=action.reason, now=now)
                        self._log.info(
                            "rollout moved",
                            rollout=change.rollout.id,
                            state=change.rollout.state.value,
                            reason=action.reason,
                        )
                    case OpenWave():
                        change.rollout = dataclasses.replace(change.rollout, wave=action.wave)
                        for member in active.members.values():
                            if member.wave == action.wave and member.state is MemberState.PENDING:
                                change.members[member.device_id] = member.moved(MemberEvent.ASSIGN)
                    case Recall():
                        for member in active.members.values():
                            if member.state in RECALLABLE:
                                change.members[member.device_id] = member.moved(MemberEvent.RECALL)
            await self._write(active, change)

    async def _write(self, active: Active, change: Change) -> None:
        """One transaction: the change, and the assignments that follow from it. Then memory, devices, watchers."""
        async with self._store.writing() as tx:
            for device_id, member in change.members.items():
                before = active.members[device_id]
                if before.state is member.state:
                    continue
                assignment = await self._follows(tx, before, member, change.rollout.release_id)
                if assignment is not None:
                    change.assignments.append(assignment)
                    if member.state in (MemberState.UPDATING, MemberState.REVERTING):
                        change.members[device_id] = dataclasses.replace(member, generation=assignment.generation)
            await tx.put(change.rollout, *change.members.values())
            await tx.put(*change.assignments)
        active.rollout = change.rollout
        for member in change.members.values():
            active.replace(member)
        if not change.rollout.active:
            del self._active[change.rollout.id]
            for device_id in active.members:
                del self._rollout_of[device_id]
        for assignment in change.assignments:
            if assignment.device_id in self._links:
                desired = await self._desired(assignment)
                if desired is not None:
                    self._links.want(assignment.device_id, desired)
        self._changes.touch(change.rollout.id)

    async def _follows(self, tx: Writing, before: Member, member: Member, release_id: str) -> Assignment | None:
        """The assignment that a device's move brings with it; None where what is wanted stays."""
        wanted = wanted_release(member, release_id)
        if member.state is MemberState.UPDATING:
            return await self._assign(tx, member.device_id, wanted)
        if before.state is MemberState.PENDING or wanted == wanted_release(before, release_id):
            return None
        if member.state is MemberState.FAILED and not wanted:
            # It refused by itself and has nothing to go back to: there is nothing to tell it.
            return Assignment(member.device_id, before.generation, "", b"")
        return await self._assign(tx, member.device_id, wanted)

    async def _assign(self, tx: Writing, device_id: str, release_id: str, *, above: int = 0) -> Assignment:
        """A device's next assignment. Its generation is higher than any that plane or device has seen."""
        stored = await tx.get(Assignment, device_id)
        said = self._fleet.report(device_id)
        generation = 1 + max(stored.generation if stored else 0, said.generation if said else 0, above)
        digest = (await self._release(tx, release_id)).manifest_digest if release_id else ""
        return self._signer.assignment(device_id, generation, release_id, digest)

    async def _release(self, look: Reading, release_id: str) -> Release:
        """A READY release; these never change again."""
        if release_id not in self._manifests:
            self._manifests[release_id] = await _ready(look, release_id)
        return self._manifests[release_id]

    async def _desired(self, assignment: Assignment) -> Desired | None:
        if not assignment.envelope:
            return None
        digest, manifest = "", b""
        if assignment.release_id:
            async with self._store.reading() as look:
                release = await self._release(look, assignment.release_id)
            digest, manifest = release.manifest_digest, release.manifest
        return Desired(assignment.generation, assignment.envelope, assignment.release_id, digest, manifest)

    async def get(self, rollout_id: str) -> tuple[Rollout, list[Member]]:
        """A rollout and its devices by name, with what they do just now.

        Raises:
            NotFoundError: there is none.
        """
        active = self._active.get(rollout_id)
        if active is not None:
            return active.rollout, sorted(active.members.values(), key=lambda m: (m.wave, m.device_name))
        async with self._store.reading() as look:
            return await _rollout(look, rollout_id), await look.select(Member, {"rollout_id": rollout_id})


async def _rollout(look: Reading, rollout_id: str) -> Rollout:
    rollout = await look.get(Rollout, rollout_id)
    if rollout is None:
        raise NotFoundError(f"there is no rollout {rollout_id}", remedy="see fleet rollouts list")
    return rollout


async def _ready(look: Reading, release_id: str) -> Release:
    release = await look.get(Release, release_id)
    if release is None:
        raise NotFoundError(f"there is no release {release_id}", remedy="see fleet releases list")
    if release.state is not ReleaseState.READY:
        why = f" ({release.reason})" if release.reason else ""
        raise PreconditionError(
            f"release {release.id} is {release.state.value}{why}", remedy="roll out a release that is READY"
        )
    return release


def _named(devices: list[Device]) -> str:
    names = ", ".join(d.name for d in devices[:_NAMED])
    more = f" and {len(devices) - _NAMED} more" if len(devices) > _NAMED else ""
    return f"{names}{more}"
