"""Rollouts as two tables: one moves the rollout, one moves each of its devices. Nothing else moves either.

Rules
- Devices belong to waves, counted from 0. Which devices a rollout has, and in which wave, is settled when it is made:
  a device that is relabelled later, or added, changes nothing.
- What is wanted of a device follows from where it stands (:func:`wanted_release`): the new release while it updates and
  once it has committed, its baseline in every other state. So a device that refuses a release is sent back to what it
  ran before, and so is one that is recalled, rolled back, or left behind.
- A rollout that *proves* has a wave 0 in front: one device for each engine that has not run on any device of its target
  yet. It is looked at for hard limits and silence whatever the judge is, and nothing else opens before all of it has
  committed.
- A device that is offline stays UPDATING and catches up when it returns, unless the strategy's ``expire_after`` leaves
  it behind. On the way back it is not waited for longer than :data:`RECALL_PATIENCE`: what is wanted of it is written
  down, and it goes back when it returns.
- A soak is *watched time*, added up from steps of at most :data:`LONGEST_STEP`: what the wall clock does, and the time
  in which no plane was up, change nothing. Pausing stops it; going on goes on where it stopped.

What moves a rollout when is :mod:`control_plane.domain.waves`.

>>> rollout.moved(RolloutEvent.PAUSE, reason="an operator paused it", now=now).state
<RolloutState.PAUSED: 'PAUSED'>
"""

from __future__ import annotations

import dataclasses
import enum
from datetime import datetime, timedelta

from control_plane.domain.cohort import Cohort
from control_plane.domain.device import ComponentState, Report
from control_plane.domain.strategy import Strategy
from maskfleet.errors import PreconditionError

RECALL_PATIENCE = timedelta(seconds=60)
LONGEST_STEP = timedelta(seconds=5)
"""Of watched time: a step that is longer was not watched to its end (a clock that jumped, a machine that slept)."""


class RolloutState(enum.Enum):
    """Where a rollout stands. Names are those of the wire."""

    PENDING = "PENDING"
    PROGRESSING = "PROGRESSING"
    SOAKING = "SOAKING"
    HELD = "HELD"
    PAUSED = "PAUSED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTING = "ABORTING"
    ABORTED = "ABORTED"


class RolloutEvent(enum.Enum):
    """What moves a rollout."""

    START = "its first wave opens"
    SETTLE = "the wave's devices have settled"
    PROVE = "its engines are proved, wave 1 opens"
    PASS = "the judge passes the wave, the next one opens"  # noqa: S105  # no password
    ALL_COMMITTED = "every device committed"
    SOME_FAILED = "every device settled, not all committed"
    HARM = "the release does harm"
    HOLD = "the judge cannot tell, or failed"
    PAUSE = "an operator pauses it"
    RESUME = "an operator goes on"
    PROMOTE = "an operator opens every wave"
    ABORT = "an operator stops it"
    ALL_BACK = "every device settled"


_S, _E = RolloutState, RolloutEvent
ROLLOUT_TABLE: dict[tuple[RolloutState, RolloutEvent], RolloutState] = {
    (_S.PENDING, _E.START): _S.PROGRESSING,
    (_S.PENDING, _E.ABORT): _S.ABORTING,
    (_S.PROGRESSING, _E.PROVE): _S.PROGRESSING,
    (_S.PROGRESSING, _E.SETTLE): _S.SOAKING,
    (_S.PROGRESSING, _E.ALL_COMMITTED): _S.SUCCEEDED,
    (_S.PROGRESSING, _E.SOME_FAILED): _S.FAILED,
    (_S.PROGRESSING, _E.HARM): _S.ROLLING_BACK,
    (_S.PROGRESSING, _E.HOLD): _S.HELD,
    (_S.PROGRESSING, _E.PAUSE): _S.PAUSED,
    (_S.PROGRESSING, _E.PROMOTE): _S.PROGRESSING,
    (_S.PROGRESSING, _E.ABORT): _S.ABORTING,
    (_S.SOAKING, _E.PASS): _S.PROGRESSING,
    (_S.SOAKING, _E.ALL_COMMITTED): _S.SUCCEEDED,
    (_S.SOAKING, _E.HARM): _S.ROLLING_BACK,
    (_S.SOAKING, _E.HOLD): _S.HELD,
    (_S.SOAKING, _E.PAUSE): _S.PAUSED,
    (_S.SOAKING, _E.PROMOTE): _S.PROGRESSING,
    (_S.SOAKING, _E.ABORT): _S.ABORTING,
    (_S.HELD, _E.HARM): _S.ROLLING_BACK,
    (_S.HELD, _E.RESUME): _S.PROGRESSING,
    (_S.HELD, _E.PROMOTE): _S.PROGRESSING,
    (_S.HELD, _E.ABORT): _S.ABORTING,
    (_S.PAUSED, _E.HARM): _S.ROLLING_BACK,
    (_S.PAUSED, _E.RESUME): _S.PROGRESSING,
    (_S.PAUSED, _E.PROMOTE): _S.PROGRESSING,
    (_S.PAUSED, _E.ABORT): _S.ABORTING,
    (_S.ROLLING_BACK, _E.ALL_BACK): _S.ROLLED_BACK,
    (_S.ABORTING, _E.ALL_BACK): _S.ABORTED,
}
ENDED = frozenset({_S.SUCCEEDED, _S.FAILED, _S.ABORTED, _S.ROLLED_BACK})
OPERATORS = frozenset({_E.PAUSE, _E.RESUME, _E.PROMOTE, _E.ABORT})
"""Events that an operator brings about: each is kept with the rollout, as a :class:`Word`."""

KEPT_WORDS = 100
WATCHED = frozenset({_S.PROGRESSING, _S.SOAKING, _S.HELD, _S.PAUSED})
"""States in which a judged rollout is looked at: hard limits hold in all of them."""


class MemberState(enum.Enum):
    """Where a device stands in a rollout. Names are those of the wire."""

    PENDING = "PENDING"
    UPDATING = "UPDATING"
    COMMITTED = "COMMITTED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    REVERTING = "REVERTING"
    REVERTED = "REVERTED"


class MemberEvent(enum.Enum):
    """What moves a device."""

    ASSIGN = "its wave opens"
    COMMIT = "it committed the release"
    REFUSE = "it refused the release or took it back"
    EXPIRE = "it was offline for too long"
    RECALL = "the rollout is stopped"
    ROLL_BACK = "the release does harm"
    RETURN = "it settled on its baseline"
    GIVE_UP = "it is offline, its way back is written down"


MEMBER_TABLE: dict[tuple[MemberState, MemberEvent], MemberState] = {
    (MemberState.PENDING, MemberEvent.ASSIGN): MemberState.UPDATING,
    (MemberState.PENDING, MemberEvent.EXPIRE): MemberState.EXPIRED,
    (MemberState.PENDING, MemberEvent.RECALL): MemberState.REVERTED,
    (MemberState.PENDING, MemberEvent.ROLL_BACK): MemberState.REVERTED,
    (MemberState.UPDATING, MemberEvent.COMMIT): MemberState.COMMITTED,
    (MemberState.UPDATING, MemberEvent.REFUSE): MemberState.FAILED,
    (MemberState.UPDATING, MemberEvent.EXPIRE): MemberState.EXPIRED,
    (MemberState.UPDATING, MemberEvent.RECALL): MemberState.REVERTING,
    (MemberState.UPDATING, MemberEvent.ROLL_BACK): MemberState.REVERTING,
    (MemberState.COMMITTED, MemberEvent.RECALL): MemberState.REVERTING,
    (MemberState.COMMITTED, MemberEvent.ROLL_BACK): MemberState.REVERTING,
    (MemberState.REVERTING, MemberEvent.RETURN): MemberState.REVERTED,
    (MemberState.REVERTING, MemberEvent.GIVE_UP): MemberState.REVERTED,
}
SETTLED = frozenset({MemberState.COMMITTED, MemberState.FAILED, MemberState.EXPIRED, MemberState.REVERTED})
REVERSIBLE = frozenset(state for state, event in MEMBER_TABLE if event is MemberEvent.ROLL_BACK)
EXPIRING = frozenset(state for state, event in MEMBER_TABLE if event is MemberEvent.EXPIRE)

_REMEDIES = {
    RolloutEvent.PAUSE: "only a rollout that moves or is watched can be paused",
    RolloutEvent.RESUME: "only a rollout that is PAUSED or HELD can be resumed",
    RolloutEvent.PROMOTE: "only a rollout that is PROGRESSING, SOAKING, HELD or PAUSED can be promoted",
}


GIVEN_UP = "offline; it goes back when it returns"


@dataclasses.dataclass(frozen=True)
class Word:
    """What an operator did.

    Attributes:
        time: when, by the plane's clock.
        event: PAUSE, RESUME, PROMOTE or ABORT.
        state: in which the rollout was.
        wave: the last one that had opened; -1 before the first.
    """

    time: datetime
    event: RolloutEvent
    state: RolloutState
    wave: int


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
        strategy: how it goes about it, complete.
        wave: the last one that opened; -1 before the first.
        opened: when that was.
        watched: for how long it has been watched since its devices settled.
        promoted: an operator said not to wait for the judge.
        decisions: how many were written down.
        reason: why it is where it is, in a sentence.
        ended: when it ended.
        correlation_id: of the last thing that a person did with it: what follows is logged under that.
        words: what operators did, oldest first; the last :data:`KEPT_WORDS`.
    """

    id: str
    number: int
    release_id: str
    release_digest: str
    selector: str
    state: RolloutState
    created: datetime
    strategy: Strategy = Strategy()
    wave: int = -1
    opened: datetime | None = None
    watched: timedelta = timedelta(0)
    promoted: bool = False
    decisions: int = 0
    reason: str = ""
    ended: datetime | None = None
    correlation_id: str = ""
    words: tuple[Word, ...] = ()

    @property
    def active(self) -> bool:
        """It has not ended."""
        return self.state not in ENDED

    @property
    def waves(self) -> int:
        """How many there are."""
        return len(self.strategy.waves)

    @property
    def soak(self) -> timedelta:
        """For how long the wave that is open is watched."""
        return self.strategy.waves[self.wave].soak if self.wave >= 0 else timedelta(0)

    @property
    def soaked(self) -> bool:
        """The wave that is open was watched for long enough."""
        return self.state is RolloutState.SOAKING and self.watched >= self.soak

    @property
    def proving(self) -> bool:
        """The wave that is open is the wave 0, in which engines run on a device of their target for the first time."""
        return self.wave == 0 and self.strategy.proves

    @property
    def looked_at(self) -> bool:
        """The judge looks at it now."""
        return (self.strategy.judged or self.proving) and self.state in WATCHED and self.wave >= 0

    def named(self, wave: int) -> str:
        """A wave for people, as ``wave 2 of 3``; ``wave 0 of 3`` is the one that proves.

        Args:
            wave: counts from 0.
        """
        return f"{self.strategy.numbered(wave)} of {len(self.strategy.asked_for)}"

    def moved(self, event: RolloutEvent, *, reason: str, now: datetime) -> Rollout:
        """The rollout after an event.

        Raises:
            PreconditionError: the table does not know this move.
        """
        state = ROLLOUT_TABLE.get((self.state, event))
        if state is None:
            if not self.active:
                remedy = "it has ended; start another one"
            else:
                remedy = _REMEDIES.get(event, "only a rollout that is under way can change")
            raise PreconditionError(f"rollout {self.id} is {self.state.value}", remedy=remedy)
        watched = self.watched
        if self.state is RolloutState.HELD and event is RolloutEvent.RESUME:
            watched = min(watched, self.soak)  # the judge's patience begins again
        said = (Word(now, event, self.state, self.wave),) if event in OPERATORS else ()
        return dataclasses.replace(
            self,
            state=state,
            words=(*self.words, *said)[-KEPT_WORDS:],
            reason=reason,
            watched=watched,
            promoted=self.promoted or event is RolloutEvent.PROMOTE,
            ended=now if state in ENDED else None,
        )

    def opening(self, wave: int, now: datetime) -> Rollout:
        """The rollout once a wave opens."""
        return dataclasses.replace(self, wave=wave, opened=now, watched=timedelta(0))

    def after(self, step: timedelta) -> Rollout:
        """The rollout once it has been watched for a while longer; the same value where it is not watched."""
        step = min(max(step, timedelta(0)), LONGEST_STEP)
        if self.state is not RolloutState.SOAKING or not step:
            return self
        return dataclasses.replace(self, watched=self.watched + step)


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
        cohort: what it was drawn for: CONTROL is held out and moves with the last wave.
        stratum: within which it was drawn, as ``site=berlin``; empty where there is one for all.
        away: for how long it has been offline, as far as it was written down.
    """

    rollout_id: str
    device_id: str
    device_name: str
    baseline_release_id: str
    wave: int
    state: MemberState = MemberState.PENDING
    generation: int = 0
    detail: str = ""
    cohort: Cohort = Cohort.CANARY
    stratum: str = ""
    away: timedelta = timedelta(0)

    def moved(self, event: MemberEvent, *, detail: str = "") -> Member:
        """The device after an event.

        Raises:
            PreconditionError: the table does not know this move.
        """
        state = MEMBER_TABLE.get((self.state, event))
        if state is None:
            raise PreconditionError(f"device {self.device_name} is {self.state.value} in {self.rollout_id}")
        return dataclasses.replace(self, state=state, detail=detail)


def cohort_now(member: Member, wave: int) -> Cohort | None:
    """The cohort that a device belongs to while a wave is open: None where its turn has not come.

    A control device becomes a canary when its wave, the last one, opens.

    Args:
        member: the device.
        wave: the last one that opened; -1 before the first.
    """
    if member.wave <= wave:
        return Cohort.CANARY
    return Cohort.CONTROL if member.cohort is Cohort.CONTROL else None


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
        if not report.settled:
            return _told(member, report)
        detail = report.detail if member.baseline_release_id else "it ran nothing before and keeps what it has"
        return member.moved(MemberEvent.RETURN, detail=detail)
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
    """The device after a look at how long it has been offline: on the way back nobody waits for ever."""
    if member.state is MemberState.REVERTING and offline_for >= RECALL_PATIENCE:
        return member.moved(MemberEvent.GIVE_UP, detail=GIVEN_UP)
    return member


def expire(member: Member, away: timedelta, limit: timedelta | None) -> Member:
    """The device after a look at how long it has been offline before it had the release.

    Args:
        member: as it stands.
        away: for how long it has been offline, while a plane was up to see it return.
        limit: the strategy's ``expire_after``.
    """
    if limit is None or member.state not in EXPIRING or away < limit:
        return member
    return member.moved(MemberEvent.EXPIRE, detail=f"offline for {_span(limit)} or longer; it is left behind")


def _span(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
