"""How the camera moved from one frame to the next: one shift for the whole picture.

A pan moves every face by more than its own width between two frames, and boxes of one face no longer overlap. Where the
picture as a whole went is found by phase correlation of small grey copies (Kuglin & Hines, 1975), and tracks move
with it, as in BoT-SORT (Aharon et al., arXiv 2206.14651). A shift that the pictures do not clearly show is none: tracks
then move by their own velocity alone.

Example::

    camera = CameraMotion()
    dx, dy = camera.shift(frame)        # since the frame before
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge_agent.masking.preprocess import Picture

_WIDTH = 160
_LEAST_RESPONSE = 0.08
"""Height of the correlation's peak, 0 to 1. Unrelated pictures reach about 0.03."""


class CameraMotion:
    """Remembers a small copy of the last frame. For one stream and one thread."""

    def __init__(self) -> None:
        self._last: npt.NDArray[np.float32] | None = None
        self._window: npt.NDArray[np.float32] | None = None

    def shift(self, frame: Picture) -> tuple[float, float]:
        """By how many pixels what was in the last frame moved right and down.

        Args:
            frame: uint8, height×width×3, BGR.
        """
        # Every n-th pixel, then means of two by two: a mean over all of a large picture costs more than the rest.
        step = max(1, frame.shape[1] // (2 * _WIDTH))
        sampled = np.ascontiguousarray(frame[::step, ::step])
        size = (max(2, sampled.shape[1] // 2), max(2, sampled.shape[0] // 2))
        small = cv2.resize(cv2.cvtColor(sampled, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)
        grey = small.astype(np.float32)
        last, self._last = self._last, grey
        if last is None or last.shape != grey.shape:
            return (0.0, 0.0)
        if self._window is None or self._window.shape != grey.shape:
            self._window = cv2.createHanningWindow(size, cv2.CV_32F).astype(np.float32)
        (dx, dy), response = cv2.phaseCorrelate(last, grey, self._window)
        if response < _LEAST_RESPONSE:
            return (0.0, 0.0)
        return (dx * frame.shape[1] / size[0], dy * frame.shape[0] / size[1])
