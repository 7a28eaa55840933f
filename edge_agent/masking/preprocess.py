"""From a picture to an engine's input: letterbox and normalisation, in buffers that are made once.

The picture keeps its shape and its top left corner; what is left of the input, at the right or the bottom, holds zeros
before normalisation.

Example::

    preprocessor = Preprocessor(decoder_spec("centerface").preprocessing, 640, 352)
    blob, scale = preprocessor(frame)
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge_agent.engines.engine import FloatArray
from edge_agent.engines.letterbox import Letterbox
from maskfleet.decoding import Preprocessing

Picture = npt.NDArray[np.uint8]
"""uint8, height×width×3, blue-green-red."""


class Preprocessor:
    """Fills one engine's input again and again. For one thread at a time: it gives out the same array each time.

    Args:
        preprocessing: what the decoder wants.
        width: of the engine's input, in pixels.
        height: of the engine's input, in pixels.
    """

    def __init__(self, preprocessing: Preprocessing, width: int, height: int) -> None:
        self._preprocessing = preprocessing
        self._size = (width, height)
        self._canvas: Picture = np.zeros((height, width, 3), np.uint8)
        self._planes: npt.NDArray[np.uint8] = np.zeros((3, height, width), np.uint8)
        self._blob: FloatArray = np.zeros((1, 3, height, width), np.float32)
        self._filled = (0, 0)

    def __call__(self, frame: Picture) -> tuple[FloatArray, float]:
        """The engine's input for a picture.

        Args:
            frame: uint8, height×width×3, BGR.

        Returns:
            float32, 1×3×height×width, C-contiguous, valid until the next call; and the scale: a distance in the input
            is the distance in the picture times this.
        """
        width, height = self._size
        high, wide = frame.shape[:2]
        place = Letterbox.of(wide, high, into=(width, height))
        filled = place.filled
        if filled != self._filled:  # an earlier picture of another shape has left its pixels
            self._canvas[:] = 0
            self._filled = filled
        inside = self._canvas[: filled[1], : filled[0]]
        if filled == (wide, high):
            inside[:] = frame
        else:
            cv2.resize(_reduced(frame, place.factor), filled, dst=inside, interpolation=cv2.INTER_LINEAR)
        first, second, third = self._planes
        # split() parts the channels at memory speed; numpy's strided copies take four times as long.
        cv2.split(self._canvas, (third, second, first) if self._preprocessing.rgb else (first, second, third))
        np.subtract(self._planes, np.float32(self._preprocessing.mean), out=self._blob[0], dtype=np.float32)
        if self._preprocessing.scale != 1.0:
            self._blob *= np.float32(self._preprocessing.scale)
        return self._blob, place.scale


def _reduced(frame: Picture, factor: int) -> Picture:
    """The picture, smaller by a whole factor; means over whole factors take a quarter of the time of others."""
    if factor == 1:
        return frame
    high, wide = frame.shape[0] // factor, frame.shape[1] // factor
    smaller = cv2.resize(frame[: high * factor, : wide * factor], (wide, high), interpolation=cv2.INTER_AREA)
    return np.asarray(smaller, np.uint8)
