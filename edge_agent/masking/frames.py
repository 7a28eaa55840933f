"""Pictures in and out: JPEG, PNG and raw BGR.

Rules:

- What a picture would decode to is read from its header and refused there, before memory is spent on it.
- A file that ends too early or is damaged is refused (:mod:`maskfleet.jpeg`).
- EXIF orientation is applied: detectors find upright faces. Regions are given in the upright picture. Every result is
  encoded anew from pixels, so that metadata, and a thumbnail of the source in it, never come out.
- Only a :class:`~edge_agent.masking.styles.MaskedFrame` can be encoded.

Example::

    frame = decode(SourceFrame(Encoding.JPEG, data))
    data = encode(mask(frame, regions, policy), Encoding.JPEG)
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from typing import Any

import cv2
import numpy as np

from edge_agent.masking.preprocess import Picture
from edge_agent.masking.styles import MaskedFrame
from maskfleet import jpeg
from maskfleet.errors import BadFrameError, InternalError
from maskfleet.frame_size import checked_size

MAX_BYTES = 64 << 20
DEFAULT_JPEG_QUALITY = 90

_REMEDY_FILE = "send a whole JPEG or PNG file"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_LEVEL = 1  # a video is waiting; more effort gains a few per cent
_END_OF_IMAGE = b"\xff\xd9"


class Encoding(enum.Enum):
    """How a picture's bytes are encoded."""

    JPEG = "jpeg"
    PNG = "png"
    RAW = "raw"


@dataclasses.dataclass(frozen=True)
class SourceFrame:
    """A picture as it came in.

    Attributes:
        encoding: of the bytes.
        data: a file; or, raw, width × height × 3 bytes, BGR, rows from top to bottom without padding.
        width: in pixels; for raw only.
        height: in pixels; for raw only.
    """

    encoding: Encoding
    data: bytes
    width: int = 0
    height: int = 0


def size_of(source: SourceFrame) -> tuple[int, int]:
    """Width and height in pixels, read from the header, before EXIF orientation is applied.

    Raises:
        BadFrameError: there is no header, the file ends too early, or the size is refused.
    """
    data = source.data
    if len(data) > MAX_BYTES:
        raise BadFrameError(f"the picture has {len(data)} bytes", remedy=f"send at most {MAX_BYTES}")
    if source.encoding is Encoding.RAW:
        size = checked_size(source.width, source.height)
        due = size[0] * size[1] * 3
        if len(data) != due:
            raise BadFrameError(
                f"a raw frame of {size[0]}x{size[1]} has {len(data)} bytes where {due} are due",
                remedy="send width × height × 3 bytes, BGR, without padding",
            )
        return size
    width, height = _jpeg_size(data) if source.encoding is Encoding.JPEG else _png_size(data)
    return checked_size(width, height)


def decode(source: SourceFrame) -> Picture:
    """The pixels: uint8, height×width×3, BGR; grey becomes BGR, alpha is left out. Raw frames are read-only views.

    Raises:
        BadFrameError: the picture cannot be read, or its size is refused.
    """
    width, height = size_of(source)
    pixels = np.frombuffer(source.data, np.uint8)
    if source.encoding is Encoding.RAW:
        return pixels.reshape(height, width, 3)
    picture: Any
    try:
        if source.encoding is Encoding.JPEG:
            # Whoever reads a hostile header another way than the decoder lets a bomb through.
            if jpeg.size(source.data) != (width, height):
                raise BadFrameError("the JPEG's header says two sizes", remedy=_REMEDY_FILE)
            picture = jpeg.decode(source.data)
        else:
            picture = cv2.imdecode(pixels, cv2.IMREAD_COLOR)
    except cv2.error:
        picture = None
    if picture is None:
        raise BadFrameError(f"the {source.encoding.value.upper()} cannot be decoded", remedy=_REMEDY_FILE)
    if picture.shape not in ((height, width, 3), (width, height, 3)):  # turned by its EXIF orientation
        raise BadFrameError(
            f"the {source.encoding.value.upper()} says {width}x{height} and holds"
            f" {picture.shape[1]}x{picture.shape[0]}",
            remedy=_REMEDY_FILE,
        )
    return np.asarray(picture, np.uint8)


def encode(frame: MaskedFrame, encoding: Encoding, *, jpeg_quality: int = DEFAULT_JPEG_QUALITY) -> bytes:
    """A masked frame's bytes.

    Args:
        frame: masked.
        encoding: of the result.
        jpeg_quality: 1 to 100.

    Raises:
        InternalError: OpenCV cannot encode it.
    """
    if type(frame) is not MaskedFrame:
        # mypy says so too; this is for the day when somebody does not ask it.
        raise InternalError(f"{type(frame).__name__} is no masked frame, so it is not encoded")
    if encoding is Encoding.RAW:
        return frame.pixels.tobytes()
    if encoding is Encoding.JPEG:
        name, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
    else:
        name, options = ".png", [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL]
    try:
        done, data = cv2.imencode(name, frame.pixels, options)
    except cv2.error as error:
        raise InternalError(f"a masked frame cannot be encoded as {encoding.value} ({error.err})") from None
    if not done:
        raise InternalError(f"a masked frame cannot be encoded as {encoding.value}")
    return data.tobytes()


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks the markers to the first scan, then looks for the end of the image."""
    if data[:2] != b"\xff\xd8":
        raise BadFrameError("the picture is no JPEG", remedy=_REMEDY_FILE)
    size: tuple[int, int] | None = None
    for marker, position, length in jpeg.segments(data):
        if (found := jpeg.frame_size(data, marker, position)) is not None:
            size = checked_size(*found)
        # In a scan's data the byte FF never stands before D9. What cameras append after the end is not read.
        if marker == jpeg.START_OF_SCAN and size is not None and data.rfind(_END_OF_IMAGE, position + 2 + length) >= 0:
            return size
    raise BadFrameError("the JPEG ends too early or is damaged", remedy=_REMEDY_FILE)


def _png_size(data: bytes) -> tuple[int, int]:
    """Walks the chunks to the last one."""
    if data[:8] != _PNG_MAGIC or data[12:16] != b"IHDR" or len(data) < 33:
        raise BadFrameError("the picture is no PNG", remedy=_REMEDY_FILE)
    width, height = struct.unpack_from(">II", data, 16)
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if data[position + 4 : position + 8] == b"IEND":
            return width, height
        position += 12 + length
    raise BadFrameError("the PNG ends too early or is damaged", remedy=_REMEDY_FILE)
