"""JPEG files, read strictly: a damaged one is no picture.

OpenCV shifts and greys what follows the damage and says nothing: a face that a person still knows, and a detector may
not. So libjpeg's warnings are errors here, on the device and in the SDK alike.

>>> decode(b"\\xff\\xd8 no picture")
Traceback (most recent call last):
maskfleet.errors.BadFrameError: the JPEG is damaged (...)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from maskfleet.errors import BadFrameError

START_OF_SCAN = 0xDA
# Start-of-frame markers: all of C0 to CF but DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: they have no business before the first scan.
_NO_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
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


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Markers up to the first scan's: the marker, where it stands, and the length that it gives in bytes."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker in _NO_LENGTH:
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        yield marker, position, length
        if marker == START_OF_SCAN:
            return
        position += 2 + length


def frame_size(data: bytes, marker: int, position: int) -> tuple[int, int] | None:
    """Width and height in a segment of :func:`segments`, before EXIF turns the picture; None where it is no frame's."""
    if marker not in _START_OF_FRAME or position + 9 > len(data):
        return None
    height, width = struct.unpack_from(">HH", data, position + 5)
    return width, height


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
