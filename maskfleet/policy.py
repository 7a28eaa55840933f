"""The mask policy: style, margin, confidence, tracking and fail-closed settings.

A policy is a value. A release carries a complete one; a stream may change fields of it with :meth:`MaskPolicy.changed`.

>>> MaskPolicy().changed(style=Style.SOLID).style
<Style.SOLID: 'solid'>
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from maskfleet.errors import BadPolicyError


class Style(enum.Enum):
    """How a masked area is drawn."""

    BLUR = "blur"
    PIXELATE = "pixelate"
    SOLID = "solid"


class Shape(enum.Enum):
    """The outline of a masked area."""

    RECTANGLE = "rectangle"
    ELLIPSE = "ellipse"


class FailClosed(enum.Enum):
    """What is done with a frame that cannot be masked with certainty."""

    FULL_MASK = "full-mask"
    DROP = "drop"


_UNIT_INTERVAL = ("strength", "min_confidence", "nms_iou", "track_iou")
MAX_MARGIN = 2.0
MAX_COAST_FRAMES = 600


@dataclasses.dataclass(frozen=True)
class MaskPolicy:
    """A complete policy.

    Attributes:
        style: how a masked area is drawn.
        shape: its outline.
        strength: strength of blur or mosaic, 0 to 1, on top of a floor that keeps a face unrecognisable at 0.
        margin: how far a box grows on each side, as a share of its width and height, 0 to 2.
        min_confidence: a detection below this score is no face, 0 to 1.
        nms_iou: detections that overlap by more than this intersection over union are one, 0 to 1.
        coast_frames: for how many frames a track goes on after its last detection, 0 to 600.
        track_iou: intersection over union from which a detection belongs to a track, 0 to 1.
        fail_closed: what is done with a frame that cannot be masked with certainty.

    Raises:
        BadPolicyError: a value is out of range.
    """

    style: Style = Style.BLUR
    shape: Shape = Shape.ELLIPSE
    strength: float = 0.5
    margin: float = 0.2
    min_confidence: float = 0.35
    nms_iou: float = 0.3
    coast_frames: int = 10
    track_iou: float = 0.2
    fail_closed: FailClosed = FailClosed.FULL_MASK

    def __post_init__(self) -> None:
        for name in _UNIT_INTERVAL:
            _check_range(name, getattr(self, name), 0.0, 1.0)
        _check_range("margin", self.margin, 0.0, MAX_MARGIN)
        _check_range("coast_frames", self.coast_frames, 0, MAX_COAST_FRAMES)
        if not isinstance(self.coast_frames, int):
            raise BadPolicyError(f"coast_frames is {self.coast_frames}", remedy="give whole frames")

    def changed(self, **fields: Any) -> MaskPolicy:
        """A policy that differs in the given fields; fields that are None stay."""
        return dataclasses.replace(self, **{k: v for k, v in fields.items() if v is not None})

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest or a report."""
        return {
            field.name: value.value if isinstance(value, enum.Enum) else value
            for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MaskPolicy:
        """The policy that :meth:`to_json` wrote.

        Raises:
            BadPolicyError: an unknown field, an unknown word or a value out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise BadPolicyError(
                f"mask policy has unknown fields {', '.join(unknown)}", remedy=f"use {', '.join(sorted(known))}"
            )
        fields = dict(values)
        for name, enum_type in (("style", Style), ("shape", Shape), ("fail_closed", FailClosed)):
            if name in fields:
                fields[name] = parse_word(enum_type, fields[name])
        return cls(**fields)


_E = TypeVar("_E", bound=enum.Enum)


def parse_word(enum_type: type[_E], word: object) -> _E:
    """The member that a word names.

    Raises:
        BadPolicyError: there is none.
    """
    try:
        return enum_type(word)
    except ValueError:
        words = ", ".join(str(member.value) for member in enum_type)
        raise BadPolicyError(
            f"there is no {enum_type.__name__.lower()} {word!r}", remedy=f"use one of {words}"
        ) from None


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadPolicyError(f"{name} is {value!r}, which is no number", remedy=f"give {low} to {high}")
    if not low <= value <= high:
        raise BadPolicyError(f"{name} is {value}", remedy=f"give {low} to {high}")
