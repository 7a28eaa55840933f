"""Health windows: a device's counts and histograms for one release over one interval.

Rules

- A window is named by device, boot id and sequence. One that repeats is acknowledged and not kept again.
- One that makes no sense (:func:`fault`: a NaN, a negative number, a histogram whose parts do not fit) or that runs
  backwards (:func:`backwards`) is acknowledged, counted and not kept: sending it again would not mend it.
- The last :data:`KEPT` windows of a boot are kept as they came. Older ones are folded (:func:`folded`), :data:`FOLD` of
  a release into one, and as many of these are kept: at ten seconds a window, twenty minutes and some six hours more.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from control_plane.domain.series import rebucketed

KEPT = 120
FOLD = 20
SOURCE_FRAME = "SOURCE_FRAME"
"""Under this name among its errors an agent counts frames that it finds to have let through as they came. None should
ever be counted, and one is enough to take a release back."""

_BOOT_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_KEYS = 256
_LONGEST_KEY = 128
_MAX_BOUNDS = 256
_LONGEST_NS = 7 * 24 * 3600 * 10**9
_MAX_COUNT = 10**12


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts per bucket; ``bounds`` rise, and ``counts`` has one more entry."""

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    sum: float = 0.0

    @property
    def sound(self) -> bool:
        """It is empty, or its parts fit together: numbers all, none of them below 0."""
        if not all(math.isfinite(value) and value >= 0 for value in (self.sum, *self.bounds)):
            return False
        if not all(0 <= count <= _MAX_COUNT for count in self.counts) or len(self.bounds) > _MAX_BOUNDS:
            return False
        if not self.counts and not self.bounds:
            return True
        rising = all(a < b for a, b in zip(self.bounds, self.bounds[1:]))
        return rising and len(self.counts) == len(self.bounds) + 1


@dataclasses.dataclass(frozen=True)
class Window:
    """The fields are those of the wire's ``HealthWindow``."""

    boot_id: str
    sequence: int
    start_monotonic_ns: int
    end_monotonic_ns: int
    release_id: str = ""
    frames_by_outcome: Mapping[str, int] = dataclasses.field(default_factory=dict)
    errors_by_kind: Mapping[str, int] = dataclasses.field(default_factory=dict)
    latency_ms_by_stage: Mapping[str, Histogram] = dataclasses.field(default_factory=dict)
    detections: int = 0
    confidence: Histogram = Histogram()
    engine_loads_by_result: Mapping[str, int] = dataclasses.field(default_factory=dict)
    self_tests_by_result: Mapping[str, int] = dataclasses.field(default_factory=dict)
    starts: int = 0
    temperatures_c: Mapping[str, float] = dataclasses.field(default_factory=dict)
    guard_actions_by_reason: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StoredWindow:
    """A window as it is kept.

    Attributes:
        device_id: whose.
        boot_id: of which run of the agent.
        sequence: within that run.
        number: order of receipt over all devices.
        received: when the plane had it; clocks of devices are not trusted.
        window: what it says.
    """

    device_id: str
    boot_id: str
    sequence: int
    number: int
    received: datetime
    window: Window


@dataclasses.dataclass(frozen=True)
class WindowMark:
    """What was taken in of one run of a device's agent.

    Attributes:
        device_id: whose.
        boot_id: of which run.
        sequence: the highest.
        start_monotonic_ns: of that window, on the device's clock.
        end_monotonic_ns: of that window.
    """

    device_id: str
    boot_id: str
    sequence: int
    start_monotonic_ns: int = 0
    end_monotonic_ns: int = 0


def fault(window: Window) -> str:
    """What is wrong with a window; empty where nothing is."""
    if not _BOOT_ID.fullmatch(window.boot_id):
        return "its boot id is no name"
    if window.end_monotonic_ns < window.start_monotonic_ns:
        return "it ends before it starts"
    if window.end_monotonic_ns - window.start_monotonic_ns > _LONGEST_NS:
        return "it claims more than a week"
    if not window.sequence > 0:
        return "its sequence is not above 0"
    if any(len(m) > _MAX_KEYS for m in _mappings(window)):
        return f"it counts more than {_MAX_KEYS} different things"
    if any(len(key) > _LONGEST_KEY for m in _mappings(window) for key in m):
        return f"what it counts has a name of more than {_LONGEST_KEY} letters"
    if not all(0 <= count <= _MAX_COUNT for count in _counts(window)):
        return "a count is negative, or more than a device can have"
    if not all(h.sound for h in (*window.latency_ms_by_stage.values(), window.confidence)):
        return "a histogram's parts do not fit together"
    if not all(math.isfinite(value) for value in window.temperatures_c.values()):
        return "a temperature is no number"
    return ""


def _counts(window: Window) -> Iterable[int]:
    yield from (window.detections, window.starts)
    for counts in (
        window.frames_by_outcome,
        window.errors_by_kind,
        window.engine_loads_by_result,
        window.self_tests_by_result,
        window.guard_actions_by_reason,
    ):
        yield from counts.values()


def _mappings(window: Window) -> Iterable[Mapping[str, object]]:
    return (value for f in dataclasses.fields(window) if isinstance(value := getattr(window, f.name), Mapping))


def backwards(window: Window, mark: WindowMark | None) -> str:
    """Why a window that is news does not fit to what came before it in its boot; empty where it does.

    Windows of one interval, one for each release that served in it, have the same times.
    """
    if mark is None or (window.start_monotonic_ns, window.end_monotonic_ns) == (
        mark.start_monotonic_ns,
        mark.end_monotonic_ns,
    ):
        return ""
    if window.end_monotonic_ns < mark.end_monotonic_ns:
        return "it ends before the one before it: the clock of a boot does not run backwards"
    if window.start_monotonic_ns < mark.end_monotonic_ns:
        return "it overlaps with the one before it"
    return ""


def gap(window: Window, mark: WindowMark | None) -> int:
    """How many windows of the boot are missing before this one: the device had no room, or lost power."""
    return max(0, window.sequence - (mark.sequence if mark is not None else 0) - 1)


def is_news(window: Window, mark: WindowMark | None) -> bool:
    """Whether a window was not taken in before. Agents send in order, so the mark tells."""
    return mark is None or window.sequence > mark.sequence


def folded(windows: Sequence[StoredWindow]) -> list[StoredWindow]:
    """Windows of one boot in order, with neighbours of the same release added up; the last of them gives the name."""
    groups = itertools.groupby(windows, key=lambda stored: stored.window.release_id)
    return [functools.reduce(_added, group) for _, group in groups]


def _added(first: StoredWindow, last: StoredWindow) -> StoredWindow:
    a, b = first.window, last.window
    sums: dict[str, Any] = {
        name: dict(Counter(getattr(a, name)) + Counter(getattr(b, name)))
        for name in (
            "frames_by_outcome",
            "errors_by_kind",
            "engine_loads_by_result",
            "self_tests_by_result",
            "guard_actions_by_reason",
        )
    }
    stages = {**a.latency_ms_by_stage, **b.latency_ms_by_stage}
    window = dataclasses.replace(
        b,
        start_monotonic_ns=a.start_monotonic_ns,
        **sums,
        latency_ms_by_stage={
            stage: _both(a.latency_ms_by_stage.get(stage, Histogram()), b.latency_ms_by_stage.get(stage, Histogram()))
            for stage in stages
        },
        detections=a.detections + b.detections,
        confidence=_both(a.confidence, b.confidence),
        temperatures_c={
            sensor: max(m[sensor] for m in (a.temperatures_c, b.temperatures_c) if sensor in m)
            for sensor in {**a.temperatures_c, **b.temperatures_c}
        },
    )
    return dataclasses.replace(last, window=window)


def _both(a: Histogram, b: Histogram) -> Histogram:
    if not a.counts or not b.counts:
        return a if a.counts else b
    counts = a.counts if a.bounds == b.bounds else rebucketed(a.counts, a.bounds, b.bounds)
    return Histogram(b.bounds, tuple(int(x + y) for x, y in zip(counts, b.counts)), a.sum + b.sum)
