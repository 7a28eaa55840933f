"""What a detector finds, what a frame's masks cover, and how boxes overlap.

Hot paths work on arrays, n×5 float32 (x1, y1, x2, y2, score); :class:`Detection` and :class:`Region` are what leaves
them. Coordinates are source pixels: x1 and y1 inclusive, x2 and y2 exclusive, fractions allowed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.engines.engine import FloatArray


@dataclasses.dataclass(frozen=True)
class Detection:
    """One face in one frame.

    Attributes:
        x1: left edge, in source pixels.
        y1: top edge.
        x2: right edge.
        y2: bottom edge.
        score: the detector's, 0 to 1.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    score: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2."""
        return (self.x1, self.y1, self.x2, self.y2)


@dataclasses.dataclass(frozen=True)
class Region:
    """One area of a frame that is masked, before the margin.

    Attributes:
        x1: left edge, in source pixels.
        y1: top edge.
        x2: right edge.
        y2: bottom edge.
        score: the detector's, 0 to 1; the last one for a carried track.
        track_id: unique within a stream, 0 in single images.
        coasted: carried over; no detection of this frame stands behind it.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    track_id: int = 0
    coasted: bool = False


def iou_matrix(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> FloatArray:
    """Intersection over union of each box of one array with each of another.

    Args:
        a: n×4 or wider, x1, y1, x2, y2 first.
        b: m×4 or wider.

    Returns:
        float32, n×m; 0 where both boxes are empty.
    """
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    overlap = np.clip(right_bottom - left_top, 0, None).prod(axis=2)
    area_a = np.clip(a[:, 2:4] - a[:, :2], 0, None).prod(axis=1)
    area_b = np.clip(b[:, 2:4] - b[:, :2], 0, None).prod(axis=1)
    union = area_a[:, None] + area_b[None, :] - overlap
    shares: FloatArray = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0).astype(np.float32)
    return shares
