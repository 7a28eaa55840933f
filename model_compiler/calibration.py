"""The pictures from which the range of each value is learnt before it gets eight bits.

The compiler's own set is made of the agent's golden frames: nearer, farther, cut, mirrored, darker and brighter. None
of them is a picture of :mod:`model_compiler.evaluation`, so what is learnt here is judged there.

Ranges learnt where the cameras hang are better ones. A *calibration set* is a folder ``NAME/VERSION`` of pictures that
lies with the builder and never leaves it; only its name and digest do. Rules:

- A set is what is in its folder: its digest is over names and bytes, and part of every key of what it was used for.
- All of it are 8-bit colour pictures, at least one, or the whole set is refused with the file's name.
- Sizes are bounded: :data:`MAX_PICTURES`, :data:`MAX_BYTES` a file, :data:`MAX_PIXELS` a picture.

Example::

    chosen = named("street/2", Path("/srv/calibration"))
    [frame.image.shape for frame in chosen.frames()]
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path

import cv2
import numpy as np

from maskfleet.errors import InvalidInputError, NotFoundError
from maskfleet.ids import check_versioned
from model_compiler import evaluation
from model_compiler.evaluation import EvaluationFrame, Image

MAX_PICTURES = 500
MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000

_REVISION = "1"
"""Counts up with each change of what is made of the golden frames."""

_PICTURES = (".jpg", ".jpeg", ".png")
_MAX_SETS = 64


@dataclasses.dataclass(frozen=True)
class CalibrationSet:
    """Pictures.

    Attributes:
        name: as ``street/2``; empty for the compiler's own.
        folder: where they lie; None for the compiler's own.
    """

    name: str = ""
    folder: Path | None = None

    def frames(self) -> list[EvaluationFrame]:
        """The pictures, in a fixed order: uint8, height×width×3, BGR.

        Raises:
            InvalidInputError: there are none, or one is no 8-bit colour picture.
        """
        if self.folder is None:
            return _own_frames()
        return [EvaluationFrame(path.name, _read(path, self.name)) for path in self._files()]

    def digest(self) -> str:
        """Digest of the set.

        Raises:
            InvalidInputError: it is empty or out of bounds.
        """
        if self.folder is None:
            return _own_digest()
        files = self._files()
        stats = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
        return _digest_of(stats)

    def to_json(self) -> dict[str, object]:
        """Name, digest and number of pictures."""
        count = len(_own_frames()) if self.folder is None else len(self._files())
        return {"name": self.name, "digest": self.digest(), "frames": count}

    def _files(self) -> list[Path]:
        assert self.folder is not None  # noqa: S101  # asked by those that have one
        try:
            found = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise InvalidInputError(
                f"calibration set {self.name} cannot be read ({error.strerror})", remedy=f"check {self.folder}"
            ) from None
        for path in found:
            if path.suffix.lower() not in _PICTURES or not path.is_file():
                raise InvalidInputError(
                    f"calibration set {self.name} holds {path.name}, which is no picture",
                    remedy=f"keep only {', '.join(_PICTURES)} files there",
                )
            if path.stat().st_size > MAX_BYTES:
                raise InvalidInputError(
                    f"picture {path.name} of calibration set {self.name} has more than {MAX_BYTES >> 20} MiB",
                    remedy="give frames of a camera",
                )
        if not found:
            raise InvalidInputError(
                f"calibration set {self.name} is empty",
                remedy=f"put some hundred frames of the cameras into {self.folder}",
            )
        if len(found) > MAX_PICTURES:
            raise InvalidInputError(
                f"calibration set {self.name} has {len(found)} pictures, more than {MAX_PICTURES}",
                remedy="choose some hundred that differ",
            )
        return found


OWN = CalibrationSet()
"""The compiler's own set."""


def named(name: str, root: Path | None) -> CalibrationSet:
    """The set of that name; the compiler's own where it is empty.

    Args:
        name: as ``street/2``.
        root: folder of all sets of this machine; None where it has none.

    Raises:
        InvalidInputError: it is no name.
        NotFoundError: this machine has no such set.
    """
    if not name:
        return OWN
    check_versioned("calibration set", name)
    folder = root / name if root is not None else None
    if folder is None or not folder.is_dir():
        raise NotFoundError(
            f"this machine has no calibration set {name}",
            remedy="give a folder that holds it with --calibration-dir",
        )
    return CalibrationSet(name, folder)


def sets_in(root: Path | None) -> dict[str, str]:
    """The sets of this machine that can be used: name → digest. What cannot be used is left out."""
    found: dict[str, str] = {}
    if root is None:
        return found
    for folder in sorted(root.glob("*/*")):
        name = f"{folder.parent.name}/{folder.name}"
        try:
            found[name] = named(name, root).digest()
        except (InvalidInputError, NotFoundError, OSError):
            continue
        if len(found) == _MAX_SETS:
            break
    return found


def _read(path: Path, name: str) -> Image:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise InvalidInputError(
            f"picture {path.name} of calibration set {name} cannot be read", remedy="replace it, it is damaged"
        )
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        shape = "×".join(str(side) for side in picture.shape)
        raise InvalidInputError(
            f"picture {path.name} of calibration set {name} is {picture.dtype} {shape}, not 8-bit height×width×3",
            remedy="calibrate with colour frames as the cameras give them",
        )
    if picture.shape[0] * picture.shape[1] > MAX_PIXELS:
        raise InvalidInputError(
            f"picture {path.name} of calibration set {name} has more than {MAX_PIXELS} pixels",
            remedy="give frames of a camera",
        )
    return np.asarray(picture, np.uint8)


@functools.lru_cache(maxsize=_MAX_SETS)
def _digest_of(stats: tuple[tuple[Path, int, int], ...]) -> str:
    state = hashlib.sha256(evaluation.digest().encode())
    for path, _, _ in stats:
        state.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return "sha256:" + state.hexdigest()


def _own_frames() -> list[EvaluationFrame]:
    """In a fixed order: those made of one golden frame are not neighbours."""
    golden = evaluation.frames(variants=False)
    made = []
    for name, variant in _VARIANTS.items():
        for frame in golden:
            made.append(EvaluationFrame(f"{frame.name} {name}", variant(frame.image)))
    return made


@functools.cache
def _own_digest() -> str:
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
