"""Carries out what :mod:`edge_agent.updates.reconcile` decides: one thread, one step at a time.

Rules:

- The committed release serves until another one has passed its self-test, and again as soon as that one fails.
- During the soak both are loaded, so that going back takes no load: it happens at the next frame.
- Nothing that a release does can stop this thread; an error settles the update as REVERTED, with its reason.

Example::

    updater = Updater(slots, tools, identity facts …)
    updater.start()
    updater.desire(desired)
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Mapping

from edge_agent.serving import Serving
from edge_agent.updates.download import check
from edge_agent.updates.messages import Desired, Report
from edge_agent.updates.reconcile import (
    SETTLED,
    Action,
    Event,
    Holdings,
    State,
    Step,
    Update,
    advance,
    check_assignment,
    event_for,
    next_step,
    retry_delay,
)
from edge_agent.updates.reporting import Refusal, Served, report_of
from edge_agent.updates.slots import Slots
from edge_agent.updates.stage import Stage
from edge_agent.updates.steps import Steps, Tools
from edge_agent.updates.trust import goal_of, read_assignment, read_manifest
from maskfleet.clock import Clock
from maskfleet.errors import (
    CanceledError,
    CapacityError,
    EngineError,
    FleetError,
    IntegrityError,
    OutputError,
    PreconditionError,
    SelfTestError,
)
from maskfleet.logs import correlated, get_logger
from maskfleet.manifest import MANIFEST_TYPE

_log = get_logger(__name__)


class Updater:
    """Keeps this device on the release that the plane wants.

    Args:
        slots: where releases are kept; from now on used by this object's thread alone.
        serving: what the frames are masked with.
        tools: see :class:`Tools`.
        device_id: of this device.
        targets: what it can run, best first.
        soak_s: how long a release is watched before it is committed.
        clock: where time comes from.
    """

    def __init__(
        self,
        slots: Slots,
        serving: Serving,
        tools: Tools,
        *,
        device_id: str,
        targets: tuple[str, ...],
        soak_s: float,
        clock: Clock,
    ) -> None:
        self._slots = slots
        self._serving = serving
        self._tools = tools
        self._stage = Stage(serving, tools.load, tools.noted)
        self._steps = Steps(slots, self._stage, tools, progress=self._progress, superseded=self._superseded)
        self._device_id = device_id
        self._targets = targets
        self._soak_s = soak_s
        self._clock = clock
        self._wake = threading.Condition()
        self._stopping = False
        self._inbox: Desired | None = None
        self._poked = False
        self._soaking_id = ""
        self._soak_error = ""
        # Below: this object's thread only.
        self._desired: Desired | None = None
        self._correlation_id = ""  # of what is wanted; one of this device's own where nobody wanted anything
        self._update: Update | None = None
        self._owed: Update | None = None  # refused, and not yet written down
        self._refusal: Refusal | None = None
        self._restored = False
        self._restore_at = 0.0
        self._restore_failures = 0
        self._bytes_done = 0
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)

    def start(self) -> None:
        """Starts the thread, which first puts the committed release in place."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends the thread; a download stays as it is, to be gone on with."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(timeout_s)

    def desire(self, desired: Desired) -> None:
        """Takes what the plane wants. From any thread."""
        with self._wake:
            self._inbox = desired
            self._wake.notify_all()

    def poke(self) -> None:
        """Says that the plane can be reached: what waits for that is tried at once. From any thread."""
        with self._wake:
            self._poked = True
            self._wake.notify_all()

    def engine_failed(self, release_id: str, detail: str) -> None:
        """Says that a frame met a failing engine. From any thread; cheap unless it matters."""
        if release_id != self._soaking_id or not release_id:
            return
        with self._wake:
            if release_id == self._soaking_id:  # it may have been committed in between
                self._soak_error = self._soak_error or detail
                self._wake.notify_all()

    # One step at a time.

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._sleep(self.turn())
            except Exception as error:  # noqa: BLE001  # without this thread nothing could ever be mended from afar
                _log.error("updates failed unexpectedly", exc_info=error)
                self._sleep(self._clock.monotonic() + retry_delay(3))
        if self._update is not None and self._update.state not in SETTLED:
            with contextlib.suppress(FleetError):
                self._slots.end_attempts()

    def turn(self) -> float | None:
        """Does the next thing. The thread's own; public for whoever has no thread.

        Returns:
            When there is something to do again, on the monotonic clock; None for not before somebody says something.
        """
        now = self._clock.monotonic()
        with self._wake:
            if self._inbox is not None:
                self._desired, self._inbox = self._inbox, None
                self._correlation_id = self._desired.correlation_id
            poked, self._poked = self._poked, False
        if poked:
            self._restore_at = 0.0
            if self._update is not None and self._update.state is State.DOWNLOADING:
                self._update = dataclasses.replace(self._update, not_before=0.0)
        with correlated(self._correlation_id) as self._correlation_id:
            return self._did(now)

    def _did(self, now: float) -> float | None:
        try:
            self._settle()
            if not self._restored and now >= self._restore_at:
                self._restore(now)
            if self._desired is not None:
                self._take(self._desired)
            step = self._next(now)
            if step.action not in (Action.REST, Action.WAIT):
                self._carry_out(step)
                return now
        except (CapacityError, OutputError) as error:  # state.json cannot be written: keep what is, try again
            self._say("the disk refuses", trouble=str(error))
            return now + retry_delay(3)
        wakes = [step.until] if step.action is Action.WAIT else []
        if not self._restored:
            wakes.append(self._restore_at)
        return min(wakes, default=None)

    def _sleep(self, until: float | None) -> None:
        with self._wake:
            if not (self._stopping or self._poked or self._soak_error or self._inbox is not None):
                self._wake.wait(None if until is None else max(0.0, until - self._clock.monotonic()))

    def _next(self, now: float) -> Step:
        update = self._update
        engines: Mapping[str, str] = {}
        if update is not None and update.state is State.DOWNLOADING:
            engines = self._slots.engines()
        if update is not None and update.state is State.SOAKING and self._soak_error:
            self._fail(
                EngineError(self._soak_error, remedy="build the release again, or try it on this kind of device")
            )
        return next_step(
            self._update, Holdings(self._stage.committed_digest, engines, self._slots.record.attempts), now
        )

    def _carry_out(self, step: Step) -> None:
        update = self._update
        if update is None:
            return
        if step.action is Action.TEST:  # it serves from within this step on
            self._watch(update.goal.release_id)
        try:
            event = self._steps.carry_out(step, update.goal)
        except CanceledError:
            return  # something newer is wanted, or the agent stops
        except FleetError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # a release must not end the thread that could replace it
            _log.error("an update failed unexpectedly", exc_info=error)
            self._fail(EngineError(f"release {update.goal.release_id} failed with {type(error).__name__}: {error}"))
        else:
            if event is Event.SOAKED:
                self._restored = True
                self._watch("")
            self._move(event)

    def _watch(self, release_id: str) -> None:
        with self._wake:
            self._soaking_id, self._soak_error = release_id, ""

    def _move(self, event: Event, reason: str = "") -> None:
        if self._update is None:
            return
        before = self._update.state
        self._update = advance(self._update, event, now=self._clock.monotonic(), reason=reason, soak_s=self._soak_s)
        self._trouble = ""
        _log.info(
            "update",
            release=self._update.goal.release_id,
            generation=self._update.goal.generation,
            before=before.value,
            state=self._update.state.value,
            reason=reason,
        )
        self._tell()

    def _fail(self, error: FleetError) -> None:
        """An error: waits, fetches again, or settles the update as refused."""
        update = self._update
        if update is None:
            return
        event, reason = event_for(error, update.state), str(error)
        after = advance(update, event, now=self._clock.monotonic(), reason=reason)
        filled = update.state is not State.DOWNLOADING  # before that the standby slot holds the release of before
        if filled and event is Event.CORRUPT:
            self._slots.empty_standby()
        if after.state is State.REVERTED:
            self._abandon()
            if filled:
                self._slots.empty_standby()
            self._owed = after
            self._tools.noted("update", "reverted")
        self._move(event, reason)
        self._settle()

    def _settle(self) -> None:
        """Writes down an update that was refused. A disk that is full just then must not let it serve again."""
        if self._owed is not None:
            goal = self._owed.goal
            self._slots.revert(goal.generation, goal.release_id, self._owed.reason)
            self._owed = None
            self._tell()

    # What is wanted.

    def _take(self, desired: Desired) -> None:
        self._desired = None
        if not desired.assignment:
            return
        try:
            assignment = read_assignment(desired.assignment, self._tools.trusted())
            record = self._slots.record
            news = check_assignment(
                assignment,
                device_id=self._device_id,
                generation=record.generation,
                release_digest=record.generation_digest,
            )
        except FleetError as error:
            self._refusal = Refusal(desired.generation, str(error))
            self._say("an assignment was refused", reason=str(error), generation=desired.generation)
            return
        in_hand = self._update is not None and self._update.goal.generation == assignment.generation
        try:
            self._refusal = None
            if news:
                self._abandon()
                self._update = None
                self._slots.accept(assignment.generation, assignment.release_digest)
            elif in_hand or record.settled_generation == assignment.generation:
                return
            if not assignment.release_digest:
                self._slots.keep(assignment.generation, self._committed_release())
                self._say("nothing but the committed release is wanted", generation=assignment.generation)
                return
            manifest = read_manifest(desired.manifest, self._tools.trusted(), assignment.release_digest)
            self._steps.manifest, self._steps.assignment = desired.manifest, desired.assignment
            self._update = Update(goal_of(assignment, manifest, self._targets))
            self._bytes_done = 0
            self._say("a release is wanted", release=assignment.release_id, generation=assignment.generation)
        except (CapacityError, OutputError):
            self._desired = desired  # the disk; it is tried again
            raise
        except FleetError as error:
            self._slots.revert(assignment.generation, assignment.release_id, str(error))
            self._say("a release was refused", release=assignment.release_id, reason=str(error))

    def _abandon(self) -> None:
        """Back to the committed release, whatever the candidate was doing."""
        self._watch("")
        self._stage.abandon()

    # The committed release.

    def _committed_release(self) -> str:
        content = self._slots.content(self._slots.record.committed) if self._slots.record.committed else None
        return content.manifest.release_id if content is not None else ""

    def _restore(self, now: float) -> None:
        """Puts the committed slot's release in place; fails closed where it cannot."""
        slot = self._slots.record.committed
        if not slot:
            self._restored = True
            self._tell()
            return
        try:
            content = self._slots.content(slot)
            if content is None:
                raise IntegrityError(f"slot {slot} cannot be read", remedy="assign the release again")
            trusted = self._tools.trusted()
            if not trusted:  # the credential is gone: nothing can be told of the slot until the device has joined again
                raise PreconditionError("this device is not enrolled", remedy="enrol it again with a join token")
            content.envelope.opened(MANIFEST_TYPE, trusted)
            check(content.engine, content.entry.digest)
            self._stage.restore(content, self._tools.self_test)
        except Exception as error:  # noqa: BLE001  # the thread has to live on, so that another release can come
            if isinstance(error, IntegrityError) and not isinstance(error, SelfTestError):
                self._slots.disown()
                self._restored = True
                self._say("the committed release is damaged", trouble=str(error))
                return
            self._restore_failures += 1
            self._restore_at = now + retry_delay(self._restore_failures + 1)
            self._say("the committed release cannot be loaded", trouble=str(error) or type(error).__name__)
        else:
            self._restored = True
            self._say("the committed release serves", release=content.manifest.release_id)

    def _superseded(self, generation: int) -> bool:
        return self._stopping or (self._inbox is not None and self._inbox.generation != generation)

    # Reports.

    def _progress(self, done: int) -> None:
        self._bytes_done = done
        self._tell()

    def _say(self, event: str, *, trouble: str = "", **fields: object) -> None:
        self._trouble = trouble
        level = _log.warning if trouble or "reason" in fields else _log.info
        level(event, **({"trouble": trouble} if trouble else {}), **fields)
        self._tell()

    def _tell(self) -> None:
        self._tools.report(self._report())

    def _report(self) -> Report:
        serving = self._serving.current()
        served = Served(serving.release_id, serving.engine.info.target) if serving is not None else Served()
        return report_of(
            self._slots.record,
            self._update,
            self._refusal,
            served,
            bytes_done=self._bytes_done,
            trouble=self._trouble,
        )
