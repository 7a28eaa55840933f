"""The demo's clip: a camera moves along a wall with pictures on it, and people walk by.

Faces are 32 to 200 px high and come in over each edge; people pass each other; fast pans blur; there are stretches
without a face.

Example::

    clip = gallery()
    picture, faces = clip.frame(17), clip.truth(17)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fleet.demo import pictures
from fleet.demo.scene import Clip, Layer, Pose, Track

FRAMES = 330

_WORLD = (2900, 1400)
_HEDGE_TOP = 962
_PHOTOGRAPHS = (
    # name, x, y, scale: what hangs on the wall and shows no face
    ("rocket", 60, 110, 0.80),
    ("chelsea", 1230, 150, 0.92),
    ("hubble_deep_field", 2330, 90, 0.42),
    ("coffee", 470, 570, 0.62),
    ("coffee", 2330, 600, 0.55),
    ("hubble_deep_field", 1330, 520, 0.36),
)
_PORTRAITS = (
    # name, x, y, scale, mirrored: what hangs on the wall and shows one
    ("print-large", 790, 110, 0.72, False),
    ("print-close", 1740, 80, 0.86, True),
    ("print-small", 225, 640, 0.42, True),
    ("print-tiny", 915, 675, 0.37, False),
    ("print-least", 1150, 690, 0.268, True),
    ("family-1", 1780, 590, 0.50, False),
    ("family-2", 2085, 610, 0.34, True),
    ("family-3", 2090, 810, 0.31, False),
)


def gallery() -> Clip:
    """The demo's clip: 33 s at 10 frames/s, 640×360."""
    wall = pictures.brick_wall(*_WORLD)
    layers = [Layer("wall", wall, _still(0, 0, 1))]
    offset = pictures.print_offset()
    for number, (name, x, y, scale) in enumerate(_PHOTOGRAPHS):
        layers.append(Layer(f"{name}-{number}", pictures.print_of(pictures.photograph(name)), _still(x, y, scale)))
    for number, (name, x, y, scale, mirror) in enumerate(_PORTRAITS):
        picture = pictures.photograph("astronaut")
        picture = pictures.graded(picture, gain=1 - 0.05 * (number % 3), warmth=0.3 * (number % 3 - 1))
        box = pictures.FACE_BOX
        if mirror:
            picture, box = pictures.mirrored(picture), pictures.mirrored_box(box, picture.shape[1])
        face = (box[0] + offset, box[1] + offset, box[2] + offset, box[3] + offset)
        layers.append(Layer(name, pictures.print_of(picture), _still(x, y, scale), face))
    layers += [
        _person("walker-1", 0.50, _WALK_LEFT_FIRST, mirror=True, gain=1.05, warmth=-0.2),
        _person("walker-2", 0.58, _WALK_RIGHT_FIRST, gain=0.95, warmth=0.15),
        _person("walker-3", 0.46, _WALK_LEFT_LAST, mirror=True, gain=1.0, warmth=0.2),
        _person("walker-4", 0.64, _WALK_RIGHT_LAST, gain=0.9, warmth=-0.1),
    ]
    hedge = pictures.hedge(_WORLD[0], _WORLD[1] - _HEDGE_TOP)
    layers.append(Layer("hedge", hedge, _still(0, _HEDGE_TOP, 1)))
    layers += [
        _person("passer-by", 1.0, _PASS_BY, gain=1.0, warmth=0.1),
        _person("rising", 1.15, _RISE, mirror=True, gain=0.92, warmth=-0.1),
    ]
    return Clip(tuple(layers), Track(_CAMERA), FRAMES)


# seconds, then the middle of the face
_WALK_RIGHT_FIRST = ((12.0, 330, 842), (16.0, 760, 836), (21.5, 1420, 840))
_WALK_LEFT_FIRST = ((11.5, 1380, 862), (16.5, 830, 856), (21.0, 380, 858))
_WALK_RIGHT_LAST = ((16.5, 360, 838), (20.5, 850, 842), (25.0, 1400, 838))
_WALK_LEFT_LAST = ((16.0, 1480, 872), (21.0, 900, 868), (25.5, 330, 868))
_PASS_BY = ((21.6, 1420, 800), (23.2, 960, 792), (24.9, 420, 806))
_RISE = ((8.8, 850, 1190), (10.4, 850, 890), (11.6, 835, 884), (13.0, 770, 1200))
# seconds, then the middle of the view and its zoom
_CAMERA = (
    (0.0, 360, 300, 1.00),
    (1.0, 380, 300, 1.00),
    (2.8, 900, 285, 1.05),
    (4.2, 1400, 290, 1.00),
    (4.9, 1470, 300, 1.00),
    (6.1, 1000, 290, 1.00),
    (7.0, 940, 300, 1.10),
    (9.0, 830, 820, 1.00),
    (12.0, 840, 830, 1.00),
    (15.0, 910, 835, 1.00),
    (21.0, 960, 830, 1.06),
    (23.6, 890, 815, 1.00),
    (24.4, 920, 810, 1.00),
    (26.2, 1900, 775, 1.00),
    (27.6, 1980, 765, 1.06),
    (28.8, 1990, 755, 1.06),
    (30.4, 1985, 235, 1.84),
    (31.6, 2000, 240, 1.84),
    (32.6, 2620, 330, 1.00),
    (33.0, 2620, 330, 1.00),
)


def _still(x: float, y: float, scale: float) -> Callable[[float], Pose | None]:
    pose = Pose(x, y, scale)
    return lambda _time: pose


def _person(
    name: str, scale: float, path: Sequence[tuple[float, ...]], *, mirror: bool = False, gain: float, warmth: float
) -> Layer:
    """Someone whose face follows a path, with the bob of a walk."""
    picture, box = pictures.graded(pictures.person(), gain=gain, warmth=warmth), pictures.FACE_BOX
    if mirror:
        picture, box = pictures.mirrored(picture), pictures.mirrored_box(box, picture.shape[1])
    track = Track(path)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)

    def pose(time: float) -> Pose | None:
        if not track.times[0] <= time <= track.times[-1]:
            return None
        x, y = track.at(time)
        y += 3.0 * scale * math.sin(time * 11)
        return Pose(x - middle[0] * scale, y - middle[1] * scale, scale)

    return Layer(name, picture, pose, box)
