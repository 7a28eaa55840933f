"""A rollout, told in sentences."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge import NO_STATISTICS, DecisionRecord, Verdict
from control_plane.domain.judge.explain import explain
from control_plane.domain.rollout import Member, MemberState, Rollout, RolloutState
from control_plane.domain.strategy import JudgeKind, JudgePolicy, Share, Strategy, WaveSpec

T0 = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)
STRATEGY = Strategy(
    waves=(WaveSpec(Share(count=1), 30 * SECOND), WaveSpec(Share(percent=100.0))),
    control_holdout=Share(count=1),
    judge=JudgePolicy(kind=JudgeKind.THRESHOLDS),
)
ROLLOUT = Rollout("ro-3", 3, "r-4", "", "site=berlin", RolloutState.SOAKING, T0, STRATEGY, wave=0)
MEMBERS = [
    Member("ro-3", name, f"cam-{name}", "r-3", wave, state, cohort=cohort)
    for name, wave, state, cohort in (
        ("1", 0, MemberState.COMMITTED, Cohort.CANARY),
        ("2", 1, MemberState.PENDING, Cohort.CANARY),
        ("3", 1, MemberState.PENDING, Cohort.CONTROL),
    )
]


def record(number: int, verdict: Verdict, action: str, *reasons: str) -> DecisionRecord:
    return DecisionRecord(
        f"ro-3/{number}", "ro-3", number, T0 + number * 10 * SECOND, 0, verdict, action, (*reasons, NO_STATISTICS),
        False, {},
    )  # fmt: skip


def test_a_rollout_that_went_back_says_why_and_when() -> None:
    ended = dataclasses.replace(ROLLOUT, state=RolloutState.ROLLED_BACK, reason="cam-1 is slow", ended=T0 + 60 * SECOND)
    back = [dataclasses.replace(MEMBERS[0], state=MemberState.REVERTED), *MEMBERS[1:]]
    decisions = [
        record(4, Verdict.FAIL, "roll back", "p95 latency: 93 ms, the control cohort's 47 ms"),
        record(1, Verdict.INCONCLUSIVE, "wait", "too few frames: 20 of 100"),
        record(2, Verdict.INCONCLUSIVE, "wait", "too few frames: 60 of 100"),
        record(3, Verdict.INCONCLUSIVE, "wait", "too few frames: 90 of 100"),
    ]
    told = """
        12:00:00 the rollout of r-4 to 3 devices (site=berlin) began, 1 of them held out as control, in 2 waves
        it is judged by thresholds: fixed limits, no statistical verdict
        12:00:10 wave 1: the judge cannot tell yet: too few frames: 20 of 100; so the wave is watched on (ro-3/1)
        12:00:30 wave 1: still so, after 3 looks: too few frames: 90 of 100 (ro-3/3)
        12:00:40 wave 1: the judge fails it: p95 latency: 93 ms, the control cohort's 47 ms; so every device that has
            the release goes back to what it ran before (ro-3/4)
        cam-1 is back on what it ran before
        12:01:00 the rollout ended ROLLED_BACK: cam-1 is slow
    """
    wanted = [line.strip() for line in told.replace("\n            ", " ").strip().splitlines()]
    assert [line.removeprefix("2026-03-01 ") for line in explain(ended, decisions, back)] == wanted


def test_a_rollout_under_way_says_where_it_stands() -> None:
    alone = dataclasses.replace(ROLLOUT, strategy=Strategy(), selector="", reason="wave 1 of 1 is under way")
    told = explain(alone, [], MEMBERS[:1])
    assert told == [
        "2026-03-01 12:00:00 the rollout of r-4 to 1 device began, in 1 wave",
        "it is judged by hard limits and silence alone",
        "the rollout is SOAKING: wave 1 of 1 is under way",
    ]


def test_devices_that_refused_say_why_and_those_left_behind_are_named() -> None:
    members = [
        dataclasses.replace(MEMBERS[0], state=MemberState.FAILED, detail="the golden self-test found no face"),
        *(dataclasses.replace(m, state=MemberState.EXPIRED) for m in MEMBERS[1:]),
    ]
    told = explain(ROLLOUT, [record(1, Verdict.ERROR, "hold", "the judge itself failed: ZeroDivisionError")], members)
    assert told[2].removeprefix("2026-03-01 ") == (
        "12:00:10 wave 1: there is no verdict: the judge itself failed: ZeroDivisionError; "
        "so the rollout is held for an operator (ro-3/1)"
    )
    assert "cam-1 refused r-4 or took it back: the golden self-test found no face" in told
    assert "cam-2 and cam-3 were offline for too long and are left behind" in told
