"""When in doubt, nothing of the frame leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.masking import styles
from edge_agent.masking.detections import Region
from edge_agent.masking.guard import LEAST_CONFIDENCE, check_full, check_masked, closed, in_force
from edge_agent.masking.outcomes import Outcome, Reason
from edge_agent.masking.preprocess import Picture
from edge_agent.masking.styles import GREY, MaskedFrame, full_mask, mask
from maskfleet.errors import (
    BadFrameError,
    BadPolicyError,
    DeadlineError,
    EngineError,
    InternalError,
    NoEngineError,
    SourceFrameError,
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
    "a face came through": (SourceFrameError("x"), MASK_IT, (8, 4), Outcome.DROPPED, Reason.SOURCE_FRAME),
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


# -- the last look -------------------------------------------------------------------------------------------------


def noise(height: int = 120, width: int = 160) -> Picture:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def through(picture: Picture) -> MaskedFrame:
    """What a mask that does nothing would give."""
    return MaskedFrame(picture.copy(), seal=styles._SEAL)


def shades(height: int = 120, width: int = 160) -> Picture:
    return np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, width, 3)).copy()


def of_one_colour(*bgr: int) -> Picture:
    return np.full((120, 160, 3), bgr, np.uint8)


FLAT = {
    "black": of_one_colour(0, 0, 0),
    "the grey of a solid mask": of_one_colour(GREY, GREY, GREY),
    "the grey that a veil leaves as it is": of_one_colour(128, 128, 128),
    "a wall with a little noise": np.random.default_rng(1).integers(126, 131, (120, 160, 3), dtype=np.uint8),
    "a colour": of_one_colour(128, 40, 200),
}
BUSY = {"noise": noise(), "shades": shades(), "stripes": np.tile(of_one_colour(128, 128, 128)[:, :1], (1, 160, 1))}
BUSY["stripes"][:, ::2] = 100
LOOKS = [MaskPolicy(style=style, shape=shape) for style in Style for shape in Shape]
FACE, TINY = Region(40, 30, 100, 100, 0.9), Region(40, 30, 43, 34, 0.9)


@pytest.mark.parametrize("policy", LOOKS, ids=lambda p: f"{p.style.value} {p.shape.value}")
@pytest.mark.parametrize("picture", (FLAT | BUSY).values(), ids=(FLAT | BUSY).keys())
def test_what_was_masked_may_leave_though_what_it_covers_was_flat(picture: Picture, policy: MaskPolicy) -> None:
    for regions in ([FACE], [TINY], [FACE, TINY], []):
        check_masked(mask(picture, regions, policy), picture, regions)


@pytest.mark.parametrize("picture", BUSY.values(), ids=BUSY.keys())
def test_a_face_that_is_as_it_came_does_not_leave_even_beside_one_that_is_masked(picture: Picture) -> None:
    with pytest.raises(SourceFrameError, match="a face came through"):
        check_masked(through(picture), picture, [FACE])
    other = Region(110, 60, 150, 110, 0.5)
    with pytest.raises(SourceFrameError):
        check_masked(mask(picture, [FACE], MASK_IT), picture, [FACE, other])
    with pytest.raises(SourceFrameError):
        check_masked(full_mask(10, 10), picture, [])


def test_a_full_mask_that_shows_anything_does_not_leave() -> None:
    check_full(full_mask(160, 120))
    with pytest.raises(SourceFrameError, match="full mask"):
        check_full(through(noise()))


coordinates = st.floats(-80, 240, width=32)


@given(
    st.tuples(coordinates, coordinates, st.floats(0.5, 200, width=32), st.floats(0.5, 200, width=32)),
    st.sampled_from(LOOKS),
    st.floats(0, 1),
    st.floats(0, 2),
    st.sampled_from([*FLAT, *BUSY]),
)
def test_no_mask_of_any_look_place_and_size_is_taken_for_a_source(
    place: tuple[float, float, float, float], look: MaskPolicy, strength: float, margin: float, picture: str
) -> None:
    x, y, wide, high = place
    regions = [Region(x, y, x + wide, y + high, 0.9)]
    shown = (FLAT | BUSY)[picture]
    check_masked(mask(shown, regions, look.changed(strength=strength, margin=margin)), shown, regions)
