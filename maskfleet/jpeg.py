"""JPEG files, read strictly: a damaged one is no picture.

OpenCV shifts and greys what follows the damage and says nothing: a face that a person still knows, and a detector may
not. So libjpeg's warnings are errors here, on the device and in the SDK alike.

>>> decode(b"\\xff\\xd8 no picture")
Traceback (most recent call last):
maskfleet.errors.BadFrameError: the JPEG is damaged (...)
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from maskfleet.errors import BadFrameError

_EXIF = b"Exif\x00\x00"
_EXIF_WITHIN = 1 << 17  # two segments: EXIF is the first or, behind JFIF, the second


def size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels that :func:`decode` would make, before EXIF turns it. Nothing is decoded.

    Raises:
        BadFrameError: libjpeg finds no header.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadFrameError(f"the JPEG is damaged ({error})", remedy="send a whole JPEG file") from None
    return int(width), int(height)


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """Its pixels, turned upright as its EXIF asks: uint8, height×width×3, BGR.

    Args:
        data: a whole file, whose size in pixels was looked at before.

    Raises:
        BadFrameError: it is damaged, ends too early, or is no JPEG.
    """
    try:
        picture: npt.NDArray[Any] | None = simplejpeg.decode_jpeg(data, "BGR", strict=True)
        if _EXIF in data[:_EXIF_WITHIN]:
            # Whole, but perhaps to be turned: OpenCV knows how. (Frames of a stream rarely carry EXIF.)
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (ValueError, cv2.error) as error:
        raise BadFrameError(f"the JPEG is damaged ({error})", remedy="send a whole JPEG file") from None
    if picture is None:
        raise BadFrameError("the JPEG cannot be decoded", remedy="send a whole JPEG file")
    return np.asarray(picture, np.uint8)
