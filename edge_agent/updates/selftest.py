"""The last gate before an engine may mask a stream: it has to find the golden faces, and nothing where there is none.

Golden frames are part of the agent (``edge_agent/golden``), with boxes drawn by hand; they are never made from a
release's own output. The release's own policy decides which detections count, as it will on the stream.

Example::

    run_self_test(engine, decoder_spec("centerface"), MaskPolicy())
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from importlib import resources

import cv2
import numpy as np
import numpy.typing as npt

from edge_agent.engines.engine import Engine
from edge_agent.masking.detections import Detection, iou_matrix
from edge_agent.masking.detector import detect
from maskfleet.clock import Clock, SystemClock
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import EngineError, InternalError, SelfTestError
from maskfleet.policy import MaskPolicy

MIN_IOU = 0.4
"""Intersection over union from which a detection is a golden face. Detectors differ in how much forehead and ear belong
to a face; on the golden frames good ones reach more than 0.8."""

MAX_SECONDS = 5.0
"""A frame that takes longer than this, after a first one to warm up, is no live video on any device."""

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class GoldenFrame:
    """A picture and its faces.

    Attributes:
        name: of the file.
        picture: uint8, height×width×3, BGR; read-only.
        boxes: x1, y1, x2, y2 in pixels.
    """

    name: str
    picture: npt.NDArray[np.uint8]
    boxes: tuple[Box, ...]


@functools.cache
def golden_frames() -> tuple[GoldenFrame, ...]:
    """The golden frames.

    Raises:
        InternalError: the installation is damaged.
    """
    folder = resources.files("edge_agent") / "golden"
    try:
        boxes = json.loads((folder / "boxes.json").read_bytes())
        frames = []
        for name in sorted(boxes):
            picture = cv2.imdecode(np.frombuffer((folder / name).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            if picture is None:
                raise ValueError(f"{name} is no picture")
            picture.setflags(write=False)
            found = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes[name])
            frames.append(GoldenFrame(name, np.asarray(picture, np.uint8), found))
    except (OSError, ValueError) as error:
        raise InternalError(f"the golden frames cannot be read ({error})", remedy="install maskfleet again") from None
    return tuple(frames)


def run_self_test(
    engine: Engine,
    decoder: DecoderSpec,
    policy: MaskPolicy,
    *,
    frames: Sequence[GoldenFrame] | None = None,
    clock: Clock | None = None,
) -> None:
    """Tries an engine on the golden frames.

    Args:
        engine: loaded.
        decoder: how its outputs are read.
        policy: of the release; its ``min_confidence`` and ``nms_iou`` count.
        frames: others than the golden ones.
        clock: where time comes from.

    Raises:
        SelfTestError: a face is missed, something is seen where there is none, or it is far too slow.
        EngineError: it raised, or gave values that are no numbers.
    """
    clock = clock or SystemClock()
    frames = golden_frames() if frames is None else frames

    def run(frame: GoldenFrame) -> list[Detection]:
        return detect(engine, decoder, frame.picture, min_confidence=policy.min_confidence, nms_iou=policy.nms_iou)

    if frames:
        run(frames[0])  # to warm up: the first run of some backends builds kernels
    for frame in frames:
        begin = clock.monotonic()
        found = run(frame)
        took = clock.monotonic() - begin
        _judge(frame, found, took, policy)


def _judge(frame: GoldenFrame, found: Sequence[Detection], took: float, policy: MaskPolicy) -> None:
    if not all(math.isfinite(v) for d in found for v in (d.x1, d.y1, d.x2, d.y2, d.score)):
        raise EngineError(
            f"the engine gave values that are no numbers on {frame.name}", remedy="build the release again"
        )
    hits = _hits(frame.boxes, found)
    if hits < len(frame.boxes):
        raise SelfTestError(
            f"the engine finds {hits} of {len(frame.boxes)} faces on {frame.name} at min_confidence "
            f"{policy.min_confidence}",
            remedy="lower min_confidence of the release's policy, or check the model's decoder and precision",
        )
    if not frame.boxes and found:
        raise SelfTestError(
            f"the engine finds {len(found)} faces on {frame.name}, which has none, at min_confidence "
            f"{policy.min_confidence}",
            remedy="raise min_confidence of the release's policy, or check the model's decoder and precision",
        )
    if took > MAX_SECONDS:
        raise SelfTestError(
            f"the engine takes {took:.1f} s for one frame, more than {MAX_SECONDS:.0f} s",
            remedy="build the release with a smaller input, or for a faster target",
        )


def _hits(boxes: Sequence[Box], found: Sequence[Detection]) -> int:
    """How many boxes have a detection on them."""
    if not boxes or not found:
        return 0
    shares = iou_matrix(np.asarray(boxes, np.float32), np.asarray([d.box for d in found], np.float32))
    return int((shares.max(axis=1) >= MIN_IOU).sum())
