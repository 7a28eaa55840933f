"""Image files: read upright into pixels, written from pixels alone.

Nothing of a source file but its pixels gets into an output: no EXIF, no place, no thumbnail.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from fleet.results import Image
from maskfleet.errors import BadFrameError, InvalidInputError, NotFoundError, OutputError
from maskfleet.frame_size import checked_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_BMP_LONG = 40  # bytes of a header whose sides have 32 bits
_MAGIC = (_JPEG_MAGIC, _PNG_MAGIC, b"BM", b"II*\x00", b"MM\x00*")
_WEBP_SIDE = 0x3FFF
_JPEG_QUALITY = 95


def is_image(path: Path) -> bool:
    """Whether a file is a still picture, by its first bytes.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}", remedy="check the path") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror})", remedy="check the path") from None
    if not head:
        raise InvalidInputError(f"{path} is empty", remedy="give a picture or a video")
    animated = head[12:16] == b"VP8X" and bool(head[20] & 2)
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP" and not animated)


def check_picture(path: Path) -> None:
    """Looks at the size in the header of an image file, so that one that no agent takes is not decoded.

    JPEG, PNG, BMP and WebP are read for it; a TIFF's directory may lie anywhere and is left to :func:`read_image`.

    Raises:
        BadFrameError: it has no pixels, or too many; or there is no header.
    """
    try:
        data = path.read_bytes()
        size = _header_size(data)
        if size is not None:
            checked_size(*size)
    except BadFrameError as error:
        raise BadFrameError(f"{path}: {error.message}", remedy=error.remedy) from None


def _header_size(data: bytes) -> tuple[int, int] | None:
    """Width and height before EXIF turns the picture; None where it is none of the formats that are looked into."""
    try:
        if data.startswith(_JPEG_MAGIC):
            return _jpeg_size(data)  # None: there is none, as read_image will say
        if data.startswith(_PNG_MAGIC):
            return struct.unpack_from(">II", data, 16)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii" if data[14] >= _BMP_LONG else "<hh", data, 18)
            return abs(width), abs(height)
        if data[8:16] == b"WEBPVP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & _WEBP_SIDE, height & _WEBP_SIDE
        if data[8:16] == b"WEBPVP8L":
            (sides,) = struct.unpack_from("<I", data, 21)
            return 1 + (sides & _WEBP_SIDE), 1 + (sides >> 14 & _WEBP_SIDE)
        if data[8:16] == b"WEBPVP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    except (struct.error, IndexError):
        raise BadFrameError("the picture ends too early", remedy="check that it opens in a viewer") from None
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    from maskfleet import jpeg

    found = (jpeg.frame_size(data, marker, position) for marker, position, _ in jpeg.segments(data))
    return next((size for size in found if size is not None), None)


def read_image(path: Path) -> Image:
    """Pixels of an image file, turned upright as its EXIF asks: uint8 H×W×3 BGR.

    Raises:
        BadFrameError: it is damaged, or of a refused size.
    """
    import cv2

    from maskfleet import jpeg

    try:
        data = path.read_bytes()
        if data.startswith(_JPEG_MAGIC):
            return jpeg.decode(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except BadFrameError as error:
        raise BadFrameError(f"{path}: {error.message}", remedy="check that it opens in a viewer") from None
    except cv2.error:
        image = None
    if image is None:
        raise BadFrameError(f"{path} cannot be decoded", remedy="check that it opens in a viewer")
    return np.asarray(image, np.uint8)


def check_image_suffix(path: Path) -> None:
    """Raises InvalidInputError where an output's suffix is none of a picture."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InvalidInputError(
            f"{path.name} is no name for a picture", remedy=f"let it end in one of {' '.join(IMAGE_SUFFIXES)}"
        )


def write_image(path: Path, pixels: Image) -> None:
    """Writes an image file, whole or not at all, mode 0600.

    Args:
        path: its suffix says the format.
        pixels: uint8 H×W×3 BGR.

    Raises:
        OutputError: it cannot be written.
    """
    import cv2

    from maskfleet.datadir import write_atomic

    suffix = path.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    try:
        done, data = cv2.imencode(suffix, pixels, options)
    except cv2.error:
        done = False
    if not done:
        raise OutputError(f"a picture of {pixels.shape[1]}×{pixels.shape[0]} cannot be written as {suffix}")
    try:
        write_atomic(path, data.tobytes())
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror})", remedy="check the directory and the room on the disk"
        ) from None
