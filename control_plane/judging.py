"""Asks the judge: evidence from the store, a verdict of it, at a pace that leaves time for everything else.

Fails closed: evidence that cannot be read is a verdict of ERROR, and holds the rollout. (A store that does not answer
is no verdict: the next round asks again.)
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol

from control_plane import evidence
from control_plane.domain.judge import Decision, Evidence, Verdict, evaluate
from control_plane.domain.rollout import Member, Rollout
from control_plane.domain.strategy import JudgeKind, JudgePolicy
from control_plane.fleet import Fleet
from control_plane.store.port import Reading, Store
from maskfleet.clock import Clock
from maskfleet.errors import UnavailableError


class Gather(Protocol):
    """:func:`control_plane.evidence.gather`."""

    async def __call__(
        self,
        look: Reading,
        fleet: Fleet,
        rollout: Rollout,
        members: Iterable[Member],
        now: datetime,
    ) -> Evidence: ...


class Evaluate(Protocol):
    """:func:`control_plane.domain.judge.evaluate`."""

    def __call__(self, policy: JudgePolicy, evidence: Evidence, now: datetime, *, soaked: bool) -> Decision: ...


@dataclasses.dataclass(frozen=True)
class Judge:
    """What judges.

    Attributes:
        gather: collects the evidence.
        evaluate: comes to a verdict.
    """

    gather: Gather = evidence.gather
    evaluate: Evaluate = evaluate


class Watch:
    """Time as it was watched: steps of the monotonic clock, whatever the wall clock does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.monotonic()

    def step(self) -> timedelta:
        """The time since the last step."""
        last, self._last = self._last, self._clock.monotonic()
        return timedelta(seconds=max(0.0, self._last - last))


class Judging:
    """Asks the judge about rollouts."""

    def __init__(self, store: Store, fleet: Fleet, clock: Clock, judge: Judge) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._judge = judge

    async def ask(self, rollout: Rollout, members: Iterable[Member]) -> Decision:
        """What the judge says of a rollout as it stands.

        Args:
            rollout: with a wave that is open.
            members: its devices.

        Raises:
            UnavailableError: the store does not answer.
        """
        now = self._clock.now()
        try:
            async with self._store.reading() as look:
                found = await self._judge.gather(look, self._fleet, rollout, members, now)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  # fails closed: whatever it is, the rollout is held
            why = f"the evidence cannot be read: {type(error).__name__}: {error}"
            return Decision(Verdict.ERROR, (why, "so this record holds none"))
        policy = rollout.strategy.judge
        if rollout.proving:  # hard limits and silence: there is nothing yet to compare with
            policy = dataclasses.replace(policy, kind=JudgeKind.NONE)
        return await asyncio.to_thread(self._judge.evaluate, policy, found, now, soaked=rollout.soaked)
