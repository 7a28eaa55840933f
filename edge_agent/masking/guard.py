"""The fail-closed rule: when in doubt, nothing of the frame leaves.

Rules:

- An error of any kind, known or not, makes the frame a full mask, or drops it where the policy says so or where its
  size is not known. There is no third way, and none of them holds a pixel of the source.
- A picture that cannot be decoded is dropped: what it would have shown is not known.
- A stream may change how masks look, and may mask more than its release does. It may not mask less: what decides
  whether a face is covered at all is held at the release's value (:func:`in_force`).

Example::

    verdict = closed(EngineError("the engine raised"), policy, (1280, 720))
    verdict.outcome     # Outcome.FULL_MASK
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edge_agent.masking.outcomes import Outcome, Reason
from edge_agent.masking.styles import MaskedFrame, full_mask
from maskfleet.errors import BadFrameError, DeadlineError, EngineError, FleetError, NoEngineError
from maskfleet.policy import FailClosed, MaskPolicy

REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (BadFrameError, Reason.DECODE_FAILED),
    (NoEngineError, Reason.NO_ENGINE),
    (EngineError, Reason.ENGINE_FAILED),
    (DeadlineError, Reason.DEADLINE_MISSED),
)
"""Which error is which reason; every other one is MASKING_FAILED."""


LEAST_CONFIDENCE = 0.1
"""The lowest ``min_confidence`` that a stream may ask for, unless its release's is lower."""


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
    if size is None or reason is Reason.DECODE_FAILED or policy.fail_closed is FailClosed.DROP:
        return Verdict(Outcome.DROPPED, reason, detail, None)
    try:
        return Verdict(Outcome.FULL_MASK, reason, detail, full_mask(*size))
    except (MemoryError, ValueError):
        return Verdict(Outcome.DROPPED, reason, detail, None)


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
