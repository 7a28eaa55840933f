"""What the judge says of a fleet: cases as data, each with the sentence that it stands for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge import (
    NO_STATISTICS,
    DeviceEvidence,
    Evidence,
    Interval,
    Verdict,
    evaluate,
    judgement,
    replay,
)
from control_plane.domain.strategy import JudgeKind, JudgePolicy

OPENED = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
NOW = OPENED + timedelta(minutes=5)
BOUNDS = (10.0, 20.0, 40.0, 80.0, 160.0)
THRESHOLDS = JudgePolicy(kind=JudgeKind.THRESHOLDS)
LIMITS_ALONE = JudgePolicy(kind=JudgeKind.NONE)


def interval(frames: int = 500, failed: int = 0, *, slow: int = 0) -> Interval:
    """Frames of which 95 of 100 take up to 40 ms and the others up to 80; ``slow`` moves that many buckets up."""
    quick = frames * 94 // 100
    counts = [0] * (len(BOUNDS) + 1)
    counts[2 + slow], counts[3 + slow] = quick, frames - quick
    return Interval("r-2", NOW, "b", frames=frames, failed=failed, bounds=BOUNDS, counts=tuple(counts))


GOOD = interval()


def device(cohort: Cohort, name: str, *after: Interval, **fields: Any) -> DeviceEvidence:
    fields.setdefault("last_heard", NOW - timedelta(seconds=5))
    return DeviceEvidence(f"d-{name}", name, cohort, after=after, **fields)


def canary(*after: Interval, name: str = "cam-1", **fields: Any) -> DeviceEvidence:
    return device(Cohort.CANARY, name, *after, **fields)


def control(*after: Interval, name: str = "cam-9", **fields: Any) -> DeviceEvidence:
    return device(Cohort.CONTROL, name, *after, **fields)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def evidence(*devices: DeviceEvidence, listening_since: datetime = OPENED - timedelta(hours=1)) -> Evidence:
    return Evidence("ro-1", "r-2", 0, devices, OPENED, listening_since, seed=7)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is seen, what is said of it, and words that the reasons must hold."""

    seen: Evidence
    verdict: Verdict
    words: tuple[str, ...] = ()
    policy: JudgePolicy = THRESHOLDS
    soaked: bool = True
    hard: bool = False


FAIL, PASS, CANNOT_TELL = Verdict.FAIL, Verdict.PASS, Verdict.INCONCLUSIVE
CASES = {
    "canary and control do the same: PASS": Case(
        evidence(canary(GOOD), control(GOOD)), PASS, ("1.00 times", "500 frames of canaries against 500")
    ),
    "the same, before the soak is over: nobody can tell yet": Case(
        evidence(canary(GOOD), control(GOOD)), CANNOT_TELL, ("end of its soak",), soaked=False
    ),
    "the canary is twice as slow: FAIL": Case(
        evidence(canary(interval(slow=1)), control(GOOD)),
        FAIL,
        ("p95 latency: the canaries' 93 ms, the control cohort's 47 ms: 2.00 times; 1.25 times is allowed",),
    ),
    "the canary is twice as slow, and that does not wait for the end of the soak, nor is it a hard limit": Case(
        evidence(canary(interval(slow=1)), control(GOOD)), FAIL, ("2.00 times",), soaked=False
    ),
    "the canary is as slow as that and twice is allowed: PASS": Case(
        evidence(canary(interval(slow=1)), control(GOOD)),
        PASS,
        policy=dataclasses.replace(THRESHOLDS, max_p95_ratio=2.01),
    ),
    "the canary is faster: PASS": Case(evidence(canary(interval(slow=-1)), control(GOOD)), PASS, ("0.50 times",)),
    "3 % more frames fail than in the control cohort: FAIL": Case(
        evidence(canary(interval(500, 20)), control(interval(500, 5))), FAIL, ("4 %", "1 %", "2 points more")
    ),
    "1 % more frames fail: PASS": Case(evidence(canary(interval(500, 10)), control(interval(500, 5))), PASS),
    "both fail half of their frames: PASS, for the release is no worse": Case(
        evidence(canary(interval(500, 250)), control(interval(500, 250))), PASS
    ),
    "one canary of three fails every frame, which a median does not see: FAIL": Case(
        evidence(
            canary(GOOD, name="cam-1"),
            canary(GOOD, name="cam-2"),
            canary(interval(500, 500), name="cam-3"),
            control(GOOD),
        ),
        FAIL,
        ("all frames", "33.33 %"),
    ),
    "one slow device in a control cohort of three does not make the canary look good": Case(
        evidence(
            canary(interval(slow=1)),
            control(GOOD, name="cam-7"),
            control(GOOD, name="cam-8"),
            control(interval(slow=2), name="cam-9"),
        ),
        FAIL,
    ),
    "too few frames of the canaries: nobody can tell": Case(
        evidence(canary(interval(40)), control(GOOD)), CANNOT_TELL, ("40 of 100 frames (cam-1 40)",)
    ),
    "too few frames of the control cohort: nobody can tell": Case(
        evidence(canary(GOOD), control(interval(99))), CANNOT_TELL, ("99 of 100 frames",)
    ),
    "enough frames, but spread so thinly that no device has a figure": Case(
        evidence(*(canary(interval(10), name=f"cam-{n}") for n in range(12)), control(GOOD)),
        CANNOT_TELL,
        ("no device of the canaries",),
    ),
    "frames that nobody timed": Case(
        evidence(canary(dataclasses.replace(GOOD, bounds=(), counts=())), control(GOOD)),
        CANNOT_TELL,
        ("latency of frames is not known",),
    ),
    "no device at all: an empty judgement is no pass": Case(evidence(), CANNOT_TELL, ("nothing to judge",)),
    "no device at all and nothing but hard limits to judge: no pass either": Case(
        evidence(), CANNOT_TELL, ("nothing to judge",), LIMITS_ALONE
    ),
    "canaries that have not reported since the wave opened": Case(
        evidence(canary(last_heard=OPENED - timedelta(seconds=1)), control(GOOD), listening_since=ago(1)),
        CANNOT_TELL,
        ("nothing to judge",),
    ),
    "nothing but hard limits, and none is broken: PASS": Case(
        evidence(canary()), PASS, ("1 canary heard of",), LIMITS_ALONE
    ),
    "no control cohort: the canary's own windows of before stand in, and that is said": Case(
        evidence(canary(GOOD, before=(GOOD,))), PASS, ("there is no control cohort", "their own before the update")
    ),
    "no control cohort, and slower than before: FAIL": Case(
        evidence(canary(interval(slow=1), before=(GOOD,))), FAIL, ("2.00 times", "there is no control cohort")
    ),
    "no control cohort and nothing from before: nobody can tell": Case(
        evidence(canary(GOOD)), CANNOT_TELL, ("too few frames of the canaries before the update: 0 of 100 frames",)
    ),
    "a silent canary: FAIL, at once": Case(
        evidence(canary(GOOD, last_heard=ago(75)), control(GOOD)),
        FAIL,
        ("cam-1 has been silent for 75 s", "at least every 60 s"),
        soaked=False,
        hard=True,
    ),
    "a silent canary with nothing but hard limits: FAIL, at once": Case(
        evidence(canary(last_heard=ago(75))), FAIL, ("silent for 75 s",), LIMITS_ALONE, soaked=False, hard=True
    ),
    "a canary that was heard of 59 s ago is not silent": Case(
        evidence(canary(GOOD, last_heard=ago(59)), control(GOOD)), PASS
    ),
    "the plane was down: silence does not run": Case(
        evidence(canary(GOOD, last_heard=ago(200)), control(GOOD, last_heard=ago(200)), listening_since=ago(30)), PASS
    ),
    "the plane was down, and is back for longer than the canary may be silent: FAIL": Case(
        evidence(canary(GOOD, last_heard=ago(200)), control(GOOD), listening_since=ago(60)),
        FAIL,
        ("silent for 60 s",),
        hard=True,
    ),
    "silence runs from the opening of the wave, not from before": Case(
        Evidence("ro-1", "r-2", 0, (canary(GOOD, last_heard=ago(100)), control(GOOD)), ago(50), ago(9999), 7),
        CANNOT_TELL,
        ("nothing to judge",),
    ),
    "a canary that was offline when the wave opened is waited for, and named": Case(
        evidence(
            canary(GOOD, name="cam-1"), canary(name="cam-2", last_heard=OPENED - timedelta(hours=2)), control(GOOD)
        ),
        PASS,
        ("cam-2 offline since before the wave",),
    ),
    "a device that was never heard of is not counted": Case(
        evidence(canary(GOOD), canary(name="cam-2", last_heard=None), control(GOOD)), PASS, ("cam-2 offline",)
    ),
    "canary and control silent alike: not the release's doing, and nobody can tell": Case(
        evidence(canary(GOOD, last_heard=ago(75)), control(GOOD, last_heard=ago(75))),
        CANNOT_TELL,
        ("cam-1 has been silent for 75 s", "so are 1 of 1 control device"),
    ),
    "canaries silent more often than control: FAIL": Case(
        evidence(
            canary(GOOD, name="cam-1", last_heard=ago(75)),
            canary(GOOD, name="cam-2", last_heard=ago(80)),
            control(GOOD, name="cam-8", last_heard=ago(75)),
            control(GOOD, name="cam-9"),
        ),
        FAIL,
        ("cam-1 and cam-2 have been silent, for up to 80 s", "1 of 2 are silent"),
        hard=True,
    ),
    "control alone silent: what is left of it may be the better half, nobody can tell": Case(
        evidence(canary(GOOD), control(GOOD, last_heard=ago(75), name="cam-8"), control(GOOD)),
        CANNOT_TELL,
        ("cam-8 has been silent for 75 s (control)", "cannot be compared"),
    ),
    "one silent device in a control cohort of eleven is tolerated, and told": Case(
        evidence(
            canary(GOOD),
            control(GOOD, last_heard=ago(75), name="cam-20"),
            *(control(GOOD, name=f"cam-{n}") for n in range(10)),
        ),
        PASS,
        ("cam-20 has been silent for 75 s (control): 1 of 11, which is tolerated",),
    ),
    "control silent, and the canary is slow all the same: FAIL": Case(
        evidence(canary(interval(slow=1)), control(GOOD, last_heard=ago(75))), FAIL, ("2.00 times", "silent")
    ),
    "a golden self-test that a canary failed: FAIL, at once": Case(
        evidence(canary(GOOD, self_test_failures=1), control(GOOD)),
        FAIL,
        ("cam-1 failed 1 golden self-test",),
        soaked=False,
        hard=True,
    ),
    "a self-test that a control device failed has nothing to do with the release": Case(
        evidence(canary(GOOD), control(GOOD, self_test_failures=1)), PASS
    ),
    "a canary that refused the release: FAIL, at once, with its reason": Case(
        evidence(canary(refused="the golden self-test found 1 of 3 faces"), control(GOOD)),
        FAIL,
        ("cam-1 refused r-2 or took it back: the golden self-test found 1 of 3 faces",),
        LIMITS_ALONE,
        soaked=False,
        hard=True,
    ),
    "three starts within the rollout are a crash loop: FAIL, at once": Case(
        evidence(canary(GOOD, starts=3), control(GOOD)), FAIL, ("started 3 times",), soaked=False, hard=True
    ),
    "two starts are not": Case(evidence(canary(GOOD, starts=2), control(GOOD)), PASS),
    "a single source frame let through: FAIL, at once": Case(
        evidence(canary(GOOD, source_frames_let_through=1), control(GOOD)),
        FAIL,
        ("cam-1 let 1 frame through unmasked",),
        soaked=False,
        hard=True,
    ),
    "the plane's clock was set back: nobody is silent in the future": Case(
        evidence(canary(GOOD, last_heard=NOW + timedelta(hours=1)), control(GOOD)), PASS
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_judge(case: Case) -> None:
    decision = evaluate(case.policy, case.seen, NOW, soaked=case.soaked)
    told = "\n".join(decision.reasons)
    assert decision.verdict is case.verdict, told
    assert decision.hard is case.hard
    assert not decision.statistical
    for words in case.words:
        assert words in told


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_record_alone_gives_the_same_verdict_again(case: Case) -> None:
    decision = evaluate(case.policy, case.seen, NOW, soaked=case.soaked)
    kept = json.loads(json.dumps(decision.inputs, allow_nan=False))
    again = replay(kept)
    assert (again.verdict, again.reasons, again.hard) == (decision.verdict, decision.reasons, decision.hard)
    assert again.inputs == decision.inputs
    assert kept["rules"] == NO_STATISTICS
    assert kept["seed"] == 7


def test_every_verdict_of_thresholds_says_that_it_is_no_statistical_one() -> None:
    for case in CASES.values():
        decision = evaluate(THRESHOLDS, case.seen, NOW, soaked=case.soaked)
        assert decision.hard or NO_STATISTICS in decision.reasons


@pytest.mark.parametrize("broken", ["score", "_decide", "to_inputs"])
def test_an_exception_in_the_judge_is_an_error_and_no_pass(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("a device without frames")

    monkeypatch.setattr(judgement, broken, fails)
    decision = evaluate(THRESHOLDS, evidence(canary(GOOD), control(GOOD)), NOW, soaked=True)
    assert decision.verdict is Verdict.ERROR
    assert decision.reasons == ("the judge itself failed: ZeroDivisionError: a device without frames",)


RECORDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "of a later version": lambda inputs: inputs.update(version=99),
    "without a policy": lambda inputs: inputs.pop("policy"),
    "with a device that lacks its figures": lambda inputs: inputs["figures"]["devices"][0].pop("after"),
    "with a cohort that nobody knows": lambda inputs: inputs["figures"]["devices"][0].update(cohort="OTHER"),
}


@pytest.mark.parametrize("damage", RECORDS.values(), ids=RECORDS.keys())
def test_a_record_that_cannot_be_read_is_an_error(damage: Callable[[dict[str, Any]], object]) -> None:
    decision = evaluate(THRESHOLDS, evidence(canary(GOOD), control(GOOD)), NOW, soaked=True)
    inputs = json.loads(json.dumps(decision.inputs))
    damage(inputs)
    assert replay(inputs).verdict is Verdict.ERROR
