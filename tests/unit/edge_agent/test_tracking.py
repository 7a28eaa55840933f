"""Faces are carried over the moments in which the detector does not see them, and not for longer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.engines.engine import FloatArray
from edge_agent.masking.detections import Region
from edge_agent.masking.motion import CameraMotion
from edge_agent.masking.tracking import Tracker, weakest
from maskfleet.policy import MaskPolicy

POLICY = MaskPolicy(min_confidence=0.4, coast_frames=3, track_iou=0.2)
WIDTH, HEIGHT = 640, 360


def boxes(*found: tuple[float, float, float, float, float]) -> FloatArray:
    return np.array(found, np.float32).reshape(-1, 5)


def face(x: float, y: float = 100, *, side: float = 40, score: float = 0.9) -> tuple[float, float, float, float, float]:
    """A face whose centre is at (x, y)."""
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2, score)


def step(tracker: Tracker, *found: tuple[float, float, float, float, float], **more: object) -> list[Region]:
    return tracker.update(boxes(*found), POLICY, width=WIDTH, height=HEIGHT, **more)  # type: ignore[arg-type]


def covers(regions: list[Region], x: float, y: float = 100) -> bool:
    return any(r.x1 <= x - 18 and r.x2 >= x + 18 and r.y1 <= y - 18 and r.y2 >= y + 18 for r in regions)


def test_a_new_face_is_masked_in_its_first_frame() -> None:
    (region,) = step(Tracker(), face(100))
    assert (region.x1, region.x2, region.coasted, region.track_id) == (80, 120, False, 1)


def test_a_face_keeps_its_name_while_it_moves() -> None:
    tracker = Tracker()
    names = [step(tracker, face(100 + 12 * n))[0].track_id for n in range(10)]
    assert names == [1] * 10


def test_a_lost_face_is_carried_on_where_it_was_going_and_then_let_go() -> None:
    tracker = Tracker()
    for n in range(6):
        step(tracker, face(100 + 10 * n))
    for n in range(6, 9):
        regions = step(tracker)
        assert [r.coasted for r in regions] == [True]
        assert covers(regions, 100 + 10 * n)
    assert step(tracker) == []


def test_a_carried_mask_grows() -> None:
    tracker = Tracker()
    step(tracker, face(100))
    widths = [r.x2 - r.x1 for _ in range(3) for r in step(tracker)]
    assert widths == sorted(widths)
    assert widths[0] > 40


def test_without_coasting_a_lost_face_is_lost_at_once() -> None:
    tracker = Tracker()
    policy = POLICY.changed(coast_frames=0)
    tracker.update(boxes(face(100)), policy, width=WIDTH, height=HEIGHT)
    assert tracker.update(boxes(), policy, width=WIDTH, height=HEIGHT) == []
    (again,) = tracker.update(boxes(face(100)), policy, width=WIDTH, height=HEIGHT)
    assert not again.coasted


def test_a_weak_detection_continues_a_face_and_begins_none() -> None:
    tracker = Tracker()
    assert step(tracker, face(300, score=0.25)) == []
    step(tracker, face(100))
    for _ in range(8):
        (region,) = step(tracker, face(100, score=0.25), face(300, score=0.25))
        assert (region.track_id, region.coasted) == (1, False)
        assert region.score == pytest.approx(0.25)


def test_at_an_edge_a_weak_detection_begins_a_face_that_does_not_coast_until_it_is_confirmed() -> None:
    tracker = Tracker()
    assert step(tracker, face(10, score=0.25)) == []
    assert len(step(tracker, face(10, score=0.3))) == 1
    assert step(tracker) == []
    step(tracker, face(10, score=0.3))
    step(tracker, face(20, score=0.9))
    (region,) = step(tracker)
    assert region.coasted


def test_a_sure_detection_takes_a_track_before_a_weak_one_that_overlaps_more() -> None:
    tracker = Tracker()
    step(tracker, face(100))
    regions = step(tracker, face(100, score=0.3), face(110, score=0.9))
    assert [(r.track_id, round(r.score, 1)) for r in regions] == [(1, 0.9)]


def test_faces_that_cross_are_both_masked_in_every_frame() -> None:
    tracker = Tracker()
    for n in range(20):
        left, right = 100 + 12 * n, 340 - 12 * n
        hidden = abs(left - right) < 30
        regions = step(tracker, face(left)) if hidden else step(tracker, face(left), face(right))
        assert covers(regions, left)
        assert covers(regions, right)


def test_a_pan_moves_every_track_with_it() -> None:
    tracker = Tracker()
    step(tracker, face(500, side=24))
    for n in range(1, 6):  # 70 pixels a frame: boxes of 24 pixels never overlap
        (region,) = step(tracker, face(500 - 70 * n, side=24), camera=(-70.0, 0.0))
        assert region.track_id == 1
    (region,) = step(tracker, camera=(-70.0, 0.0))
    assert region.coasted
    assert region.x1 < 80 - 10 < 80 + 10 < region.x2


def test_a_track_that_leaves_the_frame_ends() -> None:
    tracker = Tracker()
    for n in range(5):
        step(tracker, face(542 + 22 * n))
    assert [len(step(tracker)) for _ in range(2)] == [1, 0]


def test_frames_that_were_not_seen_count() -> None:
    tracker = Tracker()
    for n in range(6):
        step(tracker, face(100 + 10 * n))
    (region,) = step(tracker, face(180), frames=3)
    assert (region.track_id, region.coasted) == (1, False)
    assert step(tracker, frames=4) == []


def test_frames_that_failed_age_a_track_without_ending_it_too_soon() -> None:
    tracker = Tracker()
    step(tracker, face(100))
    tracker.skip(1, POLICY)
    tracker.skip(1, POLICY)
    (region,) = step(tracker)
    assert region.coasted
    assert step(tracker) == []


def test_another_size_of_frame_begins_anew() -> None:
    tracker = Tracker()
    step(tracker, face(100))
    assert tracker.update(boxes(), POLICY, width=320, height=180) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 640), st.integers(0, 360), st.floats(0.25, 1, width=32)), max_size=6),
        max_size=12,
    )
)
def test_every_sure_detection_is_masked_in_its_frame(frames: list[list[tuple[int, int, float]]]) -> None:
    tracker = Tracker()
    for found in frames:
        now = boxes(*[face(x, y, score=score) for x, y, score in found])
        regions = tracker.update(now, POLICY, width=WIDTH, height=HEIGHT)
        masked = [(r.x1, r.y1, r.x2, r.y2) for r in regions if not r.coasted]
        for box in now[now[:, 4] >= POLICY.min_confidence]:
            assert any(np.allclose(box[:4], m, atol=0.01) for m in masked)
        assert len({r.track_id for r in regions}) == len(regions)


def test_the_weakest_useful_score_is_below_the_threshold() -> None:
    assert 0 < weakest(POLICY) < POLICY.min_confidence


@pytest.mark.parametrize("moved", [(0, 0), (24, 0), (-60, 12), (0, -33)])
def test_the_camera_s_motion_is_read_from_the_picture(moved: tuple[int, int]) -> None:
    import cv2

    world = np.random.default_rng(3).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    large = cv2.resize(world, (960, 540), interpolation=cv2.INTER_CUBIC)
    camera = CameraMotion()
    assert camera.shift(large[100:460, 150:790].astype(np.uint8)) == (0.0, 0.0)
    dx, dy = camera.shift(large[100 - moved[1] : 460 - moved[1], 150 - moved[0] : 790 - moved[0]].astype(np.uint8))
    assert (dx, dy) == pytest.approx(moved, abs=2.0)


def test_pictures_that_have_nothing_in_common_show_no_motion() -> None:
    camera = CameraMotion()
    for seed in range(4):
        frame = np.random.default_rng(seed).integers(0, 256, (180, 320, 3), dtype=np.uint8)
        assert camera.shift(frame) == (0.0, 0.0)
    flat = np.full((180, 320, 3), 90, np.uint8)
    camera.shift(flat)
    assert np.isfinite(camera.shift(flat)).all()
    assert camera.shift(flat[:90]) == (0.0, 0.0)
