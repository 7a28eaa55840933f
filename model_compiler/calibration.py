"""The pictures from which the range of each value is learnt before it gets eight bits.

They are made of the agent's golden frames: nearer, farther, cut, mirrored, darker and brighter. None of them is a
picture of :mod:`model_compiler.evaluation`, so what is learnt here is judged there. The set is the same on every
machine; its digest is part of the cache key of what it was used for.
"""

from __future__ import annotations

import functools
import hashlib

import cv2
import numpy as np

from model_compiler import evaluation
from model_compiler.evaluation import EvaluationFrame, Image

_REVISION = "1"
"""Counts up with each change of what is made of the golden frames."""


def frames() -> list[EvaluationFrame]:
    """The set, in a fixed order: those made of one golden frame are not neighbours."""
    golden = evaluation.frames(variants=False)
    made = []
    for name, variant in _VARIANTS.items():
        for frame in golden:
            made.append(EvaluationFrame(f"{frame.name} {name}", variant(frame.image)))
    return made


@functools.cache
def digest() -> str:
    """Digest of the set."""
    state = "\0".join((_REVISION, *_VARIANTS, evaluation.digest()))
    return "sha256:" + hashlib.sha256(state.encode()).hexdigest()


def _nearer(image: Image) -> Image:
    height, width = image.shape[:2]
    cut = image[height // 6 : height - height // 6, width // 6 : width - width // 6]
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _farther(image: Image) -> Image:
    return _on_grey(image, 0.7, 0.2, 0.3)


def _far(image: Image) -> Image:
    return _on_grey(np.ascontiguousarray(image[:, ::-1]), 0.35, 0.15, 0.1)


def _darker(image: Image) -> Image:
    return np.asarray(image * np.float32(0.55), np.uint8)


def _brighter(image: Image) -> Image:
    mirrored = np.ascontiguousarray(image[:, ::-1])
    return np.asarray(np.clip(mirrored * np.float32(1.3) + 10, 0, 255), np.uint8)


def _on_grey(image: Image, scale: float, right: float, down: float) -> Image:
    canvas = np.full_like(image, 96)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (int(share * side) for share, side in zip((down, right), image.shape[:2]))
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


_VARIANTS = {"nearer": _nearer, "farther": _farther, "darker": _darker, "far": _far, "brighter": _brighter}
