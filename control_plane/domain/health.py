"""Health windows: a device's counts and histograms for one release over one interval.

A window is named by device, boot id and sequence. One that repeats is acknowledged and not kept again; one that makes
no sense (a NaN, a histogram whose parts do not fit) is acknowledged, counted and not kept: sending it again would not
mend it. The last :data:`KEPT` windows of a boot are kept.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime

KEPT = 120
SOURCE_FRAME = "SOURCE_FRAME"
"""Under this name among its errors an agent counts frames that it finds to have let through as they came. None should
ever be counted, and one is enough to take a release back."""

_BOOT_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_KEYS = 256


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts per bucket; ``bounds`` rise, and ``counts`` has one more entry."""

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    sum: float = 0.0

    @property
    def sound(self) -> bool:
        """It is empty, or its parts fit together."""
        if not math.isfinite(self.sum) or not all(math.isfinite(bound) for bound in self.bounds):
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
    """The highest sequence that was taken in of one run of a device's agent."""

    device_id: str
    boot_id: str
    sequence: int


def fault(window: Window) -> str:
    """What is wrong with a window; empty where nothing is."""
    if not _BOOT_ID.fullmatch(window.boot_id):
        return "its boot id is no name"
    if window.end_monotonic_ns < window.start_monotonic_ns:
        return "it ends before it starts"
    if any(len(m) > _MAX_KEYS for m in _mappings(window)):
        return f"it counts more than {_MAX_KEYS} different things"
    if not all(h.sound for h in (*window.latency_ms_by_stage.values(), window.confidence)):
        return "a histogram's parts do not fit together"
    if not all(math.isfinite(value) for value in window.temperatures_c.values()):
        return "a temperature is no number"
    return ""


def _mappings(window: Window) -> Iterable[Mapping[str, object]]:
    return (value for f in dataclasses.fields(window) if isinstance(value := getattr(window, f.name), Mapping))


def is_news(window: Window, mark: WindowMark | None) -> bool:
    """Whether a window was not taken in before. Agents send in order, so the mark tells."""
    return mark is None or window.sequence > mark.sequence
