"""Masks cover faces, leave the source alone, and leave too little to tell who it was."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.masking.detections import Region
from edge_agent.masking.preprocess import Picture
from edge_agent.masking.styles import GREY, WEAKEST_TILES, MaskedFrame, full_mask, mask
from maskfleet.policy import MaskPolicy, Shape, Style

EVERY_LOOK = list(itertools.product(Style, Shape))


def noise(width: int = 320, height: int = 240, seed: int = 1) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(value: int = 170) -> Picture:
    return np.full((240, 320, 3), value, np.uint8)


def inscribed(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> np.ndarray:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
    x1, y1, x2, y2 = box
    inside: np.ndarray = ((x - (x1 + x2) / 2) * 2 / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) * 2 / (y2 - y1)) ** 2 <= 1
    return inside


@pytest.mark.parametrize(("style", "shape"), EVERY_LOOK)
def test_the_source_is_never_written_to_and_everything_outside_stays(style: Style, shape: Shape) -> None:
    frame = noise()
    before = frame.copy()
    masked = mask(frame, [Region(100, 80, 160, 150, 0.9)], MaskPolicy(style=style, shape=shape, margin=0.2))
    assert (frame == before).all()
    assert not np.shares_memory(masked.pixels, frame)
    changed = (masked.pixels != frame).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.min()) >= (87, 65)
    assert columns.max() < 173
    assert rows.max() < 165


@pytest.mark.parametrize(("style", "shape"), EVERY_LOOK)
@pytest.mark.parametrize("off", [(0, 0), (5, 0), (-5, 0), (0, 6), (0, -6)])
def test_the_ellipse_in_the_true_box_is_covered_though_the_detector_is_somewhat_off(
    style: Style, shape: Shape, off: tuple[int, int]
) -> None:
    frame = noise()
    true = (100.0, 80.0, 160.0, 150.0)
    detected = Region(true[0] + off[0], true[1] + off[1], true[2] + off[0], true[3] + off[1], 0.9)
    masked = mask(frame, [detected], MaskPolicy(style=style, shape=shape, margin=0.0))
    changed = (masked.pixels != frame).any(axis=2)
    assert changed[inscribed(true, frame.shape)].mean() > 0.97


@pytest.mark.parametrize(
    ("true", "visible"),
    [
        ((-30, 80, 30, 150), (0, 80, 30, 150)),
        ((290, 80, 350, 150), (290, 80, 320, 150)),
        ((100, -35, 160, 35), (100, 0, 160, 35)),
        ((100, 205, 160, 275), (100, 205, 160, 240)),
        ((-30, -35, 30, 35), (0, 0, 30, 35)),
    ],
    ids=["left", "right", "top", "bottom", "a corner"],
)
def test_a_face_that_the_frame_cuts_off_is_covered_up_to_the_cut(
    true: tuple[float, float, float, float], visible: tuple[float, float, float, float]
) -> None:
    frame = noise()
    changed = (mask(frame, [Region(*visible, 0.9)], MaskPolicy(margin=0.1)).pixels != frame).any(axis=2)
    assert changed[inscribed(true, frame.shape)].mean() > 0.95


@pytest.mark.parametrize("style", Style)
def test_flat_skin_is_altered_too(style: Style) -> None:
    frame = flat()
    masked = mask(frame, [Region(100, 80, 160, 150, 0.9)], MaskPolicy(style=style))
    inside = inscribed((100, 80, 160, 150), frame.shape)
    assert (np.abs(masked.pixels.astype(int) - frame).max(axis=2)[inside] >= 8).all()


@pytest.mark.parametrize("style", [Style.BLUR, Style.PIXELATE])
@pytest.mark.parametrize("side", [12, 32, 200])
def test_even_the_weakest_mask_leaves_no_detail_finer_than_a_sixth_of_the_face(style: Style, side: int) -> None:
    """Stripes as fine as eyes and mouth vanish: what is left of them is a small part of their contrast."""
    x = np.mgrid[0:240, 0:320][1]
    stripe = side / (2 * WEAKEST_TILES)  # one light and one dark stripe for each tile
    frame = np.repeat((((x // max(stripe, 1)) % 2) * 255)[..., None], 3, axis=2).astype(np.uint8)
    region = Region(60, 20, 60 + side, 20 + side, 0.9)
    masked = mask(frame, [region], MaskPolicy(style=style, shape=Shape.RECTANGLE, strength=0.0)).pixels
    inside = masked[20 : 20 + side, 60 : 60 + side, 0].astype(float)
    assert inside.std() < 0.35 * frame[20 : 20 + side, 60 : 60 + side, 0].std()


@pytest.mark.parametrize("margin", [0.0, 0.2, 2.0])
def test_a_mosaic_has_no_more_tiles_across_a_face_than_the_floor_allows(margin: float) -> None:
    policy = MaskPolicy(style=Style.PIXELATE, shape=Shape.RECTANGLE, strength=0.0, margin=margin)
    masked = mask(noise(), [Region(100, 80, 160, 150, 0.9)], policy).pixels
    across = masked[115, 100:160].astype(int)
    edges = int((np.abs(np.diff(across, axis=0)).max(axis=1) > 0).sum())
    assert edges + 1 <= WEAKEST_TILES + 1  # a tile may begin inside the face


def test_solid_leaves_nothing_of_the_source() -> None:
    policy = MaskPolicy(style=Style.SOLID, shape=Shape.RECTANGLE)
    region = [Region(100, 80, 160, 150, 0.9)]
    one, other = mask(noise(seed=1), region, policy).pixels, mask(noise(seed=2), region, policy).pixels
    assert (one[80:150, 100:160] == GREY).all()
    assert (other[80:150, 100:160] == GREY).all()


def test_a_full_mask_does_not_depend_on_any_source() -> None:
    frame = full_mask(31, 17)
    assert frame.size == (31, 17)
    assert (frame.pixels == GREY).all()


def test_masked_frames_are_made_by_masking_alone_and_stay_as_they_are() -> None:
    with pytest.raises(TypeError):
        MaskedFrame(noise())
    with pytest.raises(ValueError, match="read-only"):
        full_mask(4, 4).pixels[0, 0] = 255


def test_overlapping_faces_are_both_covered() -> None:
    frame = noise()
    boxes = [(100, 80, 160, 150), (130, 90, 190, 160)]
    changed = (mask(frame, [Region(*box, 0.9) for box in boxes], MaskPolicy()).pixels != frame).any(axis=2)
    for box in boxes:
        assert changed[inscribed(box, frame.shape)].mean() > 0.97


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-400, 700)] * 2, *[st.floats(0.01, 800)] * 2), max_size=4),
    st.sampled_from(EVERY_LOOK),
    st.floats(0, 1),
    st.floats(0, 2),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
)
def test_no_region_and_no_size_of_frame_makes_masking_fail(
    boxes: list[tuple[float, ...]], look: tuple[Style, Shape], strength: float, margin: float, size: tuple[int, int]
) -> None:
    frame = noise(*size)
    policy = MaskPolicy(style=look[0], shape=look[1], strength=strength, margin=margin)
    masked = mask(frame, [Region(x, y, x + w, y + h, 0.5) for x, y, w, h in boxes], policy)
    assert masked.pixels.shape == frame.shape


def test_a_portrait_is_no_longer_found_in_its_mask(testdata: object) -> None:
    """Not a proof; but a mask that a plain template match sees through would be none."""
    frame = cv2.imread(f"{testdata}/images/astronaut.png")
    assert frame is not None
    face = frame[62:186, 180:268]
    masked = mask(frame.astype(np.uint8), [Region(180, 62, 268, 186, 0.9)], MaskPolicy(strength=0.0)).pixels
    match = cv2.matchTemplate(masked[62:186, 180:268], face, cv2.TM_CCOEFF_NORMED).max()
    assert match < 0.8
