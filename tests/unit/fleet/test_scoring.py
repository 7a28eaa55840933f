"""What counts as altered, exposed, background and order."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from fleet.scoring import (
    ClipScore,
    FaceScore,
    FrameScore,
    Image,
    TrueFace,
    altered,
    check_order,
    ellipse,
    score_clip,
    score_frame,
)

FACE = (180.0, 56.0, 273.0, 178.0)


def portrait(scale: float = 1.0) -> Image:
    picture = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)


def scaled(box: tuple[float, float, float, float], scale: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (value * scale for value in box)
    return (x1, y1, x2, y2)


def grown(box: tuple[float, float, float, float], margin: float = 0.2) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    return (x1 - dx, y1 - dy, x2 + dx, y2 + dy)


def as_jpeg(picture: Image, quality: int = 90) -> Image:
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def drawn(picture: Image, box: tuple[float, float, float, float], style: str) -> Image:
    """A stand-in for the agent: an ellipse in the grown box, drawn over."""
    height, width = picture.shape[:2]
    side = box[3] - box[1]
    if style == "blur":
        cover = cv2.GaussianBlur(picture, (0, 0), max(4.0, side / 8))
    elif style == "pixelate":
        small = cv2.resize(picture, None, fx=8 / side, fy=8 / side, interpolation=cv2.INTER_AREA)
        cover = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    else:
        cover = np.full_like(picture, 96)
    rows, columns, inside = ellipse(grown(box), width=width, height=height)
    result = picture.copy()
    result[rows, columns][inside] = cover[rows, columns][inside]
    return result


def share(source: Image, result: Image, box: tuple[float, float, float, float]) -> float:
    height, width = source.shape[:2]
    rows, columns, inside = ellipse(box, width=width, height=height)
    return float(altered(source, result)[rows, columns][inside].mean())


@pytest.mark.parametrize("scale", [1.6, 1.0, 0.5, 0.27], ids=lambda s: f"face of {s * 122:.0f} px")
@pytest.mark.parametrize("style", ["blur", "pixelate", "solid"])
def test_a_masked_face_is_altered_and_little_else_is(style: str, scale: float) -> None:
    source = as_jpeg(portrait(scale))
    box = scaled(FACE, scale)
    result = as_jpeg(drawn(source, box, style))
    frame = score_frame(0, source, result, [TrueFace("a", box)], settled=True)
    assert share(source, result, box) > 0.98
    assert not frame.exposed
    mask = 1.54 * (box[2] - box[0]) * (box[3] - box[1])
    assert frame.background_masked < 0.7 * mask  # the margin is 0.5 of it


@pytest.mark.parametrize(("quality", "most"), [(75, 0.05), (85, 0.0), (90, 0.0), (95, 0.0)])
@pytest.mark.parametrize("scale", [1.6, 1.0, 0.5, 0.27])
def test_another_round_of_jpeg_alters_nothing(scale: float, quality: int, most: float) -> None:
    source = as_jpeg(portrait(scale), 90)
    assert altered(source, as_jpeg(source, quality)).mean() <= most
    assert share(source, as_jpeg(source, quality), scaled(FACE, scale)) <= most


@pytest.mark.parametrize("style", ["blur", "pixelate", "solid"])
@pytest.mark.parametrize(
    ("move", "expected"),
    [
        pytest.param((0, 0), False, id="where it should be -> covered"),
        pytest.param((70, 0), True, id="shifted by three quarters of a width -> exposed"),
        pytest.param((0, 80), True, id="shifted down to the collar -> exposed"),
        pytest.param((200, 0), True, id="on the wall beside the head -> exposed"),
    ],
)
def test_a_mask_in_the_wrong_place_exposes(style: str, move: tuple[int, int], expected: bool) -> None:
    source = as_jpeg(portrait())
    box = (FACE[0] + move[0], FACE[1] + move[1], FACE[2] + move[0], FACE[3] + move[1])
    result = as_jpeg(drawn(source, box, style))
    frame = score_frame(0, source, result, [TrueFace("a", FACE)], settled=True)
    assert bool(frame.exposed) is expected


@pytest.mark.parametrize("style", ["blur", "pixelate", "solid"])
def test_half_a_mask_is_about_half_altered(style: str) -> None:
    source = as_jpeg(portrait())
    result = drawn(source, FACE, style)
    middle = int((FACE[1] + FACE[3]) / 2)
    result[middle:] = source[middle:]
    assert share(source, as_jpeg(result), FACE) == pytest.approx(0.5, abs=0.08)


def test_a_flat_cheek_goes_with_the_mask_around_it_and_a_flat_wall_does_not() -> None:
    source = np.full((200, 200, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    source[60:140, 60:140] = rng.integers(0, 255, (80, 80, 3))
    source[0:200:8] = 90  # courses of bricks, so that the wall can tell that it was kept
    source[90:108, 90:108] = 128  # the cheek
    result = source.copy()
    result[60:140, 60:140] = 128
    changed = altered(source, result)
    assert changed[62:138, 62:138].all()
    assert not changed[:50].any()
    assert not changed[150:].any()


def test_a_flat_area_far_from_all_that_can_tell_is_not_altered() -> None:
    source = np.full((100, 100, 3), 128, np.uint8)
    source[:10, :10] = np.random.default_rng(0).integers(0, 255, (10, 10, 3))
    result = np.full_like(source, 128)
    changed = altered(source, result)
    assert changed[:10, :10].all()
    assert not changed[40:, 40:].any()


def test_a_mask_over_the_whole_frame_leaves_no_background() -> None:
    source = as_jpeg(portrait())
    result = as_jpeg(np.asarray(cv2.GaussianBlur(source, (0, 0), 30), np.uint8))
    frame = score_frame(0, source, result, [TrueFace("a", FACE)], settled=False)
    assert not frame.exposed
    assert frame.background_masked > 0.97 * frame.background


def test_a_dropped_frame_exposes_nothing_and_is_no_success() -> None:
    source = portrait(0.5)
    score = score_clip([score_frame(0, source, None, [TrueFace("a", scaled(FACE, 0.5))], settled=False)])
    assert (score.exposed, score.face_frames, score.settled_share, score.background_share) == (0, 1, 0.0, 1.0)


def test_a_face_that_is_mostly_hidden_does_not_count_and_is_no_background_either() -> None:
    source = portrait()
    faces = [TrueFace("a", FACE, visible=0.49)]
    frame = score_frame(0, source, source, faces, settled=True)
    assert frame.faces == ()
    assert frame.background == 512 * 512 - 93 * 122


def test_only_the_part_within_the_frame_must_be_covered() -> None:
    source = as_jpeg(portrait()[:, 226:])
    box = (FACE[0] - 226, FACE[1], FACE[2] - 226, FACE[3])
    result = as_jpeg(drawn(source, box, "blur"))
    assert not score_frame(0, source, result, [TrueFace("a", box, 0.5)], settled=True).exposed
    assert score_frame(0, source, source, [TrueFace("a", box, 0.5)], settled=True).exposed


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="source is"):
        altered(portrait(), portrait(0.5))


def _frames(exposures: list[set[str]], names: str = "ab") -> list[FrameScore]:
    return [
        FrameScore(
            i, tuple(FaceScore(TrueFace(n, (0, 0, 9, 9)), 0.0 if n in shown else 1.0) for n in names), 100, 2, True
        )
        for i, shown in enumerate(exposures)
    ]


@pytest.mark.parametrize(
    ("exposures", "exposed", "longest"),
    [
        pytest.param([set(), set()], 0, 0, id="never"),
        pytest.param([{"a"}, set(), {"a"}], 2, 1, id="twice with a pause -> runs of one"),
        pytest.param([{"a"}, {"b"}], 2, 1, id="one face after the other -> runs of one"),
        pytest.param([set(), {"a"}, {"a", "b"}, {"a"}], 4, 3, id="three frames on end"),
    ],
)
def test_runs_belong_to_one_face(exposures: list[set[str]], exposed: int, longest: int) -> None:
    score = score_clip(_frames(exposures))
    assert (score.exposed, score.longest_exposure) == (exposed, longest)
    assert score.face_frames == 2 * len(exposures)
    assert score.background_share == pytest.approx(0.02)


def test_streams_add_up_and_their_runs_stay_apart() -> None:
    one, two = score_clip(_frames([{"a"}])), score_clip(_frames([{"a"}, set()]))
    both = one + two
    assert (both.frames, both.exposed, both.longest_exposure) == (3, 2, 1)
    assert both.exposed_per_thousand == pytest.approx(1000 * 2 / 6)
    assert ClipScore() + one == one


@pytest.mark.parametrize(
    ("received", "lost", "reordered"),
    [
        pytest.param([0, 1, 2, 3], (), (), id="all in order"),
        pytest.param([0, 1, 3], (2,), (), id="one lost"),
        pytest.param([0, 2, 1, 3], (), (1,), id="two exchanged"),
        pytest.param([0, 1, 1, 2, 3], (), (1,), id="one twice"),
        pytest.param([0, 1, 2, 3, 9], (), (9,), id="one that was never sent"),
        pytest.param([], (0, 1, 2, 3), (), id="nothing came back"),
    ],
)
def test_order(received: list[int], lost: tuple[int, ...], reordered: tuple[int, ...]) -> None:
    order = check_order([0, 1, 2, 3], received)
    assert (order.sent, order.lost, order.reordered) == (4, lost, reordered)
