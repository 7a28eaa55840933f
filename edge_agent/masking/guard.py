"""The fail-closed rule: when in doubt, nothing of the frame leaves.

Rules:

- An error of any kind, known or not, makes the frame a full mask, or drops it where the policy says so or where its
  size is not known. There is no third way, and none of them holds a pixel of the source.
- A picture that cannot be decoded is dropped: what it would have shown is not known.
- Before a frame leaves it is looked at once more, by code that drew nothing of it (:func:`check_masked`,
  :func:`check_full`). One that still shows what it should not is dropped, whatever the policy says.
- A stream may change how masks look, and may mask more than its release does. It may not mask less: what decides
  whether a face is covered at all is held at the release's value (:func:`in_force`).

Example::

    verdict = closed(EngineError("the engine raised"), policy, (1280, 720))
    verdict.outcome     # Outcome.FULL_MASK
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_agent.masking.detections import Region
from edge_agent.masking.outcomes import Outcome, Reason
from edge_agent.masking.preprocess import Picture
from edge_agent.masking.styles import GREY, MaskedFrame, full_mask
from maskfleet.errors import (
    BadFrameError,
    DeadlineError,
    EngineError,
    FleetError,
    NoEngineError,
    SourceFrameError,
)
from maskfleet.policy import FailClosed, MaskPolicy

REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (BadFrameError, Reason.DECODE_FAILED),
    (NoEngineError, Reason.NO_ENGINE),
    (EngineError, Reason.ENGINE_FAILED),
    (DeadlineError, Reason.DEADLINE_MISSED),
    (SourceFrameError, Reason.SOURCE_FRAME),
)
"""Which error is which reason; every other one is MASKING_FAILED."""


LEAST_CONFIDENCE = 0.1
"""The lowest ``min_confidence`` that a stream may ask for, unless its release's is lower."""

_MIDDLE = 0.8
"""Share of a region's width and height that every shape of mask covers, its corners too."""

_FLAT = 8
"""Levels between the darkest and the brightest value of a channel up to which an area shows nothing."""

_SAMPLES = 24
"""Rows, and columns, of a region that are compared first, at most."""

_EIGHTH = 8


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is done with a frame that could not be masked.

    Attributes:
        outcome: FULL_MASK or DROPPED.
        reason: why.
        detail: the same in a sentence, without anything of the picture.
        frame: nothing of the source; None where it is DROPPED.
    """

    outcome: Outcome
    reason: Reason
    detail: str
    frame: MaskedFrame | None


def closed(error: Exception, policy: MaskPolicy, size: tuple[int, int] | None) -> Verdict:
    """What becomes of a frame that an error befell.

    Args:
        error: whatever was raised.
        policy: in force.
        size: width and height in pixels; None where they are not known.
    """
    reason = next((reason for kind, reason in REASONS if isinstance(error, kind)), Reason.MASKING_FAILED)
    # The text of an error from outside the catalogue may hold anything.
    detail = str(error) if isinstance(error, FleetError) else f"unexpected {type(error).__name__}"
    dropped = reason in (Reason.DECODE_FAILED, Reason.SOURCE_FRAME) or policy.fail_closed is FailClosed.DROP
    if size is None or dropped:
        return Verdict(Outcome.DROPPED, reason, detail, None)
    try:
        return Verdict(Outcome.FULL_MASK, reason, detail, full_mask(*size))
    except (MemoryError, ValueError):
        return Verdict(Outcome.DROPPED, reason, detail, None)


def check_masked(frame: MaskedFrame, source: Picture, regions: Sequence[Region]) -> None:
    """Whether the frame differs from its source wherever it should be masked.

    Compared is the middle of each region: on a grid of its rows and columns, which costs the same for a face of any
    size, and whole where nothing differs on the grid. Every style changes what it is drawn over, but for what is flat
    already: a grey wall, blurred, is the same grey wall. An area that is the same and is not flat came through.

    Args:
        frame: that is to leave.
        source: uint8, height×width×3, BGR, as it was masked.
        regions: in pixels of the source, before the margin.

    Raises:
        SourceFrameError: a region came through, or the two are not of one size.
    """
    if frame.pixels.shape != source.shape:
        raise SourceFrameError("a masked frame has not the size of its source")
    height, width = source.shape[:2]
    for region in regions:
        rows = _middle(region.y1, region.y2, height)
        columns = _middle(region.x1, region.x2, width)
        before, after = source[rows, columns], frame.pixels[rows, columns]
        grid = np.s_[:: len(before) // _SAMPLES + 1, :: before.shape[1] // _SAMPLES + 1]
        if not before.size or not np.array_equal(before[grid], after[grid]):
            continue
        if np.array_equal(before, after) and np.ptp(before, axis=(0, 1)).max() > _FLAT:
            raise SourceFrameError("a face came through its mask")


def check_full(frame: MaskedFrame) -> None:
    """Whether nothing is left in a frame that was masked whole, by every eighth of its rows.

    Raises:
        SourceFrameError: something is.
    """
    if not (frame.pixels[::_EIGHTH] == GREY).all():
        raise SourceFrameError("something came through a full mask")


def _middle(low: float, high: float, end: int) -> slice:
    """The places in the middle of a span, as far as it lies in the picture."""
    out = (high - low) * (1 - _MIDDLE) / 2
    first, last = max(0, math.ceil(low + out)), min(end, math.floor(high - out))
    return slice(first, max(first, last))


def in_force(release: MaskPolicy, changes: Mapping[str, Any]) -> MaskPolicy:
    """A release's policy with a stream's changes, as far as they do not cover less.

    Held: ``min_confidence`` does not rise; ``margin``, ``coast_frames``, ``nms_iou`` and ``track_iou`` do not fall (a
    track that takes a neighbour's detection for its own leaves its face bare). Free: style, shape and strength, which
    have floors of their own, and ``fail_closed``, whose values are all safe. And ``min_confidence`` does not fall below
    :data:`LEAST_CONFIDENCE`: at 0 every detector fires everywhere, which would pass for a failure of the engine, and a
    client could take a release back that way.

    Raises:
        BadPolicyError: a change is out of range.
    """
    asked = release.changed(**changes)
    return asked.changed(
        min_confidence=max(
            min(asked.min_confidence, release.min_confidence), min(release.min_confidence, LEAST_CONFIDENCE)
        ),
        margin=max(asked.margin, release.margin),
        coast_frames=max(asked.coast_frames, release.coast_frames),
        nms_iou=max(asked.nms_iou, release.nms_iou),
        track_iou=max(asked.track_iou, release.track_iou),
    )
