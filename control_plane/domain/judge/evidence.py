"""What the judge is given: of each device what it said, when it was heard of, and whether it took the release.

A health window comes down to an :class:`Interval`: of what the window tells, what a verdict rests on. Rules

- A frame has **failed** where the device masked it whole or dropped it for a fault (:data:`FAULTS`): its engine failed,
  masking failed or left what it should cover, its deadline was missed, there was no engine.
- A frame does **not count** at all, neither as failed nor as a frame, where nobody can blame the release for it
  (:data:`NOT_COUNTED`): it was superseded by a newer one, the agent was shutting down, the client's picture was broken.
- Times are the plane's: clocks of devices are not trusted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta

from control_plane.domain.cohort import Cohort
from control_plane.domain.health import SOURCE_FRAME, StoredWindow

FAULTS = frozenset({"ENGINE_FAILED", "MASKING_FAILED", "DEADLINE_MISSED", "NO_ENGINE", SOURCE_FRAME})
NOT_COUNTED = frozenset({"SUPERSEDED", "SHUTTING_DOWN", "DECODE_FAILED"})
TOTAL = "TOTAL"
"""The stage that is the whole time of a frame in the agent."""


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """What a verdict needs of a health window.

    Attributes:
        release_id: what served; empty where nothing did.
        received: when the plane had it.
        boot_id: of which run of the agent.
        ended: on the device's monotonic clock.
        starts: how often the agent had started since it was installed.
        length: of the interval.
        frames: that count.
        failed: of these.
        bounds: of the latency histogram, in milliseconds.
        counts: frames per bucket; one more than there are bounds.
        self_tests_failed: golden self-tests that the device failed.
        source_frames: frames that left the device as they came.
    """

    release_id: str
    received: datetime
    boot_id: str = ""
    ended: timedelta = timedelta(0)
    starts: int = 0
    length: timedelta = timedelta(0)
    frames: int = 0
    failed: int = 0
    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    self_tests_failed: int = 0
    source_frames: int = 0


def interval_of(stored: StoredWindow) -> Interval:
    """A window (sound: :func:`control_plane.domain.health.fault`) as the judge sees it."""
    window = stored.window
    guarded = window.guard_actions_by_reason
    latency = window.latency_ms_by_stage.get(TOTAL)
    uncounted = sum(guarded.get(reason, 0) for reason in NOT_COUNTED)
    return Interval(
        release_id=window.release_id,
        received=stored.received,
        boot_id=window.boot_id,
        ended=timedelta(microseconds=window.end_monotonic_ns // 1000),
        starts=window.starts,
        length=timedelta(microseconds=(window.end_monotonic_ns - window.start_monotonic_ns) // 1000),
        frames=max(0, sum(window.frames_by_outcome.values()) - uncounted),
        failed=sum(guarded.get(reason, 0) for reason in FAULTS),
        bounds=latency.bounds if latency else (),
        counts=latency.counts if latency else (),
        self_tests_failed=window.self_tests_by_result.get("failed", 0),
        source_frames=window.errors_by_kind.get(SOURCE_FRAME, 0),
    )


def placed(intervals: Sequence[Interval]) -> list[tuple[datetime, Interval]]:
    """Intervals in the order of their receipt, each with the time at which it ended, by the plane's clock, as near as
    can be told: windows that were kept on a device while it was cut off come late and together.

    How the device's clock stands to the plane's is told by the one that was under way for the shortest time, of those
    of the same boot that came no earlier. (An earlier one may be from before the plane's clock was set.)
    """
    zero: dict[str, datetime] = {}
    found = []
    for interval in reversed(intervals):
        boot = interval.received - interval.ended
        zero[interval.boot_id] = min(boot, zero.get(interval.boot_id, boot))
        found.append((zero[interval.boot_id] + interval.ended, interval))
    return found[::-1]


@dataclasses.dataclass(frozen=True)
class DeviceEvidence:
    """A device of a rollout.

    Attributes:
        device_id: which.
        device_name: for people.
        cohort: canary or control.
        stratum: within which it was drawn.
        after: intervals since the wave opened, of the new release (canary) or of the one that it keeps (control).
        before: intervals of the release that it ran before, its own baseline.
        last_heard: when it last said anything; None where it never did.
        starts: of its agent, within the rollout.
        self_test_failures: within the rollout.
        source_frames_let_through: within the rollout.
        refused: why it refused the release or took it back; empty where it did not.
    """

    device_id: str
    device_name: str
    cohort: Cohort
    stratum: str = ""
    after: Sequence[Interval] = ()
    before: Sequence[Interval] = ()
    last_heard: datetime | None = None
    starts: int = 0
    self_test_failures: int = 0
    source_frames_let_through: int = 0
    refused: str = ""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything that goes into one evaluation.

    Attributes:
        rollout_id: which rollout.
        release_id: what it brings.
        wave: the one that is open, from 0.
        devices: canaries that have the release or are getting it, and the control cohort.
        since: when the wave opened.
        listening_since: since when the plane has been up to hear anything.
        seed: of the draw; goes into the record.
    """

    rollout_id: str
    release_id: str
    wave: int
    devices: tuple[DeviceEvidence, ...]
    since: datetime
    listening_since: datetime
    seed: int = 0
