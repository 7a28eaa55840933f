"""Pairs of source and masked frames on one sheet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from fleet.results import Image
from fleet.scoring import TrueFace

PAIRS = 8
_COLUMNS = 2
_GAP, _CAPTION = 14, 34
_PAPER, _INK = (250, 249, 248), (60, 52, 48)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A frame before and after.

    Attributes:
        source: as it went in.
        masked: as it came out; None where it was dropped.
        caption: what to look at.
    """

    source: Image
    masked: Image | None
    caption: str


def telling(truth: Sequence[Sequence[TrueFace]], *, width: int, height: int) -> list[tuple[int, str]]:
    """Frames of a clip that show what is hard, with a phrase for each, in the order of the clip.

    Args:
        truth: the faces of each frame.
        width: of a frame.
        height: of a frame.
    """

    def size(face: TrueFace) -> float:
        return face.box[3] - face.box[1]

    def beyond(edge: int) -> Callable[[TrueFace], float | None]:
        def cut(face: TrueFace) -> float | None:
            x1, y1, x2, y2 = face.box
            over = (-x1, -y1, x2 - width, y2 - height)[edge]
            return over / (x2 - x1 if edge % 2 == 0 else y2 - y1) if over > 0 else None

        return cut

    def hidden(face: TrueFace) -> float | None:
        x1, y1, x2, y2 = face.box
        whole = x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
        return 1 - face.visible if whole and face.visible < 1 else None

    asked: list[tuple[str, Callable[[TrueFace], float | None]]] = [
        ("over the left edge", beyond(0)),
        ("over the upper edge", beyond(1)),
        ("over the right edge", beyond(2)),
        ("over the lower edge", beyond(3)),
        ("one behind the other", hidden),
        ("the largest face", size),
        ("the smallest face", lambda face: -size(face)),
    ]
    found = {max(range(len(truth)), key=lambda i: (len([f for f in truth[i] if f.counts]), -i)): "most faces"}
    for phrase, worth in asked:
        faces = [(w, i) for i, frame in enumerate(truth) for f in frame if f.counts and (w := worth(f)) is not None]
        if faces:
            # The frame that shows it best and is not on the sheet yet.
            best = max((item for item in faces if item[1] not in found), default=None)
            if best is not None:
                found[best[1]] = phrase
    return sorted(found.items())[:PAIRS]


def sheet(pairs: Sequence[Pair]) -> Image:
    """The sheet: uint8 H×W×3 BGR, two pairs a row at half their size."""
    height, width = (side // 2 for side in pairs[0].source.shape[:2])
    cell_width, cell_height = 2 * width + 4, height + _CAPTION
    rows = -(-len(pairs) // _COLUMNS)
    canvas = np.full((rows * (cell_height + _GAP) + _GAP, _COLUMNS * (cell_width + _GAP) + _GAP, 3), _PAPER, np.uint8)
    for place, pair in enumerate(pairs):
        x = _GAP + (place % _COLUMNS) * (cell_width + _GAP)
        y = _GAP + (place // _COLUMNS) * (cell_height + _GAP)
        masked = pair.masked if pair.masked is not None else np.full_like(pair.source, 128)
        for column, picture in enumerate((pair.source, masked)):
            left = x + column * (width + 4)
            small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            canvas[y : y + height, left : left + width] = small
        cv2.putText(canvas, pair.caption, (x, y + height + 21), cv2.FONT_HERSHEY_DUPLEX, 0.46, _INK, 1, cv2.LINE_AA)
    return canvas
