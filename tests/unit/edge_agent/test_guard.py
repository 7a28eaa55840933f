"""When in doubt, nothing of the frame leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.masking.guard import LEAST_CONFIDENCE, closed, in_force
from edge_agent.masking.outcomes import Outcome, Reason
from edge_agent.masking.styles import GREY
from maskfleet.errors import (
    BadFrameError,
    BadPolicyError,
    DeadlineError,
    EngineError,
    InternalError,
    NoEngineError,
    catalogue,
)
from maskfleet.policy import FailClosed, MaskPolicy, Shape, Style

MASK_IT = MaskPolicy()
DROP_IT = MaskPolicy(fail_closed=FailClosed.DROP)

CASES: dict[str, tuple[Exception, MaskPolicy, tuple[int, int] | None, Outcome, Reason]] = {
    "the engine raised": (EngineError("x"), MASK_IT, (8, 4), Outcome.FULL_MASK, Reason.ENGINE_FAILED),
    "no engine": (NoEngineError("x"), MASK_IT, (8, 4), Outcome.FULL_MASK, Reason.NO_ENGINE),
    "too late": (DeadlineError("x"), MASK_IT, (8, 4), Outcome.FULL_MASK, Reason.DEADLINE_MISSED),
    "too late, and the policy drops": (DeadlineError("x"), DROP_IT, (8, 4), Outcome.DROPPED, Reason.DEADLINE_MISSED),
    "too late, and its size is not known": (DeadlineError("x"), MASK_IT, None, Outcome.DROPPED, Reason.DEADLINE_MISSED),
    "no picture, though its header was read": (
        BadFrameError("x"),
        MASK_IT,
        (8, 4),
        Outcome.DROPPED,
        Reason.DECODE_FAILED,
    ),
    "masking raised": (ValueError("secret"), MASK_IT, (8, 4), Outcome.FULL_MASK, Reason.MASKING_FAILED),
    "encoding raised": (InternalError("x"), MASK_IT, (8, 4), Outcome.FULL_MASK, Reason.MASKING_FAILED),
    "no memory": (MemoryError(), DROP_IT, (8, 4), Outcome.DROPPED, Reason.MASKING_FAILED),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_doubt_ends_in_a_full_mask_or_in_nothing(
    case: tuple[Exception, MaskPolicy, tuple[int, int] | None, Outcome, Reason],
) -> None:
    error, policy, size, outcome, reason = case
    verdict = closed(error, policy, size)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
    assert verdict.detail
    assert "secret" not in verdict.detail
    if outcome is Outcome.FULL_MASK:
        assert verdict.frame is not None
        assert verdict.frame.size == size
        assert (verdict.frame.pixels == GREY).all()
    else:
        assert verdict.frame is None


@pytest.mark.parametrize("kind", catalogue().values())
def test_every_error_of_the_catalogue_has_a_reason(kind: type[Exception]) -> None:
    assert closed(kind("x"), MASK_IT, (4, 4)).outcome in (Outcome.FULL_MASK, Outcome.DROPPED)


policies = st.builds(
    MaskPolicy,
    style=st.sampled_from(Style),
    shape=st.sampled_from(Shape),
    strength=st.floats(0, 1),
    margin=st.floats(0, 2),
    min_confidence=st.floats(0, 1),
    nms_iou=st.floats(0, 1),
    coast_frames=st.integers(0, 600),
    track_iou=st.floats(0, 1),
    fail_closed=st.sampled_from(FailClosed),
)


@given(policies, policies)
def test_no_stream_covers_less_than_its_release(release: MaskPolicy, wish: MaskPolicy) -> None:
    got = in_force(
        release, wish.to_json() | {"style": wish.style, "shape": wish.shape, "fail_closed": wish.fail_closed}
    )
    assert got.min_confidence <= release.min_confidence
    assert got.margin >= release.margin
    assert got.coast_frames >= release.coast_frames
    assert got.nms_iou >= release.nms_iou
    assert got.track_iou >= release.track_iou
    assert (got.style, got.shape, got.strength, got.fail_closed) == (
        wish.style,
        wish.shape,
        wish.strength,
        wish.fail_closed,
    )


def test_a_stream_that_asks_for_more_gets_it_and_one_that_asks_for_nothing_gets_the_release_s() -> None:
    release = MaskPolicy()
    asked = in_force(release, {"margin": 0.5, "min_confidence": 0.2, "coast_frames": 30})
    assert (asked.margin, asked.min_confidence, asked.coast_frames) == (0.5, 0.2, 30)
    assert in_force(release, {}) == release


def test_a_change_out_of_range_is_refused() -> None:
    with pytest.raises(BadPolicyError):
        in_force(MaskPolicy(), {"margin": 3.0})


def test_no_stream_makes_the_detector_fire_everywhere() -> None:
    assert in_force(MaskPolicy(), {"min_confidence": 0.0}).min_confidence == LEAST_CONFIDENCE
    assert in_force(MaskPolicy(min_confidence=0.02), {"min_confidence": 0.0}).min_confidence == 0.02
