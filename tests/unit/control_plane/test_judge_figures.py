"""Figures: percentiles from buckets, medians over devices, cohorts over time; and what holds for any evidence."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.cohort import Cohort
from control_plane.domain.health import Histogram, StoredWindow, Window
from control_plane.domain.judge import DeviceEvidence, Evidence, Interval, Verdict, evaluate, replay
from control_plane.domain.judge.evidence import interval_of, placed
from control_plane.domain.judge.figures import Measured, measure, median_error, median_p95, merged, percentile
from control_plane.domain.judge.trend import POINTS, trend
from control_plane.domain.strategy import JudgeKind, JudgePolicy

T0 = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

PERCENTILES = {
    "in the middle of a bucket": ((10.0, 20.0), (0, 100, 0), 19.5),
    "in the first bucket, which begins at zero": ((10.0, 20.0), (100, 0, 0), 9.5),
    "at the very end of a bucket": ((10.0, 20.0), (95, 5, 0), 10.0),
    "in the unbounded bucket: at least its lower bound": ((10.0, 20.0), (0, 0, 7), 20.0),
    "behind empty buckets": ((1.0, 2.0, 3.0), (0, 0, 10, 0), 2.95),
    "of nothing": ((10.0, 20.0), (0, 0, 0), None),
    "of no histogram": ((), (), None),
    "of a histogram without bounds": ((), (5,), None),
}


@pytest.mark.parametrize(("bounds", "counts", "p95"), PERCENTILES.values(), ids=PERCENTILES.keys())
def test_the_95th_percentile(bounds: tuple[float, ...], counts: tuple[int, ...], p95: float | None) -> None:
    assert percentile(bounds, counts, 0.95) == (None if p95 is None else pytest.approx(p95))


def test_histograms_of_two_agents_versions_add_up_and_no_latency_looks_better() -> None:
    old = Interval("r-1", T0, bounds=(1.0, 3.0), counts=(1, 2, 4))
    new = Interval("r-1", T0, bounds=(1.0, 2.0, 5.0), counts=(10, 0, 0, 0))
    assert merged([old, new, Interval("r-1", T0)]) == ((1.0, 2.0, 5.0), (11.0, 0.0, 2.0, 4.0))


def test_the_median_counts_each_device_once_and_leaves_out_those_with_too_few_frames() -> None:
    devices = [Measured(10_000, 0, 10.0), Measured(20, 10, 30.0), Measured(20, 2, 20.0), Measured(19, 19, 999.0)]
    assert median_error(devices) == 0.1
    assert median_p95(devices) == 20.0
    assert (median_error([]), median_p95([Measured(500, 0, None)])) == (None, None)


def test_what_nobody_can_blame_a_release_for_is_no_frame_and_no_failure() -> None:
    window = Window(
        "b1", 1, 0, 10**9, "r-1",
        frames_by_outcome={"MASKED": 80, "COASTED": 5, "FULL_MASK": 10, "DROPPED": 15},
        guard_actions_by_reason={
            "ENGINE_FAILED": 4, "MASKING_FAILED": 3, "DEADLINE_MISSED": 2, "NO_ENGINE": 1,
            "SUPERSEDED": 8, "SHUTTING_DOWN": 4, "DECODE_FAILED": 3,
        },
        latency_ms_by_stage={"TOTAL": Histogram((1.0,), (1, 2), 3.0), "INFER": Histogram((1.0,), (9, 9), 3.0)},
        self_tests_by_result={"passed": 2, "failed": 1},
        errors_by_kind={"SOURCE_FRAME": 2},
    )  # fmt: skip
    seen = interval_of(StoredWindow("d", "b1", 1, 1, T0, window))
    assert (seen.frames, seen.failed) == (95, 10)
    assert (seen.counts, seen.self_tests_failed, seen.source_frames) == ((1, 2), 1, 2)
    assert seen.length == timedelta(seconds=1)


def late(ended_s: float, received_s: float, boot: str = "b") -> Interval:
    return Interval("r-1", T0 + timedelta(seconds=received_s), boot, timedelta(seconds=ended_s))


PLACES = {
    "windows that come at once are where they came": ([late(10, 110), late(20, 120)], [110, 120]),
    "windows that were kept for long are where they were made": (
        [late(10, 110), late(20, 300), late(30, 300.5), late(40, 301), late(200, 300), late(210, 310)],
        [110, 120, 130, 140, 300, 310],
    ),
    "the plane's clock was set forward: each is told by those after it": (
        [late(10, 110), late(20, 3720), late(30, 3730)],
        [110, 3720, 3730],
    ),
    "each boot has a clock of its own": ([late(1000, 110), late(5, 120, "c")], [110, 120]),
}


@pytest.mark.parametrize(("intervals", "seconds"), PLACES.values(), ids=PLACES.keys())
def test_when_an_interval_was(intervals: list[Interval], seconds: list[float]) -> None:
    assert [(time - T0).total_seconds() for time, _ in placed(intervals)] == seconds


def told_every(seconds: float, count: int) -> list[Interval]:
    return [
        dataclasses.replace(
            late(n * seconds, n * seconds),
            length=timedelta(seconds=seconds),
            frames=10,
            failed=1,
            bounds=(10.0, 20.0),
            counts=(0, 10, 0),
        )
        for n in range(1, count + 1)
    ]


def test_a_cohort_over_time_has_at_most_sixty_points_and_loses_no_frame() -> None:
    end = T0 + timedelta(seconds=2000)
    series = trend(Cohort.CANARY, [told_every(10, 200)] * 2, begin=T0, end=end)
    assert (series.devices, len(series.points) <= POINTS) == (2, True)
    assert sum(p.frames for p in series.points) == 2 * 10 * 200
    assert [p.time for p in series.points] == sorted(p.time for p in series.points)
    assert series.points[-1].time == end
    assert {p.p95_ms for p in series.points} == {19.5}


def test_points_are_no_shorter_than_windows_and_an_empty_cohort_has_none() -> None:
    points = trend(Cohort.CONTROL, [told_every(10, 3)], begin=T0, end=T0 + timedelta(seconds=35)).points
    assert [p.frames for p in points] == [10, 10, 10]
    assert trend(Cohort.CONTROL, [], begin=T0, end=T0).points == ()


# What holds for any evidence at all

ODD = st.one_of(st.integers(-5, 3000), st.sampled_from([0, 1, 99, 100, 101, 10**9]))
HISTOGRAMS = st.sampled_from(
    [((), ()), ((10.0,), (0, 0)), ((10.0,), (500, 500)), ((10.0, 20.0), (50, 900, 50)), ((), (3,)), ((5.0,), (1,))]
)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    bounds, counts = draw(HISTOGRAMS)
    return Interval(
        "r-2",
        T0 + timedelta(seconds=draw(st.integers(-900, 900))),
        draw(st.sampled_from(["b", "c"])),
        frames=draw(ODD),
        failed=draw(ODD),
        bounds=bounds,
        counts=counts,
    )


@st.composite
def devices(draw: st.DrawFn) -> DeviceEvidence:
    name = draw(st.sampled_from(["cam-1", "cam-2", ""]))
    return DeviceEvidence(
        f"d-{name}",
        name,
        draw(st.sampled_from(Cohort)),
        after=draw(st.lists(intervals(), max_size=3)),
        before=draw(st.lists(intervals(), max_size=2)),
        last_heard=draw(st.none() | st.integers(-900, 900).map(lambda s: T0 + timedelta(seconds=s))),
        starts=draw(st.sampled_from([-1, 0, 0, 0, 2, 3])),
        self_test_failures=draw(st.sampled_from([0, 0, 0, 0, 1])),
        refused=draw(st.sampled_from(["", "", "", "it could not"])),
    )


@given(
    seen=st.lists(devices(), max_size=6),
    kind=st.sampled_from(JudgeKind),
    least=st.sampled_from([1, 100]),
    now_s=st.integers(-900, 900),
    soaked=st.booleans(),
)
def test_the_judge_never_raises_and_passes_nothing_that_it_has_not_seen(
    seen: list[DeviceEvidence], kind: JudgeKind, least: int, now_s: int, soaked: bool
) -> None:
    policy = JudgePolicy(kind=kind, min_frames=least)
    evidence = Evidence("ro-1", "r-2", 1, tuple(seen), T0, T0 - timedelta(seconds=60))
    decision = evaluate(policy, evidence, T0 + timedelta(seconds=now_s), soaked=soaked)
    assert decision.reasons
    assert decision.verdict is not Verdict.ERROR
    if decision.verdict is Verdict.PASS:
        canaries = [d for d in seen if d.cohort is Cohort.CANARY]
        controls = [d for d in seen if d.cohort is Cohort.CONTROL]
        assert soaked
        assert canaries
        assert not any(d.refused or d.self_test_failures or d.starts >= policy.crash_loop_starts for d in canaries)
        if kind is JudgeKind.THRESHOLDS:
            assert sum(i.frames for d in canaries for i in d.after) >= least
            other = [d.after for d in controls] if controls else [d.before for d in canaries]
            assert sum(i.frames for series in other for i in series) >= least
    again = replay(json.loads(json.dumps(decision.inputs, allow_nan=False)))
    assert (again.verdict, again.reasons) == (decision.verdict, decision.reasons)


@given(st.lists(intervals(), max_size=5))
def test_adding_up_in_two_steps_comes_to_the_same_number_of_frames(found: list[Interval]) -> None:
    assert measure(found).frames == sum(measure([i]).frames for i in found)
