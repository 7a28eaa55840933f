"""How areas of a frame are masked, and the one type that may leave the agent.

Rules:

- The source is never written to: a failure in the middle leaves no half-masked picture behind.
- :class:`MaskedFrame` is the only thing that can be encoded, and only :func:`mask` and :func:`full_mask` make it.
- Strength follows the size of the face, and at strength 0 a face is still unrecognisable (see below).
- Work is done inside the boxes alone.

What "unrecognisable" rests on. People name half of the familiar faces that they see at 7×10 pixels (Yip & Sinha,
Perception 31, 2002), and networks that are trained for it see through mosaics and blurs that people do not (McPherson,
Shokri & Shmatikov, arXiv 1609.00408). So there are at most 6 tiles across the longer side of a face at strength 0, down
to 2 at strength 1; blur first averages to the same tiles, so that it holds no more than the mosaic. Both lose a quarter
of their contrast to grey: flat skin changes too, and less of the signal survives rounding. Many frames of one face
still tell more than one does, as with every blur and mosaic: ``solid`` alone leaves nothing.

Example::

    masked = mask(frame, [Region(10, 10, 60, 80, score=0.9)], MaskPolicy())
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_agent.masking.detections import Region
from edge_agent.masking.preprocess import Picture
from maskfleet.policy import MaskPolicy, Shape, Style

GREY = 40
"""Value of all three channels where nothing of the source may be left."""

WEAKEST_TILES = 6
"""Tiles across the longer side of a face at strength 0."""

STRONGEST_TILES = 2
"""Tiles across the longer side of a face at strength 1."""

LEAST_MARGIN = 0.1
"""Share of its size by which a box grows on each side, whatever the policy says: a detector's box is somewhat off."""

_VEIL = 0.25
_VEIL_GREY = 128
_SEAL = object()


class MaskedFrame:
    """A picture that may leave the agent: uint8, height×width×3, BGR, read-only.

    There is no way to make one of a source frame but through :func:`mask` and :func:`full_mask`.
    """

    __slots__ = ("pixels",)

    def __init__(self, pixels: Picture, *, seal: object = None) -> None:
        if seal is not _SEAL:
            raise TypeError("masked frames are made by mask() and full_mask()")
        view = pixels.view()
        view.setflags(write=False)
        self.pixels: Picture = view

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def full_mask(width: int, height: int) -> MaskedFrame:
    """A frame of that size in which nothing of the source is left."""
    return MaskedFrame(np.full((height, width, 3), GREY, np.uint8), seal=_SEAL)


def mask(frame: Picture, regions: Sequence[Region], policy: MaskPolicy) -> MaskedFrame:
    """A copy of a frame with its regions masked.

    Args:
        frame: uint8, height×width×3, BGR; stays as it is.
        regions: in pixels of the frame; they may overlap and reach outside.
        policy: its style, shape, strength and margin.
    """
    result = frame.copy()
    for region in regions:
        _mask_region(frame, result, region, policy)
    return MaskedFrame(result, seal=_SEAL)


def _mask_region(frame: Picture, result: Picture, region: Region, policy: MaskPolicy) -> None:
    wide, high = region.x2 - region.x1, region.y2 - region.y1
    margin = max(policy.margin, LEAST_MARGIN)
    left, right = region.x1 - margin * wide, region.x2 + margin * wide
    top, bottom = region.y1 - margin * high, region.y2 + margin * high
    x1, y1 = max(0, math.floor(left)), max(0, math.floor(top))
    x2, y2 = min(frame.shape[1], math.ceil(right)), min(frame.shape[0], math.ceil(bottom))
    if x1 >= x2 or y1 >= y2:
        return
    source, target = frame[y1:y2, x1:x2], result[y1:y2, x1:x2]
    drawn = _drawn(source, max(wide, high), policy)
    if policy.shape is Shape.RECTANGLE:
        target[:] = drawn
        return
    edges = (left - x1, top - y1, right - x1, bottom - y1)
    cv2.copyTo(drawn, _outline(edges, source.shape[1], source.shape[0]), target)


def _outline(edges: tuple[float, float, float, float], width: int, height: int) -> npt.NDArray[np.uint8]:
    """The ellipse in a box as a stencil, which may be smaller than the box where the frame cuts it off.

    A face that the frame cuts off is widest at the cut, where the ellipse in its visible part would come to a point:
    from its middle to the cut it is a rectangle.

    Args:
        edges: left, top, right, bottom of the box in pixels of the stencil; they may lie outside.
        width: of the stencil, in pixels.
        height: of the stencil, in pixels.
    """
    left, top, right, bottom = edges
    stencil = np.zeros((height, width), np.uint8)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    # In sixteenths of a pixel, so that the outline does not jump as a face moves slowly; half a pixel more, since a
    # pixel that the outline cuts through should be covered.
    cv2.ellipse(
        stencil,
        (round((middle_x - 0.5) * 16), round((middle_y - 0.5) * 16)),
        (round(((right - left) / 2 + 0.5) * 16), round(((bottom - top) / 2 + 0.5) * 16)),
        0,
        0,
        360,
        255,
        thickness=cv2.FILLED,
        shift=4,
    )
    column, row = min(max(math.ceil(middle_x), 0), width), min(max(math.ceil(middle_y), 0), height)
    if left < 0:
        stencil[:, :column] = 255
    if right > width:
        stencil[:, max(column - 1, 0) :] = 255
    if top < 0:
        stencil[:row] = 255
    if bottom > height:
        stencil[max(row - 1, 0) :] = 255
    return stencil


def _drawn(source: Picture, face: float, policy: MaskPolicy) -> npt.NDArray[Any]:
    """What stands in place of an area: of its size, holding no more than the style leaves."""
    if policy.style is Style.SOLID:
        return np.full_like(source, GREY)
    tiles = WEAKEST_TILES + (STRONGEST_TILES - WEAKEST_TILES) * policy.strength
    tile = max(face / tiles, 2.0)  # a face of a few pixels holds little, and should hold less
    high, wide = source.shape[:2]
    # floor: a tile is never smaller than the rule says, whatever the margin.
    grid = (max(1, math.floor(wide / tile)), max(1, math.floor(high / tile)))
    small = cv2.resize(source, grid, interpolation=cv2.INTER_AREA)
    small = cv2.convertScaleAbs(small, alpha=1 - _VEIL, beta=_VEIL * _VEIL_GREY)
    if policy.style is Style.PIXELATE:
        return cv2.resize(small, (wide, high), interpolation=cv2.INTER_NEAREST)
    small = cv2.GaussianBlur(small, (3, 3), 0.6, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (wide, high), interpolation=cv2.INTER_LINEAR)
