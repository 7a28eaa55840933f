"""Cumulative series of many devices, added up: what each has counted since it was last heard of.

A device sends totals since a start of its own. What is new in them goes into the sums:

- The first value of a series counts in full if the series began after the plane did. An older one has been counted by a
  process before this one, and only what comes on top of it counts: sums are *since the start of the process*. Ages are
  compared, not times, so that a device's clock may be wrong.
- A later start, or a total that fell, is a restart: the new total counts in full.
- A value that is not newer than the last one repeats or comes late, and counts nothing. What it said is in a later one.

>>> ledger = Ledger()
>>> ledger.news("d-1", Point("frames", (), start_ns=0, time_ns=10, values=(3.0,)), uptime_ns=100)
(3.0,)
>>> ledger.news("d-1", Point("frames", (), start_ns=0, time_ns=20, values=(5.0,)), uptime_ns=110)
(2.0,)
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence

MAX_SERIES = 1_000
"""Of one device."""

FORGOTTEN_NS = 3_600_000_000_000
"""A series that was left out for an hour, by the device's clock, makes room: the agent that counted it is gone."""

MAX_BOUNDS = 64
Labels = tuple[tuple[str, str], ...]


class RefusedPoint(Exception):  # noqa: N818  # it ends a point, not a call
    """A value that is not taken in; its text says why."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A total of one series.

    Attributes:
        metric: its name.
        labels: sorted by name.
        start_ns: when counting began, by the device's clock.
        time_ns: when this total held, by the same clock.
        values: the total; of a histogram the count of each bucket, and then the sum.
        bounds: of a histogram: the upper ends of all buckets but the last.
    """

    metric: str
    labels: Labels
    start_ns: int
    time_ns: int
    values: tuple[float, ...]
    bounds: tuple[float, ...] = ()


def check(point: Point) -> None:
    """Whether a point makes sense at all.

    Raises:
        RefusedPoint: it does not, and why.
    """
    if not all(math.isfinite(value) for value in (*point.values, *point.bounds)):
        raise RefusedPoint("a value is no number")
    if any(value < 0 for value in point.values):
        raise RefusedPoint("a value is negative")
    if not 0 <= point.start_ns <= point.time_ns:
        raise RefusedPoint("it ends before it starts")
    if point.bounds:
        rising = all(a < b for a, b in zip(point.bounds, point.bounds[1:]))
        if not rising or len(point.bounds) > MAX_BOUNDS or len(point.values) != len(point.bounds) + 2:
            raise RefusedPoint("a histogram's parts do not fit together")


class Ledger:
    """The last point of each series of each device."""

    def __init__(self) -> None:
        self._last: dict[str, dict[tuple[str, Labels], Point]] = {}

    def news(self, device_id: str, point: Point, *, uptime_ns: int) -> tuple[float, ...] | None:
        """What a point adds; None where it is not newer than the last one.

        Args:
            device_id: who says so.
            point: sound (:func:`check`).
            uptime_ns: for how long the plane has been up.

        Raises:
            RefusedPoint: the device has too many series.
        """
        mine = self._last.setdefault(device_id, {})
        key = (point.metric, point.labels)
        last = mine.get(key)
        if last is None and len(mine) >= MAX_SERIES:
            for old in [k for k, known in mine.items() if known.time_ns < point.time_ns - FORGOTTEN_NS]:
                del mine[old]
        if last is None and len(mine) >= MAX_SERIES:
            raise RefusedPoint(f"the device has more than {MAX_SERIES} series")
        if last is not None and (point.start_ns < last.start_ns or point.time_ns <= last.time_ns):
            return None
        mine[key] = point
        if last is None:
            older = point.time_ns - point.start_ns > uptime_ns
            return (0.0,) * len(point.values) if older else point.values
        began_again = point.start_ns > last.start_ns or point.bounds != last.bounds
        if began_again or any(new < old for new, old in zip(point.values, last.values)):
            return point.values
        return tuple(new - old for new, old in zip(point.values, last.values))


def rebucketed(counts: Sequence[float], bounds: Sequence[float], into: Sequence[float]) -> tuple[float, ...]:
    """Counts per bucket in other buckets: each goes to the first that holds all of it, so that no latency looks better.

    >>> rebucketed((1.0, 2.0, 4.0), (1.0, 3.0), (1.0, 2.0, 5.0))
    (1.0, 0.0, 2.0, 4.0)
    """
    made = [0.0] * (len(into) + 1)
    for index, count in enumerate(counts):
        made[bisect.bisect_left(into, bounds[index]) if index < len(bounds) else len(into)] += count
    return tuple(made)
