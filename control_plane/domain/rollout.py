"""Rollouts as two tables: one moves the rollout, one moves each of its devices. Nothing else moves either.

Rules
- Devices belong to waves, counted from 0; a wave opens once the one before it has settled. (There is one wave for now.)
- What is wanted of a device follows from where it stands (:func:`wanted_release`): the new release while it updates and
  once it has committed, its baseline in every other state. So a device that refuses a release is sent back to what it
  ran before, and so is one that is recalled.
- A device that is offline stays UPDATING and catches up when it returns. In a rollout that is being stopped it is not
  waited for longer than :data:`RECALL_PATIENCE`: what is wanted of it is written down, and it goes back when it
  returns.
- :func:`decide` sees numbers of devices by wave and state, never the devices: a report costs the same in a fleet of
  three and of ten thousand.

>>> decide(rollout, {(0, MemberState.COMMITTED): 3}, now)
[Move(event=<RolloutEvent.ALL_COMMITTED: ...>, reason='all 3 devices committed r-2')]
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime, timedelta

from control_plane.domain.device import ComponentState, Report
from maskfleet.errors import PreconditionError

RECALL_PATIENCE = timedelta(seconds=60)


class RolloutState(enum.Enum):
    """Where a rollout stands. Names are those of the wire."""

    PENDING = "PENDING"
    PROGRESSING = "PROGRESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTING = "ABORTING"
    ABORTED = "ABORTED"


class RolloutEvent(enum.Enum):
    """What moves a rollout."""

    START = "its first wave opens"
    ALL_COMMITTED = "every device committed"
    SOME_FAILED = "every device settled, at least one refused"
    ABORT = "an operator stops it"
    ALL_BACK = "every device settled"


ROLLOUT_TABLE: dict[tuple[RolloutState, RolloutEvent], RolloutState] = {
    (RolloutState.PENDING, RolloutEvent.START): RolloutState.PROGRESSING,
    (RolloutState.PENDING, RolloutEvent.ABORT): RolloutState.ABORTING,
    (RolloutState.PROGRESSING, RolloutEvent.ALL_COMMITTED): RolloutState.SUCCEEDED,
    (RolloutState.PROGRESSING, RolloutEvent.SOME_FAILED): RolloutState.FAILED,
    (RolloutState.PROGRESSING, RolloutEvent.ABORT): RolloutState.ABORTING,
    (RolloutState.ABORTING, RolloutEvent.ALL_BACK): RolloutState.ABORTED,
}
ENDED = frozenset({RolloutState.SUCCEEDED, RolloutState.FAILED, RolloutState.ABORTED})


class MemberState(enum.Enum):
    """Where a device stands in a rollout. Names are those of the wire."""

    PENDING = "PENDING"
    UPDATING = "UPDATING"
    COMMITTED = "COMMITTED"
    FAILED = "FAILED"
    REVERTING = "REVERTING"
    REVERTED = "REVERTED"


class MemberEvent(enum.Enum):
    """What moves a device."""

    ASSIGN = "its wave opens"
    COMMIT = "it committed the release"
    REFUSE = "it refused the release or took it back"
    RECALL = "the rollout is stopped"
    RETURN = "it settled on its baseline"
    GIVE_UP = "it is offline for too long"


MEMBER_TABLE: dict[tuple[MemberState, MemberEvent], MemberState] = {
    (MemberState.PENDING, MemberEvent.ASSIGN): MemberState.UPDATING,
    (MemberState.PENDING, MemberEvent.RECALL): MemberState.REVERTED,
    (MemberState.UPDATING, MemberEvent.COMMIT): MemberState.COMMITTED,
    (MemberState.UPDATING, MemberEvent.REFUSE): MemberState.FAILED,
    (MemberState.UPDATING, MemberEvent.RECALL): MemberState.REVERTING,
    (MemberState.REVERTING, MemberEvent.RETURN): MemberState.REVERTED,
    (MemberState.REVERTING, MemberEvent.GIVE_UP): MemberState.REVERTED,
}
SETTLED = frozenset({MemberState.COMMITTED, MemberState.FAILED, MemberState.REVERTED})
RECALLABLE = frozenset(state for state, event in MEMBER_TABLE if event is MemberEvent.RECALL)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Moves devices from the releases that they run to another.

    Attributes:
        id: ``ro-`` and the number.
        number: grows with each rollout.
        release_id: what devices move to.
        release_digest: digest of its manifest's payload.
        selector: how they were chosen, as it was written.
        state: where it stands.
        created: when.
        waves: how many there are.
        wave: the last one that opened; -1 before the first.
        reason: why it is where it is, in a sentence.
        ended: when it ended.
    """

    id: str
    number: int
    release_id: str
    release_digest: str
    selector: str
    state: RolloutState
    created: datetime
    waves: int = 1
    wave: int = -1
    reason: str = ""
    ended: datetime | None = None

    @property
    def active(self) -> bool:
        """It has not ended."""
        return self.state not in ENDED

    def moved(self, event: RolloutEvent, *, reason: str, now: datetime) -> Rollout:
        """The rollout after an event.

        Raises:
            PreconditionError: the table does not know this move.
        """
        state = ROLLOUT_TABLE.get((self.state, event))
        if state is None:
            raise PreconditionError(
                f"rollout {self.id} is {self.state.value}", remedy="only a rollout that is under way can change"
            )
        return dataclasses.replace(self, state=state, reason=reason, ended=now if state in ENDED else None)


@dataclasses.dataclass(frozen=True)
class Member:
    """A device in a rollout.

    Attributes:
        rollout_id: of which.
        device_id: which device.
        device_name: its name, for people.
        baseline_release_id: what it ran before; empty where nothing.
        wave: counts from 0.
        state: where it stands.
        generation: of the assignment that was last written for it; 0 before the first.
        detail: what it does, for people.
    """

    rollout_id: str
    device_id: str
    device_name: str
    baseline_release_id: str
    wave: int
    state: MemberState = MemberState.PENDING
    generation: int = 0
    detail: str = ""

    def moved(self, event: MemberEvent, *, detail: str = "") -> Member:
        """The device after an event.

        Raises:
            PreconditionError: the table does not know this move.
        """
        state = MEMBER_TABLE.get((self.state, event))
        if state is None:
            raise PreconditionError(f"device {self.device_name} is {self.state.value} in {self.rollout_id}")
        return dataclasses.replace(self, state=state, detail=detail)


Tally = Mapping[tuple[int, MemberState], int]
"""Numbers of devices by wave and state."""


@dataclasses.dataclass(frozen=True)
class Move:
    """The rollout moves."""

    event: RolloutEvent
    reason: str


@dataclasses.dataclass(frozen=True)
class OpenWave:
    """Every device of a wave gets the release."""

    wave: int


@dataclasses.dataclass(frozen=True)
class Recall:
    """Every device that has not settled goes back to its baseline."""


Action = Move | OpenWave | Recall


def decide(rollout: Rollout, tally: Tally, now: datetime) -> list[Action]:  # soak times will ask for it
    """What is to be done next. Applied and asked again, it comes to rest at an empty list.

    Args:
        rollout: as it stands.
        tally: its devices.
        now: for rules with time in them.
    """
    match rollout.state:
        case RolloutState.PENDING:
            return [Move(RolloutEvent.START, f"wave 1 of {rollout.waves} is under way"), OpenWave(0)]
        case RolloutState.PROGRESSING:
            if any(n and wave <= rollout.wave and state not in SETTLED for (wave, state), n in tally.items()):
                return []
            if rollout.wave + 1 < rollout.waves:
                return [OpenWave(rollout.wave + 1)]
            total, failed = sum(tally.values()), _in_state(tally, MemberState.FAILED)
            if failed:
                first = f"; {rollout.reason}" if rollout.reason else ""
                reason = f"{failed} of {total} devices refused {rollout.release_id} or took it back{first}"
                return [Move(RolloutEvent.SOME_FAILED, reason)]
            devices = "the device" if total == 1 else f"all {total} devices"
            return [Move(RolloutEvent.ALL_COMMITTED, f"{devices} committed {rollout.release_id}")]
        case RolloutState.ABORTING:
            if any(_in_state(tally, state) for state in RECALLABLE):
                return [Recall()]
            if _in_state(tally, MemberState.REVERTING):
                return []
            kept = _in_state(tally, MemberState.COMMITTED)
            return [Move(RolloutEvent.ALL_BACK, f"{rollout.reason}; {kept} devices had committed and stay")]
        case _:
            return []


def _in_state(tally: Tally, state: MemberState) -> int:
    return sum(n for (_, found), n in tally.items() if found is state)


def wanted_release(member: Member, release_id: str) -> str:
    """What a device should run; empty for nothing but what it has committed."""
    return release_id if member.state in (MemberState.UPDATING, MemberState.COMMITTED) else member.baseline_release_id


def observe(member: Member, report: Report, *, release_id: str, release_digest: str) -> Member:
    """The device after a report: the same value where nothing changed.

    Args:
        member: as it stands.
        report: what the device says.
        release_id: what the rollout brings.
        release_digest: digest of that release's manifest payload.
    """
    if member.state not in (MemberState.UPDATING, MemberState.REVERTING):
        return member
    if report.generation != member.generation or not report.components:
        return member  # it does not know yet
    states = {component.state for component in report.components}
    if member.state is MemberState.REVERTING:
        return member.moved(MemberEvent.RETURN, detail=report.detail) if report.settled else _told(member, report)
    if ComponentState.REVERTED in states and report.settled:
        reasons = [c.reason for c in report.components if c.state is ComponentState.REVERTED and c.reason]
        return member.moved(MemberEvent.REFUSE, detail=reasons[0] if reasons else "it gave no reason")
    if states == {ComponentState.COMMITTED} and all(
        (c.release_id, c.release_digest or release_digest) == (release_id, release_digest) for c in report.components
    ):
        return member.moved(MemberEvent.COMMIT, detail="COMMITTED")
    return _told(member, report)


def _told(member: Member, report: Report) -> Member:
    return dataclasses.replace(member, detail=report.detail) if report.detail != member.detail else member


def give_up(member: Member, offline_for: timedelta) -> Member:
    """The device after a look at how long it has been offline: in a stopped rollout nobody waits for ever."""
    if member.state is MemberState.REVERTING and offline_for >= RECALL_PATIENCE:
        return member.moved(MemberEvent.GIVE_UP, detail="offline; it goes back when it returns")
    return member
