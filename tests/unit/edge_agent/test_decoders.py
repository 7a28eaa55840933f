"""Outputs of engines become boxes; outputs that no detector gives become errors, never "no faces"."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.engines.engine import FloatArray
from edge_agent.masking.decoders import decode, suppress
from maskfleet.decoding import decoder_spec
from maskfleet.errors import EngineError

WIDTH, HEIGHT = 64, 32
Outputs = dict[str, FloatArray]


def centerface() -> Outputs:
    rows, columns = HEIGHT // 4, WIDTH // 4
    outputs = {
        "heatmap": np.zeros((1, 1, rows, columns), np.float32),
        "scale": np.zeros((1, 2, rows, columns), np.float32),
        "offset": np.zeros((1, 2, rows, columns), np.float32),
        "landmarks": np.zeros((1, 10, rows, columns), np.float32),
    }
    outputs["heatmap"][0, 0, 3, 5] = 0.9
    outputs["scale"][0, :, 3, 5] = math.log(16 / 4), math.log(8 / 4)  # height, then width
    outputs["offset"][0, :, 3, 5] = 0.25, -0.5  # down, then right
    return outputs


def yunet() -> Outputs:
    outputs: Outputs = {}
    for stride in (8, 16, 32):
        cells = (HEIGHT // stride) * (WIDTH // stride)
        for kind, length in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            outputs[f"{kind}_{stride}"] = np.zeros((1, cells, length), np.float32)
    cell = 1 * (WIDTH // 16) + 2
    outputs["cls_16"][0, cell], outputs["obj_16"][0, cell] = 0.9, 0.4
    outputs["bbox_16"][0, cell] = 0.5, 0.25, math.log(0.5), math.log(1.5)
    return outputs


def ultraface() -> Outputs:
    scores = np.tile(np.array([1.0, 0.0], np.float32), (1, 20, 1))
    boxes = np.zeros((1, 20, 4), np.float32)
    scores[0, 7] = 0.3, 0.7
    boxes[0, 7] = 0.25, 0.25, 0.5, 1.0
    return {"scores": scores, "boxes": boxes}


MAKERS: dict[str, Callable[[], Outputs]] = {"centerface": centerface, "yunet": yunet, "ultraface": ultraface}
EXPECTED = {
    "centerface": (20 - 4, 15 - 8, 20 + 4, 15 + 8, 0.9),
    "yunet": (40 - 4, 20 - 12, 40 + 4, 20 + 12, 0.6),
    "ultraface": (16, 8, 32, 32, 0.7),
}


def decoded(name: str, outputs: Outputs, *, least: float = 0.35) -> FloatArray:
    return decode(decoder_spec(name), outputs, width=WIDTH, height=HEIGHT, min_confidence=least, nms_iou=0.3)


@pytest.mark.parametrize("name", MAKERS)
def test_one_face_is_read_where_its_formula_puts_it(name: str) -> None:
    np.testing.assert_allclose(decoded(name, MAKERS[name]()), [EXPECTED[name]], atol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_a_face_below_the_threshold_is_none(name: str) -> None:
    assert decoded(name, MAKERS[name](), least=0.95).shape == (0, 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "role"), [(name, o.role) for name in MAKERS for o in decoder_spec(name).outputs])
def test_one_value_that_is_no_number_anywhere_is_an_error(name: str, role: str, bad: float) -> None:
    outputs = MAKERS[name]()
    outputs[role].flat[-1] = bad
    with pytest.raises(EngineError, match="no numbers"):
        decoded(name, outputs)


@pytest.mark.parametrize(("name", "role"), [(name, o.role) for name in MAKERS for o in decoder_spec(name).outputs])
def test_a_missing_output_is_an_error_that_names_it(name: str, role: str) -> None:
    outputs = MAKERS[name]()
    del outputs[role]
    with pytest.raises(EngineError, match=role):
        decoded(name, outputs)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("centerface", "heatmap"),
        ("centerface", "scale"),
        ("yunet", "cls_8"),
        ("yunet", "bbox_32"),
        ("ultraface", "boxes"),
    ],
)
def test_an_output_of_another_shape_is_an_error(name: str, role: str) -> None:
    outputs = MAKERS[name]()
    outputs[role] = outputs[role][:, :-1] if role != "heatmap" else outputs[role][..., :-1]
    with pytest.raises(EngineError, match="shape"):
        decoded(name, outputs)


@pytest.mark.parametrize(("name", "role"), [("centerface", "heatmap"), ("yunet", "obj_8"), ("ultraface", "scores")])
@pytest.mark.parametrize("score", [-3.0, 4.0])
def test_scores_that_are_no_probabilities_are_an_error(name: str, role: str, score: float) -> None:
    outputs = MAKERS[name]()
    outputs[role].flat[0] = score
    with pytest.raises(EngineError, match="0 to 1"):
        decoded(name, outputs)


def test_a_size_beyond_all_numbers_is_an_error() -> None:
    outputs = centerface()
    outputs["scale"][0, :, 3, 5] = 400.0
    with pytest.raises(EngineError, match="no numbers"):
        decoded("centerface", outputs)


def test_an_engine_that_sees_faces_everywhere_is_an_error() -> None:
    side = 512
    cells = np.ones((1, 1, side // 4, side // 4), np.float32)
    outputs = {
        "heatmap": cells,
        "scale": np.zeros((1, 2, side // 4, side // 4), np.float32),
        "offset": np.zeros((1, 2, side // 4, side // 4), np.float32),
        "landmarks": np.zeros((1, 10, side // 4, side // 4), np.float32),
    }
    with pytest.raises(EngineError, match="candidates"):
        decode(decoder_spec("centerface"), outputs, width=side, height=side, min_confidence=0.0, nms_iou=0.3)


def test_at_a_threshold_of_zero_cells_without_evidence_are_no_faces() -> None:
    assert len(decoded("centerface", centerface(), least=0.0)) == 1


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(0, 50, width=32)] * 2, *[st.floats(1, 50, width=32)] * 2, st.floats(0, 1, width=32))
    ),
    st.floats(0, 1),
)
def test_suppression_keeps_the_surest_and_nothing_that_overlaps_it_too_much(
    sized: list[tuple[float, ...]], limit: float
) -> None:
    boxes = np.array([(x, y, x + w, y + h, s) for x, y, w, h, s in sized], np.float32).reshape(-1, 5)
    kept = suppress(boxes, limit)
    assert all(box in boxes.tolist() for box in kept.tolist())
    assert list(kept[:, 4]) == sorted(kept[:, 4], reverse=True)
    if len(boxes):
        assert kept[0, 4] == boxes[:, 4].max()
    for index, a in enumerate(kept):
        for b in kept[index + 1 :]:
            across = min(a[2], b[2]) - max(a[0], b[0])
            down = min(a[3], b[3]) - max(a[1], b[1])
            both = max(across, 0) * max(down, 0)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
            assert both <= limit * union + 1e-2
