"""Fleet metrics: what devices count, added up by release and target, for Prometheus.

They come from the devices' OpenTelemetry metrics and from nothing else. (Health windows feed the judge; adding them
here too would count a frame twice.) A scrape costs as much as there are sums, whatever the size of the fleet.

- ``maskfleet_fleet_frames_total{release,target,outcome}``
- ``maskfleet_fleet_guard_actions_total{release,target,reason}``: frames that the fail-closed rule took care of.
- ``maskfleet_fleet_stage_seconds{release,target,stage}``: a histogram.
- ``maskfleet_fleet_engine_swaps_total{result}``
- ``maskfleet_otlp_points_total{result="taken|repeated|refused"}``
- ``maskfleet_fleet_devices{release,target,state}``: by what they run; the state is the engine's, or ``OFFLINE``.
- ``maskfleet_rollout_state{rollout,state}``: 1 for the state of each of the last rollouts.
- ``maskfleet_judge_verdicts_total{verdict}``: decision records; no statistical verdicts.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from control_plane.domain.judge.decision import NO_STATISTICS
from control_plane.domain.series import Ledger, Point, RefusedPoint, check, rebucketed

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.033, 0.05, 0.066, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Those of the agents; other ones are fitted in."""

MAX_SUMS = 20_000
GUARDED = frozenset({"FULL_MASK", "DROPPED"})
LABELS: dict[str, tuple[str, ...]] = {
    "maskfleet.frames": ("outcome", "reason", "release", "target"),
    "maskfleet.stage.duration": ("release", "stage", "target"),
    "maskfleet.engine.swaps": ("result",),
}
"""What is taken in, with the labels that each carries, sorted."""

_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HISTOGRAMS = frozenset({"maskfleet.stage.duration"})
Place = tuple[str, ...]
Sums = dict[Place, tuple[float, ...]]


def labelled(metric: str, said: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The labels of a metric out of what a device said; others are left out, and one without a value is ``none``.

    Raises:
        RefusedPoint: the metric is not known, or a value is none that a label may have.
    """
    if metric not in LABELS:
        raise RefusedPoint(f"{metric[:64]!r} is no metric of maskfleet agents")
    labels = tuple((name, said.get(name) or "none") for name in LABELS[metric])
    for name, value in labels:
        if not _VALUE.fullmatch(value):
            raise RefusedPoint(f"{name} has a value that is none")
    return labels


class FleetMetrics(Collector):
    """The sums. Filled by the event loop, read by the thread that serves ``/metrics``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._frames: Sums = {}
        self._guarded: Sums = {}
        self._swaps: Sums = {}
        self._stages: Sums = {}
        self._points = Counter({"taken": 0, "repeated": 0, "refused": 0})
        self._devices: Mapping[Place, int] = {}
        self._rollouts: Mapping[str, str] = {}
        self._verdicts: Mapping[str, int] = {}

    def take(self, device_id: str, point: Point, *, uptime_ns: int) -> None:
        """Adds what a device counted.

        Raises:
            RefusedPoint: it makes no sense, or there is no room for more series.
        """
        with self._lock:
            check(point)
            if (point.metric in _HISTOGRAMS) != bool(point.bounds):
                raise RefusedPoint("it is of another kind")
            sums = [self._frames, self._guarded, self._stages, self._swaps]
            if sum(map(len, sums)) >= MAX_SUMS:
                raise RefusedPoint("there are too many releases and targets")
            news = self._ledger.news(device_id, point, uptime_ns=uptime_ns)
            self._points["repeated" if news is None else "taken"] += 1
            if news is not None:
                self._add(point.metric, dict(point.labels), point.bounds, news)

    def _add(self, metric: str, labels: dict[str, str], bounds: tuple[float, ...], news: tuple[float, ...]) -> None:
        whose = (labels.get("release", ""), labels.get("target", ""))
        if metric == "maskfleet.frames":
            _sum(self._frames, (*whose, labels["outcome"]), news)
            if labels["outcome"] in GUARDED:
                _sum(self._guarded, (*whose, labels["reason"]), news)
        elif metric == "maskfleet.stage.duration":
            _sum(self._stages, (*whose, labels["stage"]), (*rebucketed(news[:-1], bounds, BUCKETS_S), news[-1]))
        else:
            _sum(self._swaps, (labels["result"],), news)

    def refused(self, points: int = 1) -> None:
        """Counts points that were refused."""
        with self._lock:
            self._points["refused"] += points

    def show(self, *, devices: Mapping[Place, int], rollouts: Mapping[str, str], verdicts: Mapping[str, int]) -> None:
        """Sets what the plane itself knows.

        Args:
            devices: how many by release, target and state.
            rollouts: state by rollout.
            verdicts: how many records by verdict.
        """
        with self._lock:
            self._devices, self._rollouts, self._verdicts = dict(devices), dict(rollouts), dict(verdicts)

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        with self._lock:
            frames, guarded, swaps = _plain(self._frames), _plain(self._guarded), _plain(self._swaps)
            stages, points = dict(self._stages), dict(self._points)
            devices, rollouts, verdicts = self._devices, self._rollouts, self._verdicts
        yield _counter("maskfleet_fleet_frames", "Frames of all devices", ("release", "target", "outcome"), frames)
        about = "Frames of all devices that the fail-closed rule took care of"
        yield _counter("maskfleet_fleet_guard_actions", about, ("release", "target", "reason"), guarded)
        about = "Releases put in place or taken back, on all devices"
        yield _counter("maskfleet_fleet_engine_swaps", about, ("result",), swaps)
        yield _counter("maskfleet_otlp_points", "Values that devices sent", ("result",), _by_one(points))
        about = f"Decision records by verdict ({NO_STATISTICS})"
        yield _counter("maskfleet_judge_verdicts", about, ("verdict",), _by_one(verdicts))
        yield _histogram(stages)
        about = "Devices by what they run"
        yield _gauge("maskfleet_fleet_devices", about, ("release", "target", "state"), devices)
        about = "The state of each of the last rollouts"
        places: dict[Place, float] = dict.fromkeys(rollouts.items(), 1.0)
        yield _gauge("maskfleet_rollout_state", about, ("rollout", "state"), places)


def _sum(sums: Sums, place: Place, more: tuple[float, ...]) -> None:
    before = sums.get(place, (0.0,) * len(more))
    sums[place] = tuple(a + b for a, b in zip(before, more))


def _plain(sums: Sums) -> dict[Place, float]:
    return {place: value for place, (value,) in sums.items()}


def _by_one(values: Mapping[str, float]) -> dict[Place, float]:
    return {(name,): value for name, value in values.items()}


def _counter(name: str, about: str, labels: Place, values: Mapping[Place, float]) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for place, value in values.items():
        family.add_metric(place, value)
    return family


def _gauge(name: str, about: str, labels: Place, values: Mapping[Place, float]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for place, value in values.items():
        family.add_metric(place, value)
    return family


def _histogram(values: Mapping[Place, tuple[float, ...]]) -> Metric:
    about = "Time by stage of masking, of all devices"
    family = HistogramMetricFamily("maskfleet_fleet_stage_seconds", about, labels=("release", "target", "stage"))
    for place, (*counts, total) in values.items():
        so_far, buckets = 0.0, []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counts):
            so_far += count
            buckets.append((bound, so_far))
        family.add_metric(place, buckets, sum_value=total)
    return family
