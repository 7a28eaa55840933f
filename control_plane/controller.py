"""The reconcile loop: rollouts against what devices say, one writer.

Everything that moves a rollout goes through here, one at a time: a create, an operator's word, a report, the clock, the
judge. Each takes its decision from :mod:`control_plane.domain.waves`, writes it in one transaction together with the
record that it rests on, and only then changes what is in memory and tells devices and watchers. Memory holds the active
rollouts as the store has them, so that a report costs a look-up and, where a device moved, a small transaction; after a
restart it is read again (:meth:`Controller.resume`).
"""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import datetime

from control_plane.active import Active, Change
from control_plane.assigning import Assigning
from control_plane.auth import actor
from control_plane.changes import Changes
from control_plane.domain.device import Assignment, Report
from control_plane.domain.judge import NO_STATISTICS, Decision, DecisionRecord
from control_plane.domain.rollout import (
    MEMBER_TABLE,
    Member,
    MemberEvent,
    MemberState,
    Rollout,
    RolloutEvent,
    RolloutState,
    expire,
    give_up,
    observe,
)
from control_plane.domain.strategy import Strategy
from control_plane.domain.waves import Action, Move, OpenWave, Recall, action_of, decide
from control_plane.events import note
from control_plane.fleet import Fleet
from control_plane.judging import Judge, Judging, Watch
from control_plane.links import Desired, Links
from control_plane.proving import proof_by
from control_plane.requests import Asked, earlier
from control_plane.rollout_making import make
from control_plane.signing import Signer
from control_plane.store.port import Reading, Store, Writing
from maskfleet.clock import Clock
from maskfleet.errors import NotFoundError
from maskfleet.logs import correlated, correlation_id, get_logger

_PACE = 10  # rests for so many times as long as the judge took
_ON_THE_WAY = (MemberState.UPDATING, MemberState.REVERTING)
_TOLD = (MemberState.COMMITTED, MemberState.FAILED, MemberState.EXPIRED, MemberState.REVERTED)
ONE_WAVE = Strategy()


class Controller:
    """Moves rollouts."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        links: Links,
        signer: Signer,
        changes: Changes,
        clock: Clock,
        judge: Judge | None = None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._links = links
        self._changes = changes
        self._clock = clock
        self._assigning = Assigning(store, fleet, signer)
        self._judging = Judging(store, fleet, clock, judge or Judge())
        self._watch = Watch(clock)
        self._turn = asyncio.Lock()
        self._active: dict[str, Active] = {}
        self._rollout_of: dict[str, str] = {}
        self._log = get_logger(__name__)

    async def resume(self) -> None:
        """Reads the active rollouts from the store and goes on with them."""
        async with self._turn:
            self._watch.step()  # what was before was not watched
            async with self._store.reading() as look:
                for rollout in await look.select(Rollout, {"active": 1}):
                    members = await look.select(Member, {"rollout_id": rollout.id})
                    newest = await look.select(DecisionRecord, {"rollout_id": rollout.id}, descending=True, limit=1)
                    self._take(Active(rollout, members, newest[0] if newest else None))
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

    async def create(self, asked: Asked, release_id: str, selector: str, strategy: Strategy = ONE_WAVE) -> str:
        """Starts a rollout and gives its id.

        Args:
            asked: makes it idempotent.
            release_id: what devices move to.
            selector: which devices, as it was written.
            strategy: how to go about it, checked.

        Raises:
            FleetError: as :func:`control_plane.rollout_making.make` says.
        """
        async with self._turn:
            async with self._store.writing() as tx:
                if (done := await earlier(tx, asked)) is not None:
                    return done
                now = self._clock.now()
                rollout, members = await make(
                    tx,
                    release_id,
                    selector,
                    strategy,
                    rollout_of=self._rollout_of,
                    online=self._fleet.online,
                    now=now,
                )
                await tx.put(asked.done(rollout.id, now))
                waves = len(rollout.strategy.asked_for)
                text = f"{rollout.release_id} for {len(members)} devices{f' in {waves} waves' if waves > 1 else ''}"
                if rollout.strategy.proves:
                    text += f"; in wave 0 {rollout.strategy.waves[0].told()}"
                await note(tx, "rollout.created", rollout.id, text, actor(), now=now)
            active = Active(rollout, members)
            self._take(active)
            self._log.info("rollout made", rollout=rollout.id, release=rollout.release_id, devices=len(members))
            await self._settle(active)
            return rollout.id

    async def abort(self, rollout_id: str) -> None:
        """Stops a rollout; one that is being stopped, or was, stays as it is.

        Raises:
            NotFoundError: there is none.
            PreconditionError: it has ended in another way, or is on its way back.
        """
        await self._told(rollout_id, RolloutEvent.ABORT, "stopped it", (RolloutState.ABORTING, RolloutState.ABORTED))

    async def pause(self, rollout_id: str) -> None:
        """Stops a rollout for a while; one that is paused stays as it is.

        Raises:
            NotFoundError: there is none.
            PreconditionError: it neither moves nor is watched.
        """
        await self._told(rollout_id, RolloutEvent.PAUSE, "paused it", (RolloutState.PAUSED,))

    async def go_on(self, rollout_id: str) -> None:
        """Goes on with a rollout that is PAUSED or HELD.

        Raises:
            NotFoundError: there is none.
            PreconditionError: it is neither.
        """
        await self._told(rollout_id, RolloutEvent.RESUME, "went on with it", ())

    async def promote(self, rollout_id: str) -> None:
        """Opens every wave that is left.

        Raises:
            NotFoundError: there is none.
            PreconditionError: it has ended or is on its way back.
        """
        await self._told(rollout_id, RolloutEvent.PROMOTE, "promoted it", ())

    async def _told(self, rollout_id: str, event: RolloutEvent, did: str, done: tuple[RolloutState, ...]) -> None:
        async with self._turn:
            active = self._active.get(rollout_id)
            if active is None:
                async with self._store.reading() as look:
                    rollout = await _rollout(look, rollout_id)
            else:
                rollout = active.rollout
            if rollout.state in done:
                return
            reason = f"an operator {did}"
            moved = rollout.moved(event, reason=reason, now=self._clock.now())  # says why where it cannot be
            moved = dataclasses.replace(moved, correlation_id=correlation_id())
            if active is not None:
                notes = [("rollout.moved", f"{reason}: {moved.state.value}")]
                await self._write(active, Change(moved, notes=notes, actor=actor()))
                await self._settle(active)

    async def connected(self, device_id: str, report: Report) -> Desired | None:
        """A device opened its stream: what is wanted of it, or None."""
        async with self._turn:
            async with self._store.writing() as tx:
                assignment = await tx.get(Assignment, device_id)
                if assignment is not None and report.generation > assignment.generation:
                    # The store was restored from a copy: what it would say looks old to the device.
                    cause = assignment.correlation_id
                    assignment = await self._assigning.assign(
                        tx, device_id, assignment.release_id, above=report.generation
                    )
                    assignment = dataclasses.replace(assignment, correlation_id=cause)
                    await tx.put(assignment)
            active = self._active.get(self._rollout_of.get(device_id, ""))
            if active is not None and assignment is not None:
                member = active.members[device_id]
                if 0 < member.generation < assignment.generation and member.state in _ON_THE_WAY:
                    member = dataclasses.replace(member, generation=assignment.generation)
                    await self._write(active, Change(active.rollout, {device_id: member}))
        await self.reported(device_id, report)
        return await self._assigning.desired(assignment) if assignment is not None else None

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
            change = Change(rollout, {device_id: after})
            if after.state is MemberState.FAILED:
                change.rollout = dataclasses.replace(rollout, reason=f"{after.device_name}: {after.detail}")
            await self._write(active, change)
            await self._settle(active)

    async def tick(self, now: datetime) -> None:
        """What time brings about, and the judge's word."""
        step = self._watch.step()
        for active in list(self._active.values()):
            async with self._turn:
                if self._active.get(active.rollout.id) is not active:
                    continue
                change = Change(active.rollout)
                for member, away in active.away(self._fleet, step):
                    aged = dataclasses.replace(member, away=away)
                    change.members[member.device_id] = expire(aged, away, active.rollout.strategy.expire_after)
                for member in active.members.values():
                    left = give_up(member, self._fleet.offline_for(member.device_id, now))
                    if left is not member:
                        change.members[member.device_id] = left
                due = active.watch(step)
                change.rollout = active.rollout
                if change.members or due:
                    await self._write(active, change)
                elif active.rollout.state is RolloutState.SOAKING:
                    self._changes.touch(active.rollout.id)
                await self._settle(active)
                seen = active.rollout
            if seen.looked_at and self._clock.monotonic() >= active.due:
                decision = await self._asked(active)
                async with self._turn:
                    # What moved meanwhile is judged the next time.
                    if self._active.get(seen.id) is active and active.rollout is seen:
                        await self._settle(active, decision)

    async def _asked(self, active: Active) -> Decision:
        began = self._clock.monotonic()
        decision = await self._judging.ask(active.rollout, list(active.members.values()))
        active.due = self._clock.monotonic() + _PACE * (self._clock.monotonic() - began)
        return decision

    async def _settle(self, active: Active, decision: Decision | None = None) -> None:
        """Asks and does, until nothing is to be done. A decision holds for the rollout as it stands now, once."""
        with correlated(active.rollout.correlation_id):  # of who wanted it, whoever's report or clock moves it now
            await self._settled(active, decision)

    async def _settled(self, active: Active, decision: Decision | None) -> None:
        refused = any(n for (_, state), n in active.tally.items() if state is MemberState.FAILED)
        if decision is None and refused and active.rollout.looked_at:
            decision = await self._asked(active)  # what takes a rollout back has its record, and at once
        while True:
            actions = decide(active.rollout, active.tally, decision)
            change = self._acted(active, actions)
            if decision is not None:
                change.record = active.record(decision, action_of(actions, active.rollout.state), self._clock.now())
                decision = None
            if actions or change.record is not None:
                await self._write(active, change)
            if not actions:
                return

    def _acted(self, active: Active, actions: list[Action]) -> Change:
        change, now = Change(active.rollout), self._clock.now()
        for action in actions:
            match action:
                case Move():
                    change.rollout = change.rollout.moved(action.event, reason=action.reason, now=now)
                    state = change.rollout.state.value
                    change.notes.append(("rollout.moved", f"{state}: {action.reason}"))
                    self._log.info("rollout moved", rollout=change.rollout.id, state=state, reason=action.reason)
                case OpenWave():
                    change.rollout = change.rollout.opening(action.wave, now)
                    limit = change.rollout.strategy.expire_after
                    for member in active.members.values():
                        if member.wave <= action.wave and member.state is MemberState.PENDING:
                            left = expire(member, active.away_for(member.device_id), limit)
                            moved = left if left is not member else member.moved(MemberEvent.ASSIGN)
                            change.members[member.device_id] = moved
                    change.notes.append(("rollout.moved", f"{active.rollout.named(action.wave)} opens"))
                case Recall():
                    for member in active.members.values():
                        if (member.state, action.event) in MEMBER_TABLE:
                            change.members[member.device_id] = member.moved(action.event)
        return change

    async def _write(self, active: Active, change: Change) -> None:
        """One transaction: the change, and the assignments that follow from it. Then memory, devices, watchers."""
        with correlated(change.rollout.correlation_id):
            await self._written(active, change)

    async def _written(self, active: Active, change: Change) -> None:
        rollout, now = change.rollout, self._clock.now()
        async with self._store.writing() as tx:
            for device_id, member in change.members.items():
                before = active.members[device_id]
                if before.state is member.state:
                    continue
                assignment = await self._assigning.follows(tx, before, member, rollout.release_id)
                if assignment is not None:
                    change.assignments.append(dataclasses.replace(assignment, correlation_id=rollout.correlation_id))
                    if member.state in _ON_THE_WAY:
                        change.members[device_id] = dataclasses.replace(member, generation=assignment.generation)
                if member.state is MemberState.COMMITTED:
                    await self._proved(tx, member, rollout.release_id)
                if member.state in _TOLD:
                    detail = member.detail if member.detail != member.state.value else ""
                    text = f"{member.device_name} {member.state.value}{': ' if detail else ''}{detail}"
                    change.notes.append(("member.moved", text))
                    self._log.info("device moved", rollout=rollout.id, device=device_id, state=member.state.value)
            if change.record is not None:
                rollout = change.rollout = dataclasses.replace(rollout, decisions=change.record.number)
                change.notes.insert(0, ("decision", _told(change.record)))  # before what it brings about
            await tx.put(rollout, *change.members.values())
            await tx.put(*change.assignments)
            if change.record is not None:
                await tx.put(change.record)
            for kind, text in change.notes:
                await note(tx, kind, rollout.id, text, change.actor, now=now)
        active.take(change)
        if not rollout.active:
            del self._active[rollout.id]
            for device_id in active.members:
                del self._rollout_of[device_id]
        for assignment in change.assignments:
            if assignment.device_id in self._links:
                desired = await self._assigning.desired(assignment)
                if desired is not None:
                    self._links.want(assignment.device_id, desired)
        self._changes.touch(rollout.id)

    async def _proved(self, tx: Writing, member: Member, release_id: str) -> None:
        """A device committed: where it is the first with that engine, this is its proof."""
        proof = await proof_by(
            tx,
            await self._assigning.release(tx, release_id),
            member.device_id,
            self._fleet.report(member.device_id),
            now=self._clock.now(),
        )
        if proof is not None:
            await tx.put(proof)
            text = f"{proof.device_name} has tested the engine of {release_id} for {proof.target} and committed it"
            await note(tx, "engine.proven", release_id, text, proof.device_id, now=proof.proven)
            self._log.info("engine proven", release=release_id, target=proof.target, device=proof.device_id)

    async def get(self, rollout_id: str) -> tuple[Rollout, list[Member]]:
        """A rollout and its devices by wave and name, with what they do just now.

        Raises:
            NotFoundError: there is none.
        """
        active = self._active.get(rollout_id)
        if active is not None:
            rollout, members = active.rollout, list(active.members.values())
        else:
            async with self._store.reading() as look:
                rollout = await _rollout(look, rollout_id)
                members = await look.select(Member, {"rollout_id": rollout_id})
        return rollout, sorted(members, key=lambda m: (m.wave, m.device_name))


def _told(record: DecisionRecord) -> str:
    how = "" if record.statistical else f" ({NO_STATISTICS})"
    why = record.reasons[0] if record.reasons else "no reason given"
    return f"{record.verdict.value}, {record.action}{how}: {why}"


async def _rollout(look: Reading, rollout_id: str) -> Rollout:
    rollout = await look.get(Rollout, rollout_id)
    if rollout is None:
        raise NotFoundError(f"there is no rollout {rollout_id}", remedy="see fleet rollouts list")
    return rollout
