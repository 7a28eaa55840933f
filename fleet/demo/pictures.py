"""The pictures that the demo's clip is made of: photographs that come with scikit-image, and what is cut out of them.

Every photograph used here is in the public domain or CC0, as scikit-image's documentation of it says: astronaut, rocket
and hubble_deep_field (NASA, SpaceX), coffee and chelsea (CC0 by their photographers), brick and grass (CC0 textures).
All of them lie in scikit-image's wheel; nothing is downloaded.

Layers are ``uint8`` H×W×4 in the order blue, green, red, alpha, not premultiplied.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from maskfleet.errors import UnavailableError

Picture = npt.NDArray[np.uint8]

FACE_BOX = (180.0, 56.0, 273.0, 178.0)
"""x1, y1, x2, y2 of the face in the astronaut's photograph, 512×512, and in what is made of it here but prints."""

PRINT_BORDER = 14
"""Width of the white border of a print, in pixels of the photograph."""

_OUTLINE = (
    *((175, 125), (161, 111), (155, 95), (154, 75), (157, 56), (168, 43), (189, 33), (205, 22), (230, 17), (255, 20)),
    *((280, 34), (294, 55), (300, 75), (298, 100), (288, 119), (275, 133), (266, 145), (258, 167), (256, 174)),
    *((280, 193), (297, 215), (303, 238), (303, 249), (320, 244), (337, 261), (347, 281), (354, 310), (363, 345)),
    *((385, 344), (420, 348), (455, 368), (479, 400), (491, 430), (494, 452), (503, 465), (508, 500), (507, 512)),
    *((30, 512), (23, 465), (20, 410), (27, 345), (38, 305), (51, 265), (76, 235), (113, 208), (116, 192)),
    *((123, 170), (140, 155), (165, 149), (185, 149), (184, 135)),
)
"""Outline of the astronaut in the photograph, drawn by hand."""


@functools.cache
def photograph(name: str) -> Picture:
    """One of scikit-image's photographs, uint8 H×W×3 BGR.

    Raises:
        UnavailableError: scikit-image is not installed.
    """
    try:
        import skimage.data
    except ImportError:
        raise UnavailableError(
            "the demo's photographs come with scikit-image, which is not installed",
            remedy="install maskfleet with its demo extra",
        ) from None
    picture = np.asarray(getattr(skimage.data, name)(), np.uint8)
    order = cv2.COLOR_GRAY2BGR if picture.ndim == 2 else cv2.COLOR_RGB2BGR
    return np.asarray(cv2.cvtColor(picture, order), np.uint8)


def graded(picture: Picture, *, gain: float = 1.0, warmth: float = 0.0) -> Picture:
    """The picture under other light.

    Args:
        picture: uint8, H×W×3 or H×W×4.
        gain: factor of its brightness.
        warmth: −1 to 1; red up and blue down by a fifth at 1.
    """
    factors = np.ones(picture.shape[2], np.float32)
    factors[:3] = gain * np.array([1 - 0.2 * warmth, 1.0, 1 + 0.2 * warmth])
    return np.asarray(np.clip(picture * factors, 0, 255), np.uint8)


def mirrored(picture: Picture) -> Picture:
    """Left and right exchanged."""
    return np.ascontiguousarray(picture[:, ::-1])


def mirrored_box(box: tuple[float, float, float, float], width: float) -> tuple[float, float, float, float]:
    """Where a box lies when the picture of this width is mirrored."""
    x1, y1, x2, y2 = box
    return (width - x2, y1, width - x1, y2)


def person() -> Picture:
    """The astronaut cut out of the photograph, with soft edges: uint8 512×512×4."""
    source = photograph("astronaut")
    outline = np.array(_OUTLINE, np.float32)
    mask = np.zeros(source.shape[:2], np.uint8)
    # Sub-pixel corners (shift=4) and a curve through them: hair is no polygon.
    curve = _rounded(outline[:28])
    points = np.vstack([curve, outline[28:]]) * 16
    cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA, 4)
    inset = cv2.erode(mask, np.ones((3, 3), np.uint8))
    return np.dstack([source, cv2.GaussianBlur(inset, (0, 0), 1.1, borderType=cv2.BORDER_REPLICATE)])


def _rounded(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Corners cut twice (Chaikin), ends kept."""
    for _ in range(2):
        cut = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], 1)
        points = np.vstack([points[:1], cut.reshape(-1, 2), points[-1:]]).astype(np.float32)
    return points


def print_of(picture: Picture) -> Picture:
    """A photograph as a print with a white border and a soft shadow: a layer, larger by :func:`print_offset` around."""
    border = PRINT_BORDER
    sheet = cv2.copyMakeBorder(picture, *(border,) * 4, cv2.BORDER_CONSTANT, value=(228, 234, 236))
    room = _shadow_room()
    alpha = np.zeros((sheet.shape[0] + 2 * room, sheet.shape[1] + 2 * room), np.uint8)
    inner = (slice(room, room + sheet.shape[0]), slice(room, room + sheet.shape[1]))
    alpha[inner] = 255
    shadow = cv2.GaussianBlur(np.roll(alpha, (room // 4, room // 5), (0, 1)), (0, 0), room / 3)
    layer = np.zeros((*alpha.shape, 4), np.uint8)
    layer[..., :3] = (18, 20, 24)
    layer[..., 3] = (shadow * 0.55).astype(np.uint8)
    layer[inner] = np.dstack([sheet, np.full(sheet.shape[:2], 255, np.uint8)])
    return layer


def print_offset() -> int:
    """Where the photograph begins in its print, in pixels from the left and from the top."""
    return PRINT_BORDER + _shadow_room()


def _shadow_room() -> int:
    return 26


def brick_wall(width: int, height: int) -> Picture:
    """A wall of bricks in uneven light: uint8 H×W×3 BGR."""
    # The photograph looks along a wall that lies on its side: turned, and pulled straight where its courses converge.
    turned = np.ascontiguousarray(np.rot90(photograph("brick")))
    corners = np.array([(0, 148), (511, 100), (511, 500), (0, 452)], np.float32)
    straight = np.array([(0, 0), (511, 0), (511, 399), (0, 399)], np.float32)
    bricks = cv2.warpPerspective(turned, cv2.getPerspectiveTransform(corners, straight), (512, 400))
    grey = _tiled(bricks.astype(np.uint8), width, height).astype(np.float32)
    grey = 128 + (grey - grey.mean()) * 0.8
    light = _clouds(width, height, seed=3, low=0.78, high=1.1)
    wall = grey[..., :3] * np.array([0.62, 0.76, 1.0], np.float32) * light[..., None]
    return np.asarray(np.clip(wall, 0, 255), np.uint8)


def hedge(width: int, height: int, *, ragged: int = 26) -> Picture:
    """A hedge with a ragged upper edge: a layer."""
    green = _tiled(photograph("grass"), width, height).astype(np.float32)
    green = 26 + (green - green.mean() + 60) * 0.62
    light = np.linspace(1.15, 0.6, height, dtype=np.float32)[:, None]
    colour = green * np.array([0.42, 0.96, 0.66], np.float32) * light[..., None]
    rough = _clouds(width, 1, seed=5, low=0, high=ragged, cells=width // 18)[0]
    depth = np.arange(height, dtype=np.float32)[:, None] - rough[None, :] - green[..., 0] / 12
    alpha = np.clip(depth / 3, 0, 1) * 255
    return np.asarray(np.dstack([np.clip(colour, 0, 255), alpha]), np.uint8)


def _tiled(texture: Picture, width: int, height: int) -> Picture:
    """Repeated with every other tile mirrored, so that no seam shows."""
    block = np.vstack([np.hstack([texture, texture[:, ::-1]]), np.hstack([texture[::-1], texture[::-1, ::-1]])])
    times = (-(-height // block.shape[0]), -(-width // block.shape[1]), 1)
    return np.asarray(np.tile(block, times)[:height, :width], np.uint8)


def _clouds(width: int, height: int, *, seed: int, low: float, high: float, cells: int = 7) -> npt.NDArray[np.float32]:
    """Smooth noise between two values."""
    coarse = np.random.default_rng(seed).random((max(2, cells * height // width), cells), np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(low + (high - low) * np.clip(smooth, 0, 1), np.float32)
