"""The pictures on which an engine is compared with its model: the agent's golden frames, and what can be made of them.

Each golden frame comes as it is, mirrored, twice as large, and half as large in a corner of a grey picture, so that
faces of several sizes stand at several places. The set is the same on every machine; its digest is part of every cache
key.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

import edge_agent

Image = npt.NDArray[np.uint8]
_FOLDER = Path(edge_agent.__file__).parent / "golden"


@dataclasses.dataclass(frozen=True)
class EvaluationFrame:
    """A picture.

    Attributes:
        name: as ``portrait.jpg mirrored``.
        image: uint8, height×width×3, BGR.
    """

    name: str
    image: Image


def _whole(image: Image) -> Image:
    return image


def _mirrored(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


def _doubled(image: Image) -> Image:
    return np.asarray(cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)


def _in_a_corner(image: Image) -> Image:
    canvas = np.full_like(image, 114)
    small = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    canvas[-small.shape[0] :, -small.shape[1] :] = small
    return canvas


_VARIANTS: dict[str, Callable[[Image], Image]] = {
    "": _whole,
    " mirrored": _mirrored,
    " doubled": _doubled,
    " in a corner": _in_a_corner,
}


def frames(*, variants: bool = True) -> list[EvaluationFrame]:
    """The set, in a fixed order.

    Args:
        variants: whether what is made of the golden frames belongs to it, or they alone.
    """
    found = []
    for path in _files():
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None, path  # noqa: S101  # a file of our own distribution
        for suffix, variant in _VARIANTS.items() if variants else (("", _whole),):
            found.append(EvaluationFrame(path.name + suffix, variant(np.asarray(image, np.uint8))))
    return found


@functools.cache
def digest() -> str:
    """Digest of the set."""
    state = hashlib.sha256("".join(_VARIANTS).encode())
    for path in _files():
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return "sha256:" + state.hexdigest()


def _files() -> list[Path]:
    return sorted(_FOLDER.glob("*.jpg"))
