"""Strategies: what is refused is named; what is not said is filled in; the wire and the store keep all of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.strategy import (
    ALL,
    JudgeKind,
    JudgePolicy,
    Share,
    Strategy,
    WaveSpec,
    check,
)
from control_plane.rollout_codec import strategy_from, strategy_message
from control_plane.store.records import from_json, to_json
from maskfleet.errors import InvalidInputError
from maskfleet.v1 import strategy_pb2

MINUTE = timedelta(minutes=1)


def waves(*percents: float | int) -> tuple[WaveSpec, ...]:
    """Floats are percentages, whole numbers are counts."""
    return tuple(WaveSpec(Share(percent=p) if isinstance(p, float) else Share(count=p), MINUTE) for p in percents)


REFUSED = {
    "no waves": ({"waves": ()}, "no waves"),
    "percentages that fall": ({"waves": waves(50.0, 10.0, 100.0)}, "wave 2 has 10 %, and wave 1 has 50 % already"),
    "a wave that adds nothing": ({"waves": waves(50.0, 50.0, 100.0)}, "wave 2 has 50 %"),
    "counts that fall": ({"waves": waves(3, 2, 100.0)}, "wave 2 has 2 devices"),
    "a wave after everybody": ({"waves": waves(100.0, 200)}, "wave 2 comes after wave 1"),
    "a last wave that is not everybody": ({"waves": waves(10.0, 50.0)}, "wave 2 is the last one and stops at 50 %"),
    "nothing of a hundred": ({"waves": waves(0.0, 100.0)}, "wave 1 has 0 %"),
    "more than all": ({"waves": waves(101.0)}, "wave 1 has 101 %"),
    "a percentage that is no number": ({"waves": waves(float("nan"))}, "wave 1 has nan %"),
    "no device": ({"waves": waves(0, 100.0)}, "wave 1 has 0 devices"),
    "no share": ({"waves": (WaveSpec(Share()),)}, "wave 1 has no share"),
    "both kinds of share": ({"waves": (WaveSpec(Share(1, 1.0)),)}, "wave 1 has no share"),
    "a soak in the past": ({"waves": (WaveSpec(ALL, -MINUTE),)}, "the soak of wave 1"),
    "everybody held out": ({"waves": waves(1, 100.0), "control_holdout": ALL}, "holdout of 100 %"),
    "a holdout of one wave": ({"control_holdout": Share(count=1)}, "one wave"),
    "a stratum twice": ({"strata": ("site", "site")}, "twice"),
    "a stratum that is no name": ({"strata": ("a b",)}, "stratum"),
    "a negative seed": ({"seed": -1}, "seed"),
    "expiring at once": ({"expire_after": timedelta(0)}, "expire_after"),
    "an increase above all": ({"judge": JudgePolicy(max_error_increase=1.5)}, "max_error_increase"),
    "an increase that is no number": ({"judge": JudgePolicy(max_error_increase=float("nan"))}, "max_error_increase"),
    "a ratio below one": ({"judge": JudgePolicy(max_p95_ratio=0.9)}, "max_p95_ratio"),
    "a ratio without end": ({"judge": JudgePolicy(max_p95_ratio=float("inf"))}, "max_p95_ratio"),
    "a crash loop of no start": ({"judge": JudgePolicy(crash_loop_starts=0)}, "crash_loop_starts"),
    "silence at once": ({"judge": JudgePolicy(silence_after=timedelta(0))}, "silence_after"),
}


@pytest.mark.parametrize(("fields", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check(Strategy(**fields))  # type: ignore[arg-type]
    assert told in caught.value.message
    assert caught.value.remedy


@given(total=st.integers(1, 5000), percent=st.integers(1, 100))
def test_a_share_is_rounded_up_to_whole_devices_and_is_never_none_or_more_than_all(total: int, percent: int) -> None:
    share = Share(percent=float(percent)).of(total)
    assert 1 <= share <= total
    assert share - 1 < total * percent / 100 <= share
    assert Share(count=percent).of(total) == min(percent, total)


def test_one_wave_without_soak_and_judge_is_not_judged_and_anything_more_is() -> None:
    assert not Strategy().judged
    assert Strategy(waves(1, 100.0)).judged
    assert Strategy((WaveSpec(ALL, MINUTE),)).judged
    assert Strategy(judge=JudgePolicy(JudgeKind.THRESHOLDS)).judged


STRATEGY = check(
    Strategy(
        waves(1, 50.0, 100.0),
        Share(percent=12.5),
        ("site", "gpu"),
        7,
        JudgePolicy(JudgeKind.NONE, 0.1, 3.0, 5, MINUTE, 4, 2 * MINUTE),
        timedelta(hours=12),
    )
)


def test_the_wire_and_the_store_keep_all_of_it() -> None:
    assert strategy_from(strategy_message(STRATEGY)) == STRATEGY
    assert from_json(Strategy, to_json(STRATEGY)) == STRATEGY


def test_what_is_not_said_is_filled_in() -> None:
    one = strategy_pb2.WaveSpec(share=strategy_pb2.Share(percent=100))
    first = strategy_pb2.WaveSpec(share=strategy_pb2.Share(count=1))
    assert strategy_from(strategy_pb2.RolloutStrategy(waves=[one])) == Strategy()
    staged = strategy_from(strategy_pb2.RolloutStrategy(waves=[first, one]))
    assert staged.judge == JudgePolicy(JudgeKind.THRESHOLDS)


def test_a_judge_of_a_newer_version_and_a_time_without_end_are_refused() -> None:
    message = strategy_message(STRATEGY)
    message.judge.kind = 9  # type: ignore[assignment]
    with pytest.raises(InvalidInputError, match="kind of judge 9"):
        strategy_from(message)
    message = strategy_message(STRATEGY)
    message.waves[1].soak.seconds = 2**60
    with pytest.raises(InvalidInputError, match="wave 2"):
        strategy_from(message)
