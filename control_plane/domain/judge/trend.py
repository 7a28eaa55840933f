"""A cohort over time, for people: how many frames, how many failed, and p95, in at most :data:`POINTS` points."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from datetime import datetime, timedelta

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge.evidence import Interval, placed
from control_plane.domain.judge.figures import measure

POINTS = 60
_SHORTEST = timedelta(seconds=1)
_BEFORE = 0.25  # of the time shown lies before the rollout


@dataclasses.dataclass(frozen=True)
class CohortPoint:
    """A cohort over an interval.

    Attributes:
        time: its end, by the plane's clock.
        frames: that count.
        failed: of these.
        p95_ms: over all frames; None where none was timed.
    """

    time: datetime
    frames: int
    failed: int
    p95_ms: float | None


@dataclasses.dataclass(frozen=True)
class CohortSeries:
    """A cohort's figures.

    Attributes:
        cohort: which.
        devices: how many.
        points: oldest first; an interval without a window has none.
    """

    cohort: Cohort
    devices: int
    points: tuple[CohortPoint, ...]


def trend(cohort: Cohort, devices: Sequence[Sequence[Interval]], *, begin: datetime, end: datetime) -> CohortSeries:
    """A cohort from some time before ``begin`` to ``end``.

    Args:
        cohort: whose.
        devices: intervals by device.
        begin: of the rollout.
        end: of what is shown.
    """
    times = [(time, interval) for intervals in devices for time, interval in placed(intervals)]
    span = max(end - begin, _SHORTEST * POINTS / 2) / (1 - _BEFORE)
    lengths = [interval.length for _, interval in times if interval.length > timedelta(0)]
    # A point that is shorter than a window would be empty every other time.
    usual = timedelta(seconds=statistics.median(length.total_seconds() for length in lengths)) if lengths else _SHORTEST
    width = max(span / POINTS, usual, _SHORTEST)
    buckets: dict[int, list[Interval]] = {}
    for time, interval in times:
        if end - span < time <= end:
            buckets.setdefault(int((end - time) / width), []).append(interval)
    points = []
    for age in sorted(buckets, reverse=True)[-POINTS:]:
        told = measure(buckets[age])
        points.append(CohortPoint(end - width * age, told.frames, told.failed, told.p95_ms))
    return CohortSeries(cohort, len(devices), tuple(points))
