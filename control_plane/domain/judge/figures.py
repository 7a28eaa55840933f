"""Clean and score: a device's intervals become its figures, plain enough for a record to hold all of them.

- **Error ratio**: failed frames / frames.
- **p95**: from the latency histograms of all intervals added up; within the bucket that holds the 95th of a hundred
  frames, by linear interpolation. In the last, unbounded bucket it is the bucket's lower bound: it is at least that.
- A **cohort's** figure is the median over its devices, each device counting once, of those with enough frames for a
  figure of their own (:data:`LEAST_FRAMES`). Beside it stands the pooled figure, over all frames of all devices.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from control_plane.domain.cohort import Cohort
from control_plane.domain.health import StoredWindow
from control_plane.domain.judge.evidence import DeviceEvidence, Evidence, Interval, interval_of
from control_plane.domain.judge.wording import counted, milliseconds
from control_plane.domain.series import rebucketed

LEAST_FRAMES = 20
"""A device with fewer has no figure of its own: a p95 of three frames is a guess."""

_P = 0.95


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures over some intervals.

    Attributes:
        frames: that count.
        failed: of these.
        p95_ms: None where no frame was timed.
    """

    frames: int = 0
    failed: int = 0
    p95_ms: float | None = None

    @property
    def error_ratio(self) -> float | None:
        """Failed frames / frames; None where there are no frames."""
        return self.failed / self.frames if self.frames else None


@dataclasses.dataclass(frozen=True)
class DeviceFigures:
    """A device, scored.

    Attributes:
        device_id: which.
        device_name: for people.
        cohort: canary or control.
        stratum: within which it was drawn.
        after: since the wave opened.
        before: its own baseline.
        heard: it said something since the wave opened.
        silent_s: seconds without a word that count against it; None where nothing is expected of it, because it was
            offline when the wave opened and has not returned.
        starts: of its agent, within the rollout.
        self_test_failures: within the rollout.
        source_frames_let_through: within the rollout.
        refused: why it refused the release; empty where it did not.
    """

    device_id: str
    device_name: str
    cohort: Cohort
    stratum: str
    after: Measured
    before: Measured
    heard: bool
    silent_s: float | None
    starts: int
    self_test_failures: int
    source_frames_let_through: int
    refused: str


@dataclasses.dataclass(frozen=True)
class Figures:
    """Everything that a verdict rests on, but for the policy.

    Attributes:
        release_id: what is judged.
        wave: from 0.
        devices: each one's figures.
        pooled: over all frames of the canaries, of the control cohort, and of the canaries before the update.
    """

    release_id: str
    wave: int
    devices: tuple[DeviceFigures, ...]
    canary: Measured
    control: Measured
    baseline: Measured

    def of(self, cohort: Cohort) -> list[DeviceFigures]:
        """A cohort's devices."""
        return [device for device in self.devices if device.cohort is cohort]


def in_a_line(stored: StoredWindow) -> str:
    """A window for people: ``1,200 frames, 0 failed, p95 48 ms``."""
    told = measure([interval_of(stored)])
    if not told.frames:
        return "no frames"
    latency = "" if told.p95_ms is None else f", p95 {milliseconds(told.p95_ms)}"
    return f"{counted(told.frames, 'frame')}, {told.failed:,} failed{latency}"


def measure(intervals: Iterable[Interval]) -> Measured:
    """Adds intervals up."""
    listed = list(intervals)
    bounds, counts = merged(listed)
    p95 = percentile(bounds, counts, _P)
    return Measured(
        sum(i.frames for i in listed), sum(i.failed for i in listed), None if p95 is None else round(p95, 3)
    )


def merged(intervals: Sequence[Interval]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One histogram. Where bounds differ, those of the newest interval hold, and a frame goes to a bucket that holds
    all of its old one: no latency looks better than it was.
    """
    timed = [i for i in intervals if i.counts]
    if not timed:
        return (), ()
    bounds = timed[-1].bounds
    total = [0.0] * (len(bounds) + 1)
    for interval in timed:
        same = interval.bounds == bounds
        counts = interval.counts if same else rebucketed(interval.counts, interval.bounds, bounds)
        total = [a + b for a, b in zip(total, counts)]
    return bounds, tuple(total)


def percentile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """The value below which a share of the observations lies, by linear interpolation in its bucket; None without any.

    >>> percentile((10.0, 20.0), (0, 100, 0), 0.95)
    19.5
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = share * total, 0.0
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            if index == len(bounds):
                return bounds[-1] if bounds else None
            low = bounds[index - 1] if index else min(0.0, bounds[0])
            return low + (bounds[index] - low) * (rank - below) / count
        below += count
    return bounds[-1] if bounds else None


def score(evidence: Evidence, *, silence_after: timedelta, now: datetime) -> Figures:
    """The figures of a rollout.

    Args:
        evidence: as it was gathered.
        silence_after: a device that had not been heard of for longer when the wave opened was offline.
        now: by the plane's clock.
    """
    canaries = [d for d in evidence.devices if d.cohort is Cohort.CANARY]
    controls = [d for d in evidence.devices if d.cohort is Cohort.CONTROL]
    return Figures(
        release_id=evidence.release_id,
        wave=evidence.wave,
        devices=tuple(_device(d, evidence, silence_after, now) for d in evidence.devices),
        canary=measure(itertools.chain.from_iterable(d.after for d in canaries)),
        control=measure(itertools.chain.from_iterable(d.after for d in controls)),
        baseline=measure(itertools.chain.from_iterable(d.before for d in canaries)),
    )


def _device(device: DeviceEvidence, evidence: Evidence, silence_after: timedelta, now: datetime) -> DeviceFigures:
    heard = device.last_heard
    expected = heard is not None and evidence.since - heard <= silence_after
    silent_s = None
    if heard is not None and expected:
        # The time runs only while the plane was up to hear, and from the opening of the wave.
        begin = max(heard, evidence.since, evidence.listening_since)
        silent_s = round(max(0.0, (now - begin).total_seconds()), 3)  # a clock may have been set back
    return DeviceFigures(
        device_id=device.device_id,
        device_name=device.device_name,
        cohort=device.cohort,
        stratum=device.stratum,
        after=measure(device.after),
        before=measure(device.before),
        heard=heard is not None and heard >= evidence.since,
        silent_s=silent_s,
        starts=device.starts,
        self_test_failures=device.self_test_failures,
        source_frames_let_through=device.source_frames_let_through,
        refused=device.refused,
    )


def median_error(devices: Iterable[Measured]) -> float | None:
    """Median over devices of the error ratio; None where no device has enough frames."""
    return _median(m.error_ratio for m in devices if m.frames >= LEAST_FRAMES)


def median_p95(devices: Iterable[Measured]) -> float | None:
    """Median over devices of p95, in milliseconds; None where no device has enough frames."""
    return _median(m.p95_ms for m in devices if m.frames >= LEAST_FRAMES)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
