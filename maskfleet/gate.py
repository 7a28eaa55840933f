"""What the gate tolerates: how far an engine may be from the fp32 model that it is made from.

The margins are a release's: an operator says them, the plane stores them, the compiler holds engines against them.

>>> checked(Margins(min_recall=0.9)).min_recall
0.9
"""

from __future__ import annotations

import dataclasses

from maskfleet.errors import InvalidInputError


@dataclasses.dataclass(frozen=True)
class Margins:
    """How far an engine may be from its model.

    Attributes:
        min_cosine: least cosine between an output and the fp32 model's, over the whole evaluation set.
        max_error: largest difference of one value, as a share of the largest value in the fp32 model's output; wide,
            as one cell in the background may be off without any face moving.
        min_recall: least share of the fp32 model's detections that are found again.
        max_extra: most detections that the fp32 model does not have, as a share of those that it has.
        match_iou: intersection over union from which two boxes are the same face.
        min_mean_iou: least mean intersection over union of the boxes that are the same.
    """

    min_cosine: float = 0.995
    max_error: float = 0.25
    min_recall: float = 0.98
    max_extra: float = 0.05
    match_iou: float = 0.5
    min_mean_iou: float = 0.9


RANGES: dict[str, tuple[float, float]] = {
    "min_cosine": (0.0, 1.0),
    "max_error": (0.0, 100.0),
    "min_recall": (0.0, 1.0),
    "max_extra": (0.0, 100.0),
    "match_iou": (0.01, 1.0),  # boxes that do not touch are never the same face
    "min_mean_iou": (0.0, 1.0),
}
"""Least and most of each margin that an operator may ask for."""


def checked(margins: Margins) -> Margins:
    """The margins, if each is in its range.

    Raises:
        InvalidInputError: one is not; the message names it.
    """
    for name, (least, most) in RANGES.items():
        value = getattr(margins, name)
        if not least <= value <= most:  # holds for no NaN
            raise InvalidInputError(
                f"the margin {name} is {value:g}", remedy=f"use a number from {least:g} to {most:g}"
            )
    return margins
