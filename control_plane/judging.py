"""Asks the judge: evidence from the store, a verdict of it, at a pace that leaves time for everything else.

Fails closed: evidence that cannot be read is a verdict of ERROR, and holds the rollout. (A store that does not answer
is no verdict: the next round asks again.)
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol

from control_plane import evidence
from control_plane.domain.judge import Decision, Evidence, Verdict, evaluate
from control_plane.domain.rollout import Member, Rollout
from control_plane.domain.strategy import JudgePolicy
from control_plane.fleet import Fleet
from control_plane.store.port import Reading, Store
from maskfleet.clock import Clock
from maskfleet.errors import UnavailableError

JUMP = timedelta(seconds=5)
"""A difference between the wall clock's and the monotonic clock's steps from which on the wall clock was set."""


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
    """Time as it was watched: steps of the monotonic clock, and since when the wall clock can be believed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """From now on: what was before was not watched."""
        self._monotonic, self._wall = self._clock.monotonic(), self._clock.now()
        self.steady_since = self._wall

    def step(self) -> timedelta:
        """The time since the last step."""
        monotonic, wall = self._clock.monotonic(), self._clock.now()
        step = timedelta(seconds=max(0.0, monotonic - self._monotonic))
        if abs((wall - self._wall) - step) >= JUMP:
            self.steady_since = wall
        self._monotonic, self._wall = monotonic, wall
        return step


class Judging:
    """Asks the judge about rollouts."""

    def __init__(self, store: Store, fleet: Fleet, clock: Clock, judge: Judge) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._judge = judge

    async def ask(
        self, rollout: Rollout, members: Iterable[Member], *, steady_since: Callable[[], datetime]
    ) -> Decision:
        """What the judge says of a rollout as it stands.

        Args:
            rollout: with a wave that is open.
            members: its devices.
            steady_since: since when the wall clock can be believed: silence from before tells nothing.

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
            return Decision(Verdict.ERROR, (f"the evidence cannot be read: {type(error).__name__}: {error}",))
        found = dataclasses.replace(found, listening_since=max(found.listening_since, steady_since()))
        policy = rollout.strategy.judge
        return await asyncio.to_thread(self._judge.evaluate, policy, found, now, soaked=rollout.soaked)
