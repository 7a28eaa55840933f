"""What was done with a frame, and why. The wire's words (``masking.proto``), as values of the agent.

One word is the agent's own: :attr:`Reason.SOURCE_FRAME`, which health windows and metrics count by its name. A client,
for whom it is one way in which masking failed, reads MASKING_FAILED.
"""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """What was done with a frame."""

    MASKED = "masked"
    COASTED = "coasted"
    FULL_MASK = "full-mask"
    DROPPED = "dropped"


class Reason(enum.Enum):
    """Why a frame has the outcome that it has."""

    DETECTED = "detected"
    TRACK_CARRIED = "track-carried"
    SUPERSEDED = "superseded"
    DEADLINE_MISSED = "deadline-missed"
    NO_ENGINE = "no-engine"
    ENGINE_FAILED = "engine-failed"
    DECODE_FAILED = "decode-failed"
    MASKING_FAILED = "masking-failed"
    SOURCE_FRAME = "source-frame"
    SHUTTING_DOWN = "shutting-down"


class Stage(enum.Enum):
    """A step of masking that is timed."""

    QUEUE = "queue"
    DECODE = "decode"
    PREPROCESS = "preprocess"
    INFER = "infer"
    POSTPROCESS = "postprocess"
    TRACK = "track"
    MASK = "mask"
    ENCODE = "encode"
    TOTAL = "total"
