"""From a picture to the faces in it: preprocess, infer, decode.

The agent's frame loop, its self-test and the compiler's verification all detect with this code, so that what was
verified is what runs. :class:`Detector` keeps its buffers and says how long each step took; :func:`detect` is for
single pictures.

Example::

    faces = detect(engine, decoder_spec("centerface"), frame, min_confidence=0.35, nms_iou=0.3)
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from edge_agent.engines.engine import Engine, FloatArray, PictureEngine
from edge_agent.masking.decoders import decode
from edge_agent.masking.detections import Detection
from edge_agent.masking.preprocess import Picture, Preprocessor
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import EngineError


@dataclasses.dataclass(frozen=True)
class Found:
    """What a detector found in a picture, and how long it took.

    Attributes:
        boxes: float32, n×5: x1, y1, x2, y2 in source pixels, score; clipped to the picture, the surest first.
        preprocess_s: seconds; 0 where the engine prepares its input itself, which ``infer_s`` then holds.
        infer_s: seconds.
        postprocess_s: seconds.
    """

    boxes: FloatArray
    preprocess_s: float
    infer_s: float
    postprocess_s: float


class Detector:
    """An engine and its decoder with buffers of their own. For one thread at a time; the engine may be shared."""

    def __init__(self, engine: Engine, decoder: DecoderSpec) -> None:
        self.engine = engine
        self.decoder = decoder
        self._pictures = engine if isinstance(engine, PictureEngine) else None
        self._preprocessor: Preprocessor | None = None
        if self._pictures is None:
            self._preprocessor = Preprocessor(decoder.preprocessing, engine.info.width, engine.info.height)

    def __call__(self, frame: Picture, *, min_confidence: float, nms_iou: float) -> Found:
        """Faces in a picture.

        Args:
            frame: uint8, height×width×3, BGR.
            min_confidence: a lower score is no face, 0 to 1.
            nms_iou: detections that overlap by more are one, 0 to 1.

        Raises:
            EngineError: the engine raised, or gave values that are no numbers.
        """
        begun = prepared = time.perf_counter()
        if self._preprocessor is not None:
            blob, scale = self._preprocessor(frame)
            prepared = time.perf_counter()
        try:
            if self._pictures is not None:
                outputs, scale = self._pictures.infer_picture(frame, self.decoder.preprocessing)
            else:
                outputs = self.engine.infer(blob)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"the engine raised {type(error).__name__}", remedy="see the agent's log") from error
        inferred = time.perf_counter()
        info = self.engine.info
        boxes = decode(
            self.decoder,
            outputs,
            width=info.width,
            height=info.height,
            min_confidence=min_confidence,
            nms_iou=nms_iou,
        )
        boxes = in_source(boxes, scale, frame.shape[1], frame.shape[0])
        return Found(boxes, prepared - begun, inferred - prepared, time.perf_counter() - inferred)


def in_source(boxes: FloatArray, scale: float, width: int, height: int) -> FloatArray:
    """Boxes in source pixels, clipped to the picture; those that lie in the letterbox's padding are left out.

    Args:
        boxes: float32, n×5, in pixels of the engine's input.
        scale: pixels of the input for one of the source.
        width: of the source, in pixels.
        height: of the source, in pixels.
    """
    moved = boxes.copy()
    moved[:, :4] /= np.float32(scale)
    np.clip(moved[:, :4], 0, np.array([width, height, width, height], np.float32), out=moved[:, :4])
    kept: FloatArray = moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])]
    return kept


def detect(
    engine: Engine, decoder: DecoderSpec, frame: Picture, *, min_confidence: float, nms_iou: float
) -> list[Detection]:
    """Faces in a picture, the surest first, in source pixels, clipped to the picture.

    Args:
        engine: loaded.
        decoder: how its outputs are read.
        frame: uint8, height×width×3, BGR.
        min_confidence: a lower score is no face, 0 to 1.
        nms_iou: detections that overlap by more are one, 0 to 1.

    Raises:
        EngineError: the engine raised, or gave values that are no numbers.
    """
    found = Detector(engine, decoder)(frame, min_confidence=min_confidence, nms_iou=nms_iou)
    return [Detection(*box) for box in found.boxes.tolist()]
