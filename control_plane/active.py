"""Rollouts that have not ended, as memory holds them between two transactions."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from control_plane.domain.device import Assignment
from control_plane.domain.judge.decision import Decision, DecisionRecord
from control_plane.domain.rollout import EXPIRING, Member, Rollout, RolloutState
from control_plane.domain.waves import STAYS
from control_plane.fleet import Fleet

SAVED_EVERY = timedelta(seconds=5)
"""Of watched time: what a plane that is killed has to watch again, at most."""

RECORDED_EVERY = timedelta(seconds=60)
"""While a wave is watched."""

_AWAY_PARTS = 20  # writes until a device that stays away is left behind
_FIGURES = re.compile(r"\d[\d.,]*")


@dataclasses.dataclass
class Change:
    """What a transaction writes, and memory takes over after it.

    Attributes:
        rollout: its new value.
        members: new values of devices, by id.
        assignments: that follow from them; filled in by whoever writes.
        record: a decision that it rests on.
        notes: kinds and texts for the history.
        actor: who brought it about, for the history.
    """

    rollout: Rollout
    members: dict[str, Member] = dataclasses.field(default_factory=dict)
    assignments: list[Assignment] = dataclasses.field(default_factory=list)
    record: DecisionRecord | None = None
    notes: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    actor: str = "plane"


class Active:
    """A rollout that has not ended, as the store has it; watched time may be a little ahead of the store's.

    Attributes:
        rollout: as it stands.
        members: its devices by id.
        tally: how many there are by wave and state.
        due: when the judge is asked next, in the monotonic seconds of the plane's clock.
    """

    def __init__(self, rollout: Rollout, members: Iterable[Member], newest: DecisionRecord | None = None) -> None:
        self.rollout = rollout
        self.members = {member.device_id: member for member in members}
        self.tally = Counter((m.wave, m.state) for m in self.members.values())
        self.due = 0.0
        self._newest = newest
        self._looks = 0
        self._watched_at_record = rollout.watched
        self._saved = rollout.watched
        self._away = {member.device_id: member.away for member in self.members.values()}

    def replace(self, member: Member) -> None:
        """Takes a member's new value."""
        old = self.members[member.device_id]
        self.tally[(old.wave, old.state)] -= 1
        self.tally[(member.wave, member.state)] += 1
        self.members[member.device_id] = member

    def take(self, change: Change) -> None:
        """Takes over what was written."""
        self.rollout, self._saved = change.rollout, change.rollout.watched
        for member in change.members.values():
            self.replace(member)
        if change.record is not None:
            self._newest, self._watched_at_record = change.record, change.rollout.watched
            self._looks = 0

    def watch(self, step: timedelta) -> bool:
        """Time passes; whether it is time to write down how far it has come."""
        self.rollout = self.rollout.after(step)
        return self.rollout.watched - self._saved >= SAVED_EVERY

    def away(self, fleet: Fleet, step: timedelta) -> list[tuple[Member, timedelta]]:
        """Time passes for devices that are offline and have not got the release; those for which it is worth a write.

        Args:
            fleet: knows who is there, or at another plane.
            step: how long, while this plane was there to see them return.
        """
        limit = self.rollout.strategy.expire_after
        if limit is None:
            return []
        worth = []
        for member in self.members.values():
            if member.state not in EXPIRING:
                continue
            gone = timedelta(0) if fleet.there(member.device_id) else self._away[member.device_id] + step
            self._away[member.device_id] = gone
            if gone >= limit or gone - member.away >= limit / _AWAY_PARTS or (member.away and not gone):
                worth.append((member, gone))
        return worth

    def away_for(self, device_id: str) -> timedelta:
        """For how long a device has been offline."""
        return self._away[device_id]

    def record(self, decision: Decision, action: str, now: datetime) -> DecisionRecord | None:
        """The record of a decision about the rollout as it stands; None where it says nothing new.

        New is another verdict, action, wave or sentence (figures that grow are none), the end of the soak, and
        anything after :data:`RECORDED_EVERY` of watched time. That a rollout stays held or paused is no other action.
        What says nothing new is counted, and the next record has the number.
        """
        self._looks += 1
        rollout, newest = self.rollout, self._newest
        soaked_since = rollout.soaked and self._watched_at_record < rollout.soak
        soaking = rollout.state is RolloutState.SOAKING
        long_ago = soaking and abs(rollout.watched - self._watched_at_record) >= RECORDED_EVERY
        if newest is not None and not soaked_since and not long_ago:
            same = action == newest.action or action in STAYS.values()
            said = (newest.verdict, newest.wave, [_FIGURES.sub("0", r) for r in newest.reasons])
            if same and said == (decision.verdict, rollout.wave, [_FIGURES.sub("0", r) for r in decision.reasons]):
                return None
        number = rollout.decisions + 1
        return DecisionRecord(
            id=f"{rollout.id}/{number}",
            rollout_id=rollout.id,
            number=number,
            time=now,
            wave=max(0, rollout.wave),
            verdict=decision.verdict,
            action=action,
            reasons=decision.reasons,
            statistical=decision.statistical,
            inputs={**decision.inputs, "looks": self._looks},
        )
