"""From what the plane wants and where this device stands to the next thing to do.

Pure: values and ``now`` in, values out.

Rules:

- :data:`TRANSITIONS` is the state machine; nothing else moves an update from state to state.
- A generation never goes back, and one generation never means two releases.
- An update ends COMMITTED or REVERTED, once per generation: what was refused is tried again under a new generation
  only.
- What may pass by itself (a plane that is away, a full disk) is tried again, later each time. Bytes that are not what
  they should be are fetched once more. Everything else ends the update.
- An engine that some slot already holds is not fetched, and one that is loaded is not loaded twice.
- A process that died :data:`MAX_ATTEMPTS` times while it tried a release does not try it again.

Example::

    update = begin(goal)
    while (step := next_step(update, holdings, now)).action is not Action.REST:
        event = carry_out(step)
        update = advance(update, event, now=now)
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from maskfleet.errors import (
    AuthenticationError,
    BuildError,
    CanceledError,
    CapacityError,
    DeadlineError,
    DigestMismatchError,
    EngineError,
    FleetError,
    IntegrityError,
    InternalError,
    OutputError,
    UnavailableError,
)
from maskfleet.manifest import Assignment

MAX_ATTEMPTS = 3
MAX_CORRUPT = 2
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 120.0


class State(enum.Enum):
    """How far an update has come; the words of the wire's ``ComponentState``."""

    EMPTY = "empty"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    LOADING = "loading"
    TESTING = "testing"
    SOAKING = "soaking"
    COMMITTED = "committed"
    REVERTED = "reverted"


class Event(enum.Enum):
    """What happened to an update."""

    FETCHED = "the standby slot's engine is whole"
    CORRUPT = "its bytes are not what the manifest says"
    VERIFIED = "its bytes are what the manifest says"
    LOADED = "it is loaded"
    PASSED = "it finds the golden faces, and serves from the next frame on"
    SOAKED = "it served through the soak time and is committed"
    KEPT = "this very release is committed already"
    DELAYED = "something that may pass by itself"
    FAILED = "refused"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.DOWNLOADING, Event.FETCHED): State.VERIFYING,
    (State.DOWNLOADING, Event.KEPT): State.COMMITTED,
    (State.DOWNLOADING, Event.CORRUPT): State.DOWNLOADING,
    (State.DOWNLOADING, Event.DELAYED): State.DOWNLOADING,
    (State.DOWNLOADING, Event.FAILED): State.REVERTED,
    (State.VERIFYING, Event.VERIFIED): State.LOADING,
    (State.VERIFYING, Event.CORRUPT): State.DOWNLOADING,
    (State.VERIFYING, Event.DELAYED): State.VERIFYING,
    (State.VERIFYING, Event.FAILED): State.REVERTED,
    (State.LOADING, Event.LOADED): State.TESTING,
    (State.LOADING, Event.DELAYED): State.LOADING,
    (State.LOADING, Event.FAILED): State.REVERTED,
    (State.TESTING, Event.PASSED): State.SOAKING,
    (State.TESTING, Event.FAILED): State.REVERTED,
    (State.SOAKING, Event.SOAKED): State.COMMITTED,
    (State.SOAKING, Event.DELAYED): State.SOAKING,
    (State.SOAKING, Event.FAILED): State.REVERTED,
}
SETTLED = frozenset({State.COMMITTED, State.REVERTED})


@dataclasses.dataclass(frozen=True)
class Goal:
    """What an assignment comes to on this device.

    Attributes:
        generation: of the assignment.
        release_id: as ``r-3``.
        release_digest: of its manifest's payload.
        target: the one of this device's targets that the release has.
        engine_digest: of the engine for that target.
        engine_bytes: its size.
    """

    generation: int
    release_id: str
    release_digest: str
    target: str
    engine_digest: str
    engine_bytes: int


@dataclasses.dataclass(frozen=True)
class Update:
    """A goal and how far it has come.

    Attributes:
        goal: what is wanted.
        state: how far it has come.
        reason: why it was refused or waits; empty otherwise.
        failures: delays in a row.
        corrupt: how often its bytes were wrong.
        not_before: seconds on the monotonic clock before which nothing is done.
        soak_until: seconds on the monotonic clock until which it is watched.
    """

    goal: Goal
    state: State = State.DOWNLOADING
    reason: str = ""
    failures: int = 0
    corrupt: int = 0
    not_before: float = 0.0
    soak_until: float = 0.0


@dataclasses.dataclass(frozen=True)
class Holdings:
    """What the device has.

    Attributes:
        committed_digest: release digest in the committed slot, and loaded; empty where there is none.
        engines: engine digest by slot.
        attempts: how often this goal was begun to be loaded without an end.
    """

    committed_digest: str
    engines: Mapping[str, str]
    attempts: int = 0


class Action(enum.Enum):
    """What to do next."""

    REST = "nothing, until something changes"
    WAIT = "nothing, until a moment"
    FETCH = "download the engine"
    REUSE = "take the engine of another slot"
    VERIFY = "hold the engine against its digest"
    LOAD = "load the engine"
    TEST = "try the engine on the golden frames, then let it serve"
    COMMIT = "make it the slot that a restart comes back on"
    KEEP = "settle: the release is committed already"
    GIVE_UP = "settle: this process has died on it too often"


@dataclasses.dataclass(frozen=True)
class Step:
    """An action.

    Attributes:
        action: what to do.
        until: for WAIT, seconds on the monotonic clock.
        slot: for REUSE, the slot that has the engine.
    """

    action: Action
    until: float = 0.0
    slot: str = ""


def check_assignment(assignment: Assignment, *, device_id: str, generation: int, release_digest: str) -> bool:
    """Whether a verified assignment is news.

    Args:
        assignment: as its payload says.
        device_id: of this device.
        generation: the highest that was accepted; 0 for none.
        release_digest: the release that it meant.

    Raises:
        IntegrityError: it is for another device, its generation goes back, or the generation meant another release.
    """
    if assignment.device_id != device_id:
        raise IntegrityError(
            f"an assignment for device {assignment.device_id} reached {device_id}", remedy="assign to this device"
        )
    if assignment.generation < generation:
        raise IntegrityError(
            f"assignment {assignment.generation} is older than {generation}, which this device has accepted",
            remedy="make a new assignment; a plane restored from a backup must count on from there",
        )
    if assignment.generation == generation and assignment.release_digest != release_digest:
        raise IntegrityError(
            f"generation {generation} meant release {release_digest[:19]} before, now {assignment.release_digest[:19]}",
            remedy="make a new assignment with a higher generation",
        )
    return assignment.generation > generation


def next_step(update: Update | None, holdings: Holdings, now: float) -> Step:
    """What to do next.

    Args:
        update: the update in hand; None where nothing is wanted.
        holdings: what the device has.
        now: seconds on the monotonic clock.
    """
    if update is None or update.state in SETTLED:
        return Step(Action.REST)
    if update.not_before > now:
        return Step(Action.WAIT, until=update.not_before)
    goal = update.goal
    if update.state is State.DOWNLOADING:
        if holdings.committed_digest == goal.release_digest:
            return Step(Action.KEEP)
        if holdings.attempts >= MAX_ATTEMPTS:
            return Step(Action.GIVE_UP)
        if not update.corrupt:  # what turned out to be corrupt may be the very copy that a slot holds
            for slot, digest in sorted(holdings.engines.items()):
                if digest == goal.engine_digest:
                    return Step(Action.REUSE, slot=slot)
        return Step(Action.FETCH)
    if update.state is State.SOAKING:
        return Step(Action.COMMIT) if now >= update.soak_until else Step(Action.WAIT, until=update.soak_until)
    return Step({State.VERIFYING: Action.VERIFY, State.LOADING: Action.LOAD, State.TESTING: Action.TEST}[update.state])


def advance(update: Update, event: Event, *, now: float, reason: str = "", soak_s: float = 0.0) -> Update:
    """The update after an event.

    Args:
        update: before it.
        event: what happened.
        now: seconds on the monotonic clock.
        reason: why, for DELAYED, CORRUPT and FAILED.
        soak_s: how long a release is watched, for PASSED.

    Raises:
        InternalError: the table has no such transition.
    """
    if event is Event.CORRUPT and update.corrupt + 1 >= MAX_CORRUPT:
        event = Event.FAILED
    state = TRANSITIONS.get((update.state, event))
    if state is None:
        raise InternalError(f"an update that is {update.state.value} cannot take {event.name}")
    failures = update.failures + 1 if event in (Event.DELAYED, Event.CORRUPT) else 0
    return dataclasses.replace(
        update,
        state=state,
        reason=reason,
        failures=failures,
        corrupt=update.corrupt + (event is Event.CORRUPT),
        not_before=now + retry_delay(failures) if event is Event.DELAYED else 0.0,
        soak_until=now + soak_s if event is Event.PASSED else update.soak_until,
    )


def retry_delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, at most :data:`MAX_DELAY_S`."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 16)) if failures > 0 else 0.0


_PASSING = (UnavailableError, DeadlineError, CapacityError, AuthenticationError, CanceledError, OutputError)


def event_for(error: FleetError, state: State) -> Event:
    """What an error means for an update in a state."""
    wanted = Event.FAILED
    if isinstance(error, DigestMismatchError):
        wanted = Event.CORRUPT
    elif isinstance(error, _PASSING) or (
        isinstance(error, InternalError) and not isinstance(error, (EngineError, BuildError))
    ):
        wanted = Event.DELAYED  # InternalError: the plane's own fault, which another try may not meet
    return wanted if (state, wanted) in TRANSITIONS else Event.FAILED
