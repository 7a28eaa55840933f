"""Each step of an update: what :mod:`edge_agent.updates.reconcile` names is done here, and gives an event."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.updates.download import Fetch, check, download
from edge_agent.updates.messages import Report
from edge_agent.updates.reconcile import Action, Event, Goal, Step
from edge_agent.updates.slots import Content, Slots
from edge_agent.updates.stage import Load, Noted, SelfTest, Stage
from maskfleet.errors import EngineError, IntegrityError


@dataclasses.dataclass(frozen=True)
class Tools:
    """What an updater works with.

    Attributes:
        fetch: where engines come from.
        load: target, file and decoder → engine.
        self_test: raises SelfTestError or EngineError where an engine is not fit to serve.
        trusted: public keys of the plane by fingerprint; asked each time, for they come with enrolment.
        report: told whenever the state changes.
        noted: told of loads, self-tests and swaps: what it was, and how it ended.
    """

    fetch: Fetch
    load: Load
    self_test: SelfTest
    trusted: Callable[[], Mapping[str, bytes]]
    report: Callable[[Report], None] = lambda report: None
    noted: Noted = lambda what, result: None


class Steps:
    """Carries out steps on the slots and the stage. Used by one thread.

    Args:
        slots: where releases are kept.
        stage: where they are loaded.
        tools: see :class:`Tools`.
        progress: told how many bytes of a download are there.
        superseded: whether another generation than this one is wanted by now, or the agent stops.

    Attributes:
        manifest: envelope of the release that is worked on.
        assignment: envelope of its assignment.
    """

    def __init__(
        self,
        slots: Slots,
        stage: Stage,
        tools: Tools,
        *,
        progress: Callable[[int], None],
        superseded: Callable[[int], bool],
    ) -> None:
        self.manifest = b""
        self.assignment = b""
        self._slots = slots
        self._stage = stage
        self._tools = tools
        self._progress = progress
        self._superseded = superseded

    def carry_out(self, step: Step, goal: Goal) -> Event:
        """Does what a step says, and tells what came of it.

        Raises:
            CanceledError: something else is wanted by now.
            FleetError: it did not work; :func:`edge_agent.updates.reconcile.event_for` says what that means.
        """
        acts = {
            Action.FETCH: self._fetch,
            Action.REUSE: self._reuse,
            Action.VERIFY: self._verify,
            Action.LOAD: self._load,
            Action.TEST: self._test,
            Action.COMMIT: self._commit,
            Action.KEEP: self._keep,
            Action.GIVE_UP: self._give_up,
        }
        return acts[step.action](goal, step)

    def _fetch(self, goal: Goal, step: Step) -> Event:
        part = self._slots.part(goal.engine_digest)
        download(
            goal.engine_digest,
            goal.engine_bytes,
            part,
            self._tools.fetch,
            progress=self._progress,
            stopping=lambda: self._superseded(goal.generation),
        )
        self._fill(part, goal, keep=False)
        return Event.FETCHED

    def _reuse(self, goal: Goal, step: Step) -> Event:
        content = self._slots.content(step.slot)
        if content is None:
            raise IntegrityError(f"slot {step.slot} cannot be read", remedy="assign the release again")
        self._fill(content.engine, goal, keep=True)
        self._progress(goal.engine_bytes)
        return Event.FETCHED

    def _fill(self, engine: Path, goal: Goal, *, keep: bool) -> None:
        self._slots.fill(engine, target=goal.target, manifest=self.manifest, assignment=self.assignment, keep=keep)

    def _verify(self, goal: Goal, step: Step) -> Event:
        check(self._standby().engine, goal.engine_digest)
        return Event.VERIFIED

    def _load(self, goal: Goal, step: Step) -> Event:
        self._slots.begin_attempt()
        self._stage.load_candidate(self._standby())
        return Event.LOADED

    def _test(self, goal: Goal, step: Step) -> Event:
        self._stage.test_candidate(self._tools.self_test)
        self._stage.serve_candidate()
        return Event.PASSED

    def _commit(self, goal: Goal, step: Step) -> Event:
        self._stage.check_candidate()
        self._slots.commit(goal.generation, goal.release_id)
        self._stage.promote()
        self._tools.noted("update", "committed")
        return Event.SOAKED

    def _keep(self, goal: Goal, step: Step) -> Event:
        self._slots.keep(goal.generation, goal.release_id)
        return Event.KEPT

    def _give_up(self, goal: Goal, step: Step) -> Event:
        raise EngineError(
            f"the agent ended {self._slots.record.attempts} times while it tried release {goal.release_id}",
            remedy="look for the reason in the system's log, and build the release again",
        )

    def _standby(self) -> Content:
        content = self._slots.content(self._slots.standby)
        if content is None:
            raise IntegrityError("the standby slot cannot be read", remedy="assign the release again")
        return content
