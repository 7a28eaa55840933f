"""A scene that is filmed, where every true face box is known.

The world is a list of layers, back to front, each a picture with a pose over time; the camera is one more pose. The box
of a face follows from these poses alone, and so does how much of it is in view and behind nothing. Rules:

- Everything is a function of the time: the same clip comes out every time.
- A frame is the mean of pictures at several moments while the shutter is open, as many as its fastest motion needs:
  faces blur as they do in a camera. Truth is that of the middle of this time.
- Coordinates of the world are pixels of a frame at zoom 1.

Example::

    clip = Clip(layers, camera, frames=330)
    picture, faces = clip.frame(17), clip.truth(17)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from fleet.demo.pictures import Picture
from fleet.scoring import TrueFace

WIDTH, HEIGHT = 640, 360
FRAMES_PER_SECOND = 10
SHUTTER_S = 1 / 50
MAX_EXPOSURES = 12
PIXELS_PER_EXPOSURE = 1.5
SENSOR_NOISE = 1.6

Box = tuple[float, float, float, float]
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where a picture lies: its top left corner at (x, y), one of its pixels is ``scale`` wide."""

    x: float
    y: float
    scale: float

    def within(self, outer: Pose) -> Pose:
        """This pose, seen from outside of another."""
        return Pose(outer.x + self.x * outer.scale, outer.y + self.y * outer.scale, self.scale * outer.scale)

    def box(self, box: Box) -> Box:
        """Where a box of the picture comes to lie."""
        x1, y1, x2, y2 = box
        return (
            self.x + x1 * self.scale,
            self.y + y1 * self.scale,
            self.x + x2 * self.scale,
            self.y + y2 * self.scale,
        )


@dataclasses.dataclass(frozen=True)
class Layer:
    """A picture in the world.

    Attributes:
        name: of the face where there is one.
        picture: uint8 H×W×3, opaque, or H×W×4.
        pose: in world coordinates, over time in seconds; None where it is away.
        face: box of its face in pixels of the picture.
    """

    name: str
    picture: Picture
    pose: Callable[[float], Pose | None]
    face: Box | None = None

    @functools.cached_property
    def levels(self) -> tuple[Picture, ...]:
        """The picture and its halves, colours multiplied by alpha, so that small copies do not alias."""
        full = self.picture
        if full.shape[2] == 4:
            full = full.copy()
            full[..., :3] = (full[..., :3] * (full[..., 3:] / np.float32(255)) + 0.5).astype(np.uint8)
        levels = [full]
        while min(levels[-1].shape[:2]) >= 32 and len(levels) < 4:
            height, width = levels[-1].shape[:2]
            half = cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            levels.append(half.astype(np.uint8))
        return tuple(levels)


class Track:
    """A smooth path through values at given times, held before the first and after the last.

    Args:
        keys: (seconds, value, value, …) in rising order of time.
    """

    def __init__(self, keys: Sequence[tuple[float, ...]]) -> None:
        table = np.array(keys, np.float64)
        self.times: Floats = table[:, 0]
        self._values: Floats = table[:, 1:]
        # Slopes of a parabola through three neighbours, 0 at the ends: no jerk at a key, and a standing start.
        steps = np.diff(self.times)[:, None]
        slopes = np.diff(self._values, axis=0) / steps
        inner = (slopes[:-1] * steps[1:] + slopes[1:] * steps[:-1]) / (steps[1:] + steps[:-1])
        self._slopes: Floats = np.vstack([np.zeros_like(slopes[:1]), inner, np.zeros_like(slopes[:1])])

    def at(self, time: float) -> Floats:
        """The values at a time."""
        time = float(np.clip(time, self.times[0], self.times[-1]))
        i = int(np.clip(np.searchsorted(self.times, time, "right") - 1, 0, len(self.times) - 2))
        step = self.times[i + 1] - self.times[i]
        u = (time - self.times[i]) / step
        values, slopes = self._values, self._slopes * step
        return np.asarray(
            (2 * u**3 - 3 * u**2 + 1) * values[i]
            + (u**3 - 2 * u**2 + u) * slopes[i]
            + (3 * u**2 - 2 * u**3) * values[i + 1]
            + (u**3 - u**2) * slopes[i + 1]
        )


@dataclasses.dataclass(frozen=True)
class Clip:
    """A scene that is filmed.

    Attributes:
        layers: back to front; the first one is opaque and fills every frame.
        camera: centre x, centre y and zoom over time.
        frames: how many.
    """

    layers: tuple[Layer, ...]
    camera: Track
    frames: int

    def truth(self, index: int) -> list[TrueFace]:
        """Every face that is at least partly within a frame, also behind something."""
        time = index / FRAMES_PER_SECOND
        placed = self._placed(time)
        found = []
        for depth, (layer, pose) in enumerate(placed):
            if layer.face is None:
                continue
            box = pose.box(layer.face)
            if box[0] < WIDTH and box[1] < HEIGHT and box[2] > 0 and box[3] > 0:
                found.append(TrueFace(layer.name, box, _visible(box, placed[depth + 1 :])))
        return found

    def frame(self, index: int) -> Picture:
        """The picture: uint8 360×640×3 BGR."""
        time = index / FRAMES_PER_SECOND
        exposures = self._exposures(time)
        offsets = (np.arange(exposures) + 0.5) / exposures - 0.5
        light = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for offset in offsets:
            light += self._exposed(time + SHUTTER_S * float(offset))
        light *= _vignette() * np.float32((1 + 0.04 * math.sin(time * 0.7)) / exposures)
        down, right = np.random.default_rng(index).integers(0, (HEIGHT, WIDTH))
        noise = _noise()[down : down + HEIGHT, right : right + WIDTH]
        return np.asarray(np.clip(light + noise + np.float32(0.5), 0, 255), np.uint8)

    def _placed(self, time: float) -> list[tuple[Layer, Pose]]:
        """Layers that are there, with their poses in the frame."""
        x, y, zoom = self.camera.at(time) + _unsteady(time)
        view = Pose(WIDTH / 2 - x * zoom, HEIGHT / 2 - y * zoom, zoom)
        return [(layer, pose.within(view)) for layer in self.layers if (pose := layer.pose(time)) is not None]

    def _exposures(self, time: float) -> int:
        """How many moments the fastest motion in the frame needs."""
        first, last = (dict(self._poses(time + half * SHUTTER_S)) for half in (-0.5, 0.5))
        moved = max(
            math.hypot(last[name].x - first[name].x, last[name].y - first[name].y) for name in first.keys() & last
        )
        return int(np.clip(math.ceil(moved / PIXELS_PER_EXPOSURE), 1, MAX_EXPOSURES))

    def _poses(self, time: float) -> list[tuple[str, Pose]]:
        return [(layer.name, pose) for layer, pose in self._placed(time) if layer is self.layers[0] or layer.face]

    def _exposed(self, time: float) -> npt.NDArray[np.float32]:
        canvas = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for layer, pose in self._placed(time):
            _paint(canvas, layer, pose)
        return canvas


def _paint(canvas: npt.NDArray[np.float32], layer: Layer, pose: Pose) -> None:
    """Puts a layer over the canvas."""
    height, width = layer.picture.shape[:2]
    x1, y1, x2, y2 = pose.box((0, 0, width, height))
    left, right = max(0, math.floor(x1)), min(WIDTH, math.ceil(x2))
    top, bottom = max(0, math.floor(y1)), min(HEIGHT, math.ceil(y2))
    if left >= right or top >= bottom:
        return
    level = int(np.clip(round(math.log2(1 / pose.scale)), 0, len(layer.levels) - 1))
    source = layer.levels[level]
    scale_x, scale_y = pose.scale * width / source.shape[1], pose.scale * height / source.shape[0]
    # Pixel centres: pixel i of the source covers [i, i + 1).
    matrix = np.array(
        [
            [scale_x, 0, x1 - left + (scale_x - 1) / 2],
            [0, scale_y, y1 - top + (scale_y - 1) / 2],
        ]
    )
    opaque = source.shape[2] == 3
    border = cv2.BORDER_REPLICATE if opaque else cv2.BORDER_CONSTANT
    size = (right - left, bottom - top)
    patch = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
    under = canvas[top:bottom, left:right]
    if opaque:
        under[:] = patch
    else:
        under *= 1 - patch[..., 3:] / np.float32(255)
        under += patch[..., :3]


def _visible(box: Box, in_front: Sequence[tuple[Layer, Pose]]) -> float:
    """Share of a box's ellipse that is in the frame and behind nothing, by points on a grid."""
    grid = np.linspace(-1, 1, 41)
    u, v = (axis.ravel() for axis in np.meshgrid(grid, grid))
    inside = u**2 + v**2 <= 1
    x = (box[0] + box[2]) / 2 + u[inside] * (box[2] - box[0]) / 2
    y = (box[1] + box[3]) / 2 + v[inside] * (box[3] - box[1]) / 2
    seen = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    for layer, pose in in_front:
        height, width = layer.picture.shape[:2]
        column = np.floor((x - pose.x) / pose.scale).astype(int)
        row = np.floor((y - pose.y) / pose.scale).astype(int)
        on = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        seen[on] &= layer.picture[row[on], column[on], 3] < 128
    return float(seen.mean())


def _unsteady(time: float) -> Floats:
    """A hand that holds the camera: x, y and zoom."""
    return np.array(
        [
            1.4 * math.sin(time * 2.1) + 0.8 * math.sin(time * 5.3 + 1),
            1.1 * math.sin(time * 2.7 + 2) + 0.6 * math.sin(time * 6.1),
            0.0,
        ]
    )


@functools.cache
def _noise() -> npt.NDArray[np.float32]:
    """A sensor's noise, larger than a frame: each frame takes another part of it."""
    field = np.random.default_rng(1).standard_normal((2 * HEIGHT, 2 * WIDTH, 3), np.float32)
    return np.asarray(field * np.float32(SENSOR_NOISE))


@functools.cache
def _vignette() -> npt.NDArray[np.float32]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    radius = np.hypot((x - WIDTH / 2) / WIDTH, (y - HEIGHT / 2) / HEIGHT)
    return np.asarray((1.06 - 0.42 * radius**2)[..., None], np.float32)
