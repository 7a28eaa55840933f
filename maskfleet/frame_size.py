"""How large a frame may be: said before a picture is decoded, by the agent and by whoever sends it files.

>>> checked_size(640, 360)
(640, 360)
"""

from __future__ import annotations

from maskfleet.errors import BadFrameError

MAX_SIDE = 16_384
MAX_PIXELS = 40_000_000


def checked_size(width: int, height: int) -> tuple[int, int]:
    """The size in pixels, if pictures of it are taken.

    Raises:
        BadFrameError: it is empty or too large.
    """
    if width < 1 or height < 1:
        raise BadFrameError(f"a frame of {width}x{height} has no pixels", remedy="send a frame of at least 1x1")
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise BadFrameError(
            f"a frame of {width}x{height} is too large",
            remedy=f"send at most {MAX_SIDE} pixels on a side and {MAX_PIXELS // 1_000_000} megapixels",
        )
    return width, height
