"""A rollout, told in sentences."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge import NO_STATISTICS, DecisionRecord, Verdict
from control_plane.domain.judge.explain import explain
from control_plane.domain.rollout import GIVEN_UP, Member, MemberState, Rollout, RolloutEvent, RolloutState, Word
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
    back = [
        dataclasses.replace(MEMBERS[0], state=MemberState.REVERTED, generation=3),
        *(dataclasses.replace(m, state=MemberState.REVERTED) for m in MEMBERS[1:]),
    ]
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
        cam-2 and cam-3 never had r-4
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


def test_what_operators_did_stands_between_the_decisions_with_the_state_that_it_met() -> None:
    words = tuple(
        Word(T0 + second * SECOND, event, state, 0)
        for second, event, state in (
            (15, RolloutEvent.PAUSE, RolloutState.SOAKING),
            (18, RolloutEvent.RESUME, RolloutState.PAUSED),
            (35, RolloutEvent.PROMOTE, RolloutState.HELD),
            (50, RolloutEvent.ABORT, RolloutState.PROGRESSING),
        )
    )
    decisions = [
        record(1, Verdict.INCONCLUSIVE, "wait", "too few frames: 20 of 100"),
        record(2, Verdict.INCONCLUSIVE, "wait", "too few frames: 60 of 100"),
        record(3, Verdict.INCONCLUSIVE, "hold", "too few: 61 of 100"),
    ]
    told = explain(dataclasses.replace(ROLLOUT, words=words), decisions, [])[2:-1]
    assert [sentence.removeprefix("2026-03-01 12:00:") for sentence in told] == [
        "10 wave 1: the judge cannot tell yet: too few frames: 20 of 100; so the wave is watched on (ro-3/1)",
        "15 SOAKING, wave 1: an operator paused it: no device is moved until it is resumed",
        "18 PAUSED, wave 1: an operator went on with it",
        "20 wave 1: the judge cannot tell yet: too few frames: 60 of 100; so the wave is watched on (ro-3/2)",
        "30 wave 1: the judge cannot tell yet: too few: 61 of 100; so the rollout is held for an operator (ro-3/3)",
        "35 HELD, wave 1: an operator promoted it: every wave that is left opens, without waiting for the judge",
        "50 PROGRESSING, wave 1: an operator stopped it: every device of it goes back to what it ran before",
    ]


def test_harm_that_is_seen_early_says_that_it_is_acted_on_at_the_end_of_the_soak() -> None:
    told = explain(ROLLOUT, [record(1, Verdict.FAIL, "wait", "p95 latency: 93 ms")], [])[2]
    assert told.endswith(
        "so the wave is watched to the end of its soak, and the rollout goes back then if it is still so (ro-3/1)"
    )


def test_a_look_that_says_nothing_new_is_counted_in_the_next_record() -> None:
    minute = dataclasses.replace(
        record(2, Verdict.INCONCLUSIVE, "wait", "too few frames: 9 of 100"), inputs={"looks": 60}
    )
    first = record(1, Verdict.INCONCLUSIVE, "wait", "too few frames: 2 of 100")
    assert "still so, after 61 looks" in explain(ROLLOUT, [first, minute], [])[3]


U, B, R, C = MemberState.UPDATING, MemberState.REVERTING, MemberState.REVERTED, MemberState.COMMITTED
STANDS = {
    "it is on its way": ({"state": U}, {}, "cam-1 is on its way to r-4"),
    "it is waited for": (
        {"state": U, "online": False}, {}, "cam-1 is offline and not on r-4 yet: the wave waits for it",
    ),
    "it is waited for so long": (
        {"state": U, "online": False},
        {"strategy": dataclasses.replace(STRATEGY, expire_after=90 * SECOND)},
        "cam-1 is offline and not on r-4 yet: the wave waits for it, for at most 90 s",
    ),
    "it is on its way back": ({"state": B}, {}, "cam-1 is on its way back"),
    "it is away, and on its way back": ({"state": B, "online": False}, {}, "cam-1 is offline and on its way back"),
    "it is back": ({"state": R}, {}, "cam-1 is back on what it ran before"),
    "its turn never came": ({"state": R, "generation": 0}, {}, "cam-1 never had r-4"),
    "it ran nothing before": (
        {"state": R, "baseline_release_id": ""}, {}, "cam-1 ran nothing before and keeps what it has",
    ),
    "it was given up": (
        {"state": R, "detail": GIVEN_UP}, {}, "cam-1 was offline: its way back is written down, for its return",
    ),
    "it keeps the release that others refused": (
        {"state": C}, {"state": RolloutState.FAILED, "ended": T0}, "cam-1 committed r-4 and keeps it",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("member", "rollout", "sentence"), STANDS.values(), ids=STANDS.keys())
def test_where_each_device_stands(member: dict[str, object], rollout: dict[str, object], sentence: str) -> None:
    fields = {"generation": 2, **member}
    online = fields.pop("online", True)
    one = dataclasses.replace(MEMBERS[0], **fields)  # type: ignore[arg-type]
    told = explain(
        dataclasses.replace(ROLLOUT, **rollout),  # type: ignore[arg-type]
        [],
        [one, dataclasses.replace(MEMBERS[1], state=C)],
        offline=frozenset() if online else {one.device_id},
    )
    assert sentence in [each.replace("cam-1 and cam-2", "cam-1").replace("keep it", "keeps it") for each in told]


def test_a_device_that_was_relabelled_is_named_as_long_as_it_matters() -> None:
    sentence = "cam-2 no longer matches site=berlin and stays: which devices a rollout has was settled when it was made"
    assert sentence in explain(ROLLOUT, [], MEMBERS, strayed={MEMBERS[1].device_id})
    ended = dataclasses.replace(ROLLOUT, state=RolloutState.SUCCEEDED, ended=T0)
    assert not any("no longer" in told for told in explain(ended, [], MEMBERS, strayed={MEMBERS[1].device_id}))
