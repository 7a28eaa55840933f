"""What masking gives back, and what it takes besides arrays.

Pictures are ``uint8`` arrays of H×W×3 in the order blue, green, red (as OpenCV reads them); coordinates are pixels of
the source picture from its top left corner; times are seconds.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfleet.errors import BadFrameError

Image = npt.NDArray[np.uint8]
"""uint8, H×W×3, blue, green, red."""


class Mode(enum.Enum):
    """What becomes of frames that come faster than they are masked."""

    LIVE = "live"
    """The newest frame wins; each older one gets a result that says DROPPED, SUPERSEDED."""
    EVERY_FRAME = "every-frame"
    """Every frame is masked; the source of frames waits."""


class Encoding(enum.Enum):
    """How pictures travel between client and agent."""

    JPEG = "jpeg"
    PNG = "png"
    RAW = "raw"


class Outcome(enum.Enum):
    """What was done with a frame."""

    MASKED = "MASKED"
    """Every face that was detected is masked; there may be none."""
    COASTED = "COASTED"
    """Masked, and at least one mask rests on a track without a detection in this frame."""
    FULL_MASK = "FULL_MASK"
    """The whole picture is masked."""
    DROPPED = "DROPPED"
    """There is no picture."""


class Reason(enum.Enum):
    """Why a frame has the outcome that it has."""

    DETECTED = "DETECTED"
    TRACK_CARRIED = "TRACK_CARRIED"
    SUPERSEDED = "SUPERSEDED"
    DEADLINE_MISSED = "DEADLINE_MISSED"
    NO_ENGINE = "NO_ENGINE"
    ENGINE_FAILED = "ENGINE_FAILED"
    DECODE_FAILED = "DECODE_FAILED"
    MASKING_FAILED = "MASKING_FAILED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    UNKNOWN = "UNKNOWN"
    """A newer agent said a reason that this client does not know."""


@dataclasses.dataclass(frozen=True)
class EncodedFrame:
    """A source picture that is a JPEG or PNG file already, as a network camera gives it.

    Attributes:
        data: the file.
        encoding: JPEG or PNG.
    """

    data: bytes = dataclasses.field(repr=False)
    encoding: Encoding = Encoding.JPEG

    def __post_init__(self) -> None:
        if self.encoding is Encoding.RAW:
            raise BadFrameError("an encoded frame cannot be raw", remedy="give an array instead, uint8 H×W×3 BGR")

    @classmethod
    def sniffed(cls, data: bytes) -> EncodedFrame:
        """A file whose first bytes say what it is.

        Raises:
            BadFrameError: neither JPEG nor PNG.
        """
        if data.startswith(b"\xff\xd8\xff"):
            return cls(data, Encoding.JPEG)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return cls(data, Encoding.PNG)
        raise BadFrameError("these bytes are neither JPEG nor PNG", remedy="give a JPEG or PNG file, or an array")


@dataclasses.dataclass(frozen=True)
class Region:
    """A masked area: the face's box, before the margin that the mask adds.

    Attributes:
        x1: left edge in source pixels, inclusive.
        y1: top edge, inclusive.
        x2: right edge, exclusive.
        y2: bottom edge, exclusive.
        score: the detector's, 0 to 1; the last one for a carried track.
        track_id: unique within a stream; 0 in single images.
        coasted: carried over from an earlier frame.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    track_id: int = 0
    coasted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values; coordinates to a tenth of a pixel, the score to four digits."""
        box = [round(value, 1) for value in (self.x1, self.y1, self.x2, self.y2)]
        return {"box": box, "score": round(self.score, 4), "track_id": self.track_id, "coasted": self.coasted}


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedFrame:
    """One frame's result. There is no way from here to the source frame.

    Attributes:
        sequence: which frame, from 0 in the order of the source.
        outcome: what was done.
        reason: why.
        detail: the reason in a sentence; empty for DETECTED.
        regions: the masked areas.
        timings: seconds by name of stage: queue, decode, preprocess, infer, postprocess, track, mask, encode, total.
        release_digest: which release masked it, ``sha256:…``; empty where none was loaded.
        encoded: the masked picture as a JPEG or PNG file; None for raw results and when DROPPED.
        raw: the masked picture's pixels with its width and height; None for encoded results and when DROPPED.
    """

    sequence: int
    outcome: Outcome
    reason: Reason
    detail: str = ""
    regions: tuple[Region, ...] = ()
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    release_digest: str = ""
    encoded: bytes | None = dataclasses.field(default=None, repr=False)
    raw: tuple[int, int, bytes] | None = dataclasses.field(default=None, repr=False)

    @cached_property
    def image(self) -> Image | None:
        """The masked picture, uint8 H×W×3 in the order blue, green, red; None when DROPPED. Decoded at first use.

        Raises:
            BadFrameError: the agent's bytes are no picture.
        """
        if self.raw is not None:
            width, height, data = self.raw
            if len(data) != width * height * 3:
                raise BadFrameError(
                    f"a result of {width}×{height} has {len(data)} bytes where {width * height * 3} are due",
                    remedy="client and agent are of different versions",
                )
            return np.frombuffer(bytearray(data), np.uint8).reshape(height, width, 3)
        if self.encoded is None:
            return None
        return decode(self.encoded)

    def to_json(self) -> dict[str, Any]:
        """The result without its picture, as the report of ``fleet mask`` has it; times in milliseconds."""
        return {
            "sequence": self.sequence,
            "outcome": self.outcome.value,
            "reason": self.reason.value,
            "detail": self.detail,
            "regions": [region.to_json() for region in self.regions],
            "milliseconds": {stage: round(seconds * 1000, 3) for stage, seconds in self.timings.items()},
            "release_digest": self.release_digest,
        }


def decode(data: bytes) -> Image:
    """Pixels of a JPEG or PNG file: uint8 H×W×3 BGR.

    Raises:
        BadFrameError: it is none.
    """
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        image = None
    if image is None:
        raise BadFrameError("these bytes are no picture", remedy="give a whole JPEG or PNG file")
    return np.asarray(image, np.uint8)
