"""The gate: is an engine close enough to the fp32 model that it was made from?

Two questions, on the same pictures. Do its outputs have the direction and the size of the model's? Does it find the
faces that the model finds, at the policy's own threshold, in the same places? Rules:

- The margins are the spec's; a figure outside its margin refuses the engine, and the figures are in the error.
- An empty comparison is no pass: where the model itself finds no face in any picture, the engine is refused.
- Values that are no numbers are a refusal, not a comparison.

Example::

    figures = compared(reference, engine, decoder, frames(), min_confidence=0.35, nms_iou=0.3, match_iou=0.5)
    check(figures, Margins())
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_agent.engines.engine import Engine, EngineInfo, FloatArray
from edge_agent.masking.detections import iou_matrix
from edge_agent.masking.detector import Detector
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import EngineError, GateRefusedError
from maskfleet.gate import Margins
from model_compiler.evaluation import EvaluationFrame


@dataclasses.dataclass(frozen=True)
class OutputFigures:
    """One output over all pictures.

    Attributes:
        cosine: between the engine's values and the model's.
        max_error: the largest difference.
        relative_error: that, as a share of the largest value in the model's output.
    """

    cosine: float
    max_error: float
    relative_error: float


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a comparison found.

    Attributes:
        outputs: by role.
        frames: pictures compared.
        reference_detections: faces that the fp32 model finds.
        engine_detections: faces that the engine finds.
        recall: share of the model's faces that the engine finds too; None where the model finds none.
        extra: the engine's other faces, as a share of the model's; None likewise.
        mean_iou: of the boxes that are the same; None where there are none.
        min_iou: the least of them.
    """

    outputs: dict[str, OutputFigures]
    frames: int
    reference_detections: int
    engine_detections: int
    recall: float | None
    extra: float | None
    mean_iou: float | None
    min_iou: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded for people."""
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in dataclasses.asdict(self).items()}
        rounded["outputs"] = {
            role: {k: float(f"{v:.6g}") for k, v in dataclasses.asdict(figures).items()}
            for role, figures in self.outputs.items()
        }
        return rounded


def compared(
    reference: Engine,
    engine: Engine,
    decoder: DecoderSpec,
    frames: Sequence[EvaluationFrame],
    *,
    min_confidence: float,
    nms_iou: float,
    match_iou: float,
) -> Figures:
    """Runs both on every picture; once where they are one and the same, as a model is that keeps its number format.

    Raises:
        GateRefusedError: the engine raises, gives values that are no numbers, or outputs of another shape.
        EngineError: the reference does.
    """
    sums = {role.role: _Sums() for role in decoder.outputs}
    ours = _Heard(reference)
    theirs = ours if engine is reference else _Heard(engine)
    find_ours, find_theirs = Detector(ours, decoder), Detector(theirs, decoder)
    ious: list[float] = []
    wanted = found = 0
    for frame in frames:
        truth = find_ours(frame.image, min_confidence=min_confidence, nms_iou=nms_iou).boxes
        try:
            same = theirs is ours
            boxes = truth if same else find_theirs(frame.image, min_confidence=min_confidence, nms_iou=nms_iou).boxes
        except EngineError as error:
            raise GateRefusedError(
                f"the engine cannot be judged, where its fp32 model can: {error.message}",
                remedy="build it with --precision fp32",
            ) from None
        for role, sum_ in sums.items():
            sum_.add(role, ours.outputs[role], theirs.outputs.get(role))
        wanted, found = wanted + len(truth), found + len(boxes)
        ious += matched(truth, boxes, match_iou)
    return Figures(
        outputs={role: sum_.figures() for role, sum_ in sums.items()},
        frames=len(frames),
        reference_detections=wanted,
        engine_detections=found,
        recall=len(ious) / wanted if wanted else None,
        extra=(found - len(ious)) / wanted if wanted else None,
        mean_iou=float(np.mean(ious)) if ious else None,
        min_iou=min(ious) if ious else None,
    )


def check(figures: Figures, margins: Margins, *, about: Sequence[str] = ()) -> None:
    """Passes or raises.

    Args:
        figures: of the comparison.
        margins: that they must be within.
        about: how the engine was made, for the error.

    Raises:
        GateRefusedError: a figure is outside its margin; the error names each.
    """
    if figures.recall is None or figures.extra is None:
        raise GateRefusedError(
            f"the engine cannot be judged: its fp32 model finds no face in {figures.frames} pictures",
            remedy="check decoder, input size and --min-confidence of the policy",
        )
    wrong = []
    for role, output in figures.outputs.items():
        if not output.cosine >= margins.min_cosine:
            wrong.append(f"{role} has cosine {output.cosine:.4f} (least {margins.min_cosine})")
        if not output.relative_error <= margins.max_error:
            wrong.append(f"{role} is off by {output.relative_error:.1%} of its range (most {margins.max_error:.1%})")
    if not figures.recall >= margins.min_recall:
        wrong.append(f"it finds {figures.recall:.1%} of the faces (least {margins.min_recall:.1%})")
    if not figures.extra <= margins.max_extra:
        wrong.append(f"{figures.extra:.1%} more boxes than faces (most {margins.max_extra:.1%})")
    if figures.mean_iou is not None and not figures.mean_iou >= margins.min_mean_iou:
        wrong.append(f"its boxes overlap by {figures.mean_iou:.3f} (least {margins.min_mean_iou})")
    if wrong:
        raise GateRefusedError(
            f"the engine is too far from its fp32 model: {'; '.join((*wrong, *about))}",
            remedy="build it with --precision fp32",
        )


def matched(truth: FloatArray, found: FloatArray, match_iou: float) -> list[float]:
    """Intersection over union of each pair that is the same face: best pair first, each box once.

    Args:
        truth: float32, n×5: x1, y1, x2, y2, score.
        found: likewise, m×5.
        match_iou: from which two boxes are the same face.
    """
    shares = iou_matrix(truth[:, :4], found[:, :4])
    kept: list[float] = []
    while shares.size and (best := float(shares.max())) >= match_iou:
        row, column = np.unravel_index(int(shares.argmax()), shares.shape)
        kept.append(best)
        shares[row, :] = shares[:, column] = -1.0
    return kept


class _Heard:
    """An engine whose last outputs are kept, so that one run serves both questions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.outputs: Mapping[str, FloatArray] = {}

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        # Copied: an engine fills its arrays again, and both sides may be the same one.
        self.outputs = {role: value.copy() for role, value in self._engine.infer(blob).items()}
        return self.outputs

    def close(self) -> None:
        """The engine is its owner's to close."""


class _Sums:
    """What cosine and error need of one output, picture by picture."""

    def __init__(self) -> None:
        self._dot = self._ours = self._theirs = 0.0
        self._error = self._range = 0.0

    def add(self, role: str, expected: FloatArray, got: FloatArray | None) -> None:
        if got is None or got.shape != expected.shape:
            raise GateRefusedError(
                f"the engine gives {role} of shape {None if got is None else got.shape}, its model {expected.shape}"
            )
        a, b = expected.astype(np.float64).ravel(), got.astype(np.float64).ravel()
        self._dot += float(a @ b)
        self._ours += float(a @ a)
        self._theirs += float(b @ b)
        self._error = max(self._error, float(np.abs(a - b).max(initial=0.0)))
        self._range = max(self._range, float(np.abs(a).max(initial=0.0)))

    def figures(self) -> OutputFigures:
        length = (self._ours * self._theirs) ** 0.5
        # Two outputs that are all zero are the same; one alone points nowhere.
        cosine = self._dot / length if length else float(self._ours == self._theirs)
        relative = self._error / self._range if self._range else float(self._error > 0)
        return OutputFigures(min(cosine, 1.0), self._error, relative)
