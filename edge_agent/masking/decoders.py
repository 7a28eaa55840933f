"""From an engine's outputs to boxes, one function a family of detectors, all of it array work.

Rules:

- Outputs come by role, as :mod:`maskfleet.decoding` names them; shapes are checked before anything is read.
- A value that is no number, a score outside 0 to 1, or more candidates than a picture can hold faces means that the
  engine cannot be trusted: :class:`~maskfleet.errors.EngineError`, so that the frame fails closed. It never means
  "no face".
- What is below the threshold is never decoded.

The formulas are those of the detectors' own code: CenterFace (Star-Clouds/CenterFace, ``centerface.py``; Xu et al.,
arXiv 1911.03599), YuNet (OpenCV, ``modules/objdetect/src/face_detect.cpp``; Wu, Peng & Yu, Machine Intelligence
Research 20(5)), UltraFace (Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, ``vision/utils/box_utils.py``).

Example::

    boxes = decode(spec, outputs, width=640, height=352, min_confidence=0.35, nms_iou=0.3)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.engines.engine import FloatArray
from edge_agent.masking.detections import iou_matrix
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import EngineError

Array = npt.NDArray[Any]

MAX_CANDIDATES = 8192
"""More cells than this above the threshold are noise, not faces."""

_LEAST_SCORE = 1e-3  # at 0 every cell would be a face, those without any evidence too
_SCORE_SLACK = 0.01  # fp16 rounds beyond 0 and 1
_CENTERFACE_STRIDE = 4
_YUNET_STRIDES = (8, 16, 32)
_REMEDY = "build the release again, with the decoder that belongs to the model"


def decode(
    decoder: DecoderSpec,
    outputs: Mapping[str, FloatArray],
    *,
    width: int,
    height: int,
    min_confidence: float,
    nms_iou: float,
) -> FloatArray:
    """Boxes in pixels of the engine's input, the surest first, after non-maximum suppression.

    Args:
        decoder: how the outputs are read.
        outputs: by role, float32.
        width: of the engine's input, in pixels.
        height: of the engine's input, in pixels.
        min_confidence: boxes below it are left out, 0 to 1.
        nms_iou: boxes that overlap a surer one by more than this are left out, 0 to 1.

    Returns:
        float32, n×5: x1, y1, x2, y2, score; not clipped.

    Raises:
        EngineError: the outputs are not what this decoder reads, or are no numbers.
    """
    checked = {output.role: _finite(output.role, outputs) for output in decoder.outputs}
    boxes = _DECODERS[decoder.name](checked, width, height, max(min_confidence, _LEAST_SCORE))
    if len(boxes) > MAX_CANDIDATES:
        raise EngineError(f"the engine gave {len(boxes)} candidates above {min_confidence:.2f}", remedy=_REMEDY)
    if not np.isfinite(boxes).all():
        raise EngineError("the engine gave boxes that are no numbers", remedy=_REMEDY)
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    return suppress(boxes, nms_iou)


def suppress(boxes: FloatArray, nms_iou: float) -> FloatArray:
    """Greedy non-maximum suppression.

    Args:
        boxes: float32, n×5.
        nms_iou: of two boxes that overlap by more than this, the one with the lower score goes.

    Returns:
        float32, m×5, by falling score.
    """
    rest = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    kept: list[FloatArray] = []
    while len(rest):
        kept.append(rest[0])
        rest = rest[1:][iou_matrix(rest[:1], rest[1:])[0] <= nms_iou]
    return np.stack(kept) if kept else rest


def _finite(role: str, outputs: Mapping[str, FloatArray]) -> FloatArray:
    try:
        values = outputs[role]
    except KeyError:
        raise EngineError(f"the engine gave no output {role!r}", remedy=_REMEDY) from None
    # One sum is cheaper than isfinite(): whatever is no number spreads through it, and what overflows it is no score.
    with np.errstate(invalid="ignore", over="ignore"):
        total = float(values.sum())
    if not math.isfinite(total):
        raise EngineError(f"the engine's output {role!r} holds values that are no numbers", remedy=_REMEDY)
    return values


def _shaped(outputs: Mapping[str, FloatArray], role: str, shape: tuple[int, ...]) -> FloatArray:
    values = outputs[role]
    if values.shape != shape:
        raise EngineError(
            f"the engine's output {role!r} has shape {list(values.shape)} where {list(shape)} is due", remedy=_REMEDY
        )
    only: FloatArray = values[0]
    return only


def _scores(outputs: Mapping[str, FloatArray], role: str, shape: tuple[int, ...]) -> FloatArray:
    values = _shaped(outputs, role, shape)
    if values.size and (float(values.min()) < -_SCORE_SLACK or float(values.max()) > 1 + _SCORE_SLACK):
        raise EngineError(f"the engine's output {role!r} holds scores outside 0 to 1", remedy=_REMEDY)
    return values


def _centred(x: Array, y: Array, width: Array, height: Array, score: Array) -> FloatArray:
    edges: list[Array] = [x - width / 2, y - height / 2, x + width / 2, y + height / 2, np.clip(score, 0, 1)]
    return np.stack(edges, axis=1).astype(np.float32, copy=False)


def _exp(values: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # found afterwards, as a box that is no number
        grown: FloatArray = np.exp(values)
    return grown


def _centerface(outputs: Mapping[str, FloatArray], width: int, height: int, least: float) -> FloatArray:
    """A heat map at stride 4; size = 4·exp(scale), centre = (cell + offset + 0.5)·4, both in the order (y, x)."""
    rows, columns = height // _CENTERFACE_STRIDE, width // _CENTERFACE_STRIDE
    heat = _scores(outputs, "heatmap", (1, 1, rows, columns))[0]
    scale = _shaped(outputs, "scale", (1, 2, rows, columns))
    offset = _shaped(outputs, "offset", (1, 2, rows, columns))
    y, x = np.nonzero(heat >= least)
    high, wide = _exp(scale[:, y, x]) * _CENTERFACE_STRIDE
    centre_y = (y + offset[0, y, x] + 0.5) * _CENTERFACE_STRIDE
    centre_x = (x + offset[1, y, x] + 0.5) * _CENTERFACE_STRIDE
    return _centred(centre_x, centre_y, wide, high, heat[y, x])


def _yunet(outputs: Mapping[str, FloatArray], width: int, height: int, least: float) -> FloatArray:
    """Three grids; score = √(cls·obj), centre = (cell + d)·stride, size = exp(s)·stride."""
    found = []
    for stride in _YUNET_STRIDES:
        rows, columns = height // stride, width // stride
        cls = _scores(outputs, f"cls_{stride}", (1, rows * columns, 1))[:, 0]
        obj = _scores(outputs, f"obj_{stride}", (1, rows * columns, 1))[:, 0]
        box = _shaped(outputs, f"bbox_{stride}", (1, rows * columns, 4))
        score = np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1))
        (cells,) = np.nonzero(score >= least)
        y, x = np.divmod(cells, columns)
        chosen = box[cells]
        size = _exp(chosen[:, 2:]) * stride
        centre_x, centre_y = (x + chosen[:, 0]) * stride, (y + chosen[:, 1]) * stride
        found.append(_centred(centre_x, centre_y, size[:, 0], size[:, 1], score[cells]))
    return np.concatenate(found)


def _ultraface(outputs: Mapping[str, FloatArray], width: int, height: int, least: float) -> FloatArray:
    """Boxes as shares of the input's width and height, with the scores of (no face, face)."""
    anchors = outputs["scores"].shape[1] if outputs["scores"].ndim == 3 else 0
    scores = _scores(outputs, "scores", (1, anchors, 2))[:, 1]
    boxes = _shaped(outputs, "boxes", (1, anchors, 4))
    (chosen,) = np.nonzero(scores >= least)
    corners = boxes[chosen] * np.array([width, height, width, height], np.float32)
    return np.concatenate([corners, np.clip(scores[chosen, None], 0, 1)], axis=1).astype(np.float32, copy=False)


_DECODERS: dict[str, Callable[[Mapping[str, FloatArray], int, int, float], FloatArray]] = {
    "centerface": _centerface,
    "yunet": _yunet,
    "ultraface": _ultraface,
}
