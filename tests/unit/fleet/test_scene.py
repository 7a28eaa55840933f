"""The demo's clip is what its description says, and its truth is where the faces are."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest

from fleet.demo import pictures
from fleet.demo.gallery import FRAMES, gallery
from fleet.demo.scene import HEIGHT, WIDTH, Clip, Layer, Pose, Track
from fleet.scoring import TrueFace

Seen = list[dict[str, TrueFace]]


@functools.cache
def clip() -> Clip:
    return gallery()


@functools.cache
def truth() -> Seen:
    return [{face.name: face for face in clip().truth(i)} for i in range(FRAMES)]


def counted() -> list[TrueFace]:
    return [face for frame in truth() for face in frame.values() if face.counts]


def test_it_is_long_enough() -> None:
    assert clip().frames >= 300


def test_faces_range_from_32_to_200_pixels() -> None:
    heights = [face.box[3] - face.box[1] for face in counted()]
    assert 32 <= min(heights) < 36
    assert 190 < max(heights) <= 205


def test_there_is_a_stretch_without_a_face_and_there_are_frames_with_several() -> None:
    numbers = [len(frame) for frame in truth()]
    empty = "".join("0" if n == 0 else "1" for n in numbers)
    assert "0" * 10 in empty
    assert max(numbers) >= 4


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_faces_come_in_over_each_edge(edge: str) -> None:
    def beyond(face: TrueFace) -> bool:
        x1, y1, x2, y2 = face.box
        return {"left": x1 < 0, "right": x2 > WIDTH, "top": y1 < 0, "bottom": y2 > HEIGHT}[edge]

    entries = [
        name
        for before, now in zip(truth()[:-1], truth()[1:])
        for name, face in now.items()
        if beyond(face) and (name not in before or not before[name].counts) and face.visible > 0.1
    ]
    assert entries


def test_people_cross_and_hide_each_other() -> None:
    hidden = 0
    for frame in truth():
        for face in frame.values():
            x1, y1, x2, y2 = face.box
            whole_in_view = x1 > 0 and y1 > 0 and x2 < WIDTH and y2 < HEIGHT
            hidden += whole_in_view and face.visible < 0.5
    assert hidden >= 3


def test_fast_motion_blurs() -> None:
    def sharpness(index: int) -> float:
        return float(cv2.Laplacian(cv2.cvtColor(clip().frame(index), cv2.COLOR_BGR2GRAY), cv2.CV_32F).var())

    speeds = np.linalg.norm(np.diff([clip().camera.at(i / 10)[:2] for i in range(FRAMES)], axis=0), axis=1)
    assert speeds.max() > 60
    assert sharpness(int(speeds.argmax())) < 0.5 * sharpness(0)


def test_the_same_clip_comes_out_every_time() -> None:
    assert (gallery().frame(137) == clip().frame(137)).all()
    assert gallery().truth(137) == clip().truth(137)


def test_the_frame_is_a_picture_of_the_right_size() -> None:
    frame = clip().frame(0)
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert frame.dtype == np.uint8
    assert 40 < frame.mean() < 200


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("scale", [1.3, 0.6, 0.3])
def test_the_true_box_is_where_the_face_is_drawn(scale: float, mirror: bool) -> None:
    """A marked face: the colour's extent in the frame is the box."""
    picture = np.full((512, 512, 3), 90, np.uint8)
    x1, y1, x2, y2 = (int(v) for v in pictures.FACE_BOX)
    picture[y1:y2, x1:x2] = (0, 0, 255)
    box = pictures.FACE_BOX
    if mirror:
        picture, box = pictures.mirrored(picture), pictures.mirrored_box(box, 512)
    wall = np.full((900, 1200, 3), 90, np.uint8)
    layers = (
        Layer("wall", wall, lambda _time: Pose(0, 0, 1)),
        Layer("face", np.dstack([picture, np.full((512, 512), 255, np.uint8)]), lambda _t: Pose(300, 300, scale), box),
    )
    made = Clip(layers, Track(((0.0, 500, 450, 1.2), (1.0, 500, 450, 1.2))), 10)
    frame, (face,) = made.frame(3).astype(int), made.truth(3)
    red = (frame[..., 2] - frame[..., 0]) > 90
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    inside = np.clip(face.box, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    assert found == pytest.approx(tuple(inside), abs=1.6)


def test_what_is_in_front_hides() -> None:
    wall = np.full((900, 1200, 3), 90, np.uint8)
    face = np.full((100, 100, 4), 255, np.uint8)
    board = np.full((100, 50, 4), 255, np.uint8)
    layers = (
        Layer("wall", wall, lambda _time: Pose(0, 0, 1)),
        Layer("face", face, lambda _time: Pose(450, 400, 1), (0, 0, 100, 100)),
        Layer("board", board, lambda _time: Pose(450, 400, 1)),
    )
    (seen,) = Clip(layers, Track(((0.0, 500, 450, 1.0), (1.0, 500, 450, 1.0))), 10).truth(0)
    assert seen.visible == pytest.approx(0.5, abs=0.06)


def test_a_track_goes_through_its_keys_and_is_held_beyond_them() -> None:
    track = Track(((1.0, 10, 5), (2.0, 20, 5), (4.0, -3, 5)))
    assert track.at(0)[0] == 10
    assert track.at(2)[0] == pytest.approx(20)
    assert track.at(9)[0] == -3
    assert track.at(3.3)[1] == pytest.approx(5)


def test_the_person_has_a_soft_edge_and_a_solid_face() -> None:
    layer = pictures.person()
    x1, y1, x2, y2 = (int(v) for v in pictures.FACE_BOX)
    alpha = layer[..., 3]
    assert (alpha[y1 + 20 : y2 - 20, x1 + 15 : x2 - 15] == 255).all()
    assert alpha[:10].max() == 0
    assert ((alpha > 20) & (alpha < 235)).sum() > 500
