"""Between the SDK's values and the wire's messages. The only module of the SDK that sees both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fleet.results import EncodedFrame, Encoding, Image, MaskedFrame, Mode, Outcome, Reason, Region
from maskfleet.codec import changes_message, policy_message
from maskfleet.errors import BadFrameError, BadPolicyError, InternalError, InvalidInputError
from maskfleet.policy import FailClosed, MaskPolicy, Shape, Style, parse_word
from maskfleet.v1 import masking_pb2, policy_pb2

PolicyChanges = MaskPolicy | Mapping[str, Any] | None
"""A complete policy, or some of its fields by name (words or enum members), or None for the release's own."""

MODES = {Mode.LIVE: masking_pb2.STREAM_MODE_LIVE, Mode.EVERY_FRAME: masking_pb2.STREAM_MODE_EVERY_FRAME}
ENCODINGS = {
    Encoding.JPEG: masking_pb2.IMAGE_ENCODING_JPEG,
    Encoding.PNG: masking_pb2.IMAGE_ENCODING_PNG,
    Encoding.RAW: masking_pb2.IMAGE_ENCODING_RAW,
}
_OUTCOMES = {
    masking_pb2.OUTCOME_MASKED: Outcome.MASKED,
    masking_pb2.OUTCOME_COASTED: Outcome.COASTED,
    masking_pb2.OUTCOME_FULL_MASK: Outcome.FULL_MASK,
    masking_pb2.OUTCOME_DROPPED: Outcome.DROPPED,
}
_REASONS = {
    getattr(masking_pb2, f"OUTCOME_REASON_{reason.value}"): reason for reason in Reason if reason is not Reason.UNKNOWN
}
_STAGES = {number: name.removeprefix("STAGE_").lower() for name, number in masking_pb2.Stage.items()}
_WORDS = {"style": Style, "shape": Shape, "fail_closed": FailClosed}
DEFAULT_JPEG_QUALITY = 90
MAX_SIDE = 16384


def encode_policy(changes: PolicyChanges) -> policy_pb2.MaskPolicy:
    """Changes to a policy as a message.

    Raises:
        BadPolicyError: an unknown field, an unknown word or a value out of range.
    """
    if changes is None:
        return policy_pb2.MaskPolicy()
    if isinstance(changes, MaskPolicy):
        return policy_message(changes)
    known = {field.name for field in dataclasses.fields(MaskPolicy)}
    if unknown := sorted(set(changes) - known):
        raise BadPolicyError(
            f"mask policy has unknown fields {', '.join(unknown)}", remedy=f"use {', '.join(sorted(known))}"
        )
    values = {name: value for name, value in changes.items() if value is not None}
    for name, enum_type in _WORDS.items():
        if name in values and not isinstance(values[name], enum_type):
            values[name] = parse_word(enum_type, values[name])
    MaskPolicy().changed(**values)  # raises where a value is out of range
    return changes_message(values)


def encode_frame(
    frame: Image | EncodedFrame, sequence: int, encoding: Encoding, jpeg_quality: int | None
) -> masking_pb2.Frame:
    """A source frame as a message.

    Args:
        frame: uint8 H×W×3 BGR, or a picture that is encoded already and travels as it is.
        sequence: its number on the wire.
        encoding: how an array travels.
        jpeg_quality: 1 to 100; None for 90.

    Raises:
        BadFrameError: no array of that dtype and shape.
    """
    if isinstance(frame, EncodedFrame):
        encoded = masking_pb2.EncodedImage(encoding=ENCODINGS[frame.encoding], data=frame.data)
        return masking_pb2.Frame(sequence=sequence, encoded=encoded)
    pixels = check_image(frame)
    if encoding is Encoding.RAW:
        height, width = pixels.shape[:2]
        raw = masking_pb2.RawImage(
            width=width, height=height, format=masking_pb2.PIXEL_FORMAT_BGR24, data=pixels.tobytes()
        )
        return masking_pb2.Frame(sequence=sequence, raw=raw)
    data = encode_image(pixels, encoding, jpeg_quality)
    return masking_pb2.Frame(
        sequence=sequence, encoded=masking_pb2.EncodedImage(encoding=ENCODINGS[encoding], data=data)
    )


def encode_image(pixels: Image, encoding: Encoding, jpeg_quality: int | None) -> bytes:
    """A JPEG or PNG file of an array of uint8 H×W×3 BGR.

    Raises:
        BadFrameError: it cannot be encoded.
    """
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality or DEFAULT_JPEG_QUALITY] if encoding is Encoding.JPEG else []
    try:
        done, data = cv2.imencode(f".{encoding.value}", pixels, options)
    except cv2.error as error:
        raise BadFrameError(f"a frame of shape {pixels.shape} cannot be encoded ({error.err})") from None
    if not done:
        raise BadFrameError(f"a frame of shape {pixels.shape} cannot be encoded as {encoding.value}")
    return bytes(data)


def check_image(frame: object) -> Image:
    """The frame, if it is a picture: uint8 H×W×3, neither side 0 nor above 16384.

    Raises:
        BadFrameError: it is none.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise BadFrameError(
            f"a frame is {what}", remedy="give numpy arrays of uint8, H×W×3, in the order blue, green, red"
        )
    height, width = frame.shape[:2]
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise BadFrameError(f"a frame is {width}×{height}", remedy=f"give pictures of 1 to {MAX_SIDE} pixels a side")
    return frame


def check_quality(jpeg_quality: int | None) -> int:
    """The quality for the wire: 0 stands for the agent's own.

    Raises:
        InvalidInputError: out of range.
    """
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
        raise InvalidInputError(f"JPEG quality {jpeg_quality} does not exist", remedy="give 1 to 100")
    return jpeg_quality or 0


def decode_result(result: masking_pb2.FrameResult, sequence: int) -> MaskedFrame:
    """A result from its message.

    Args:
        result: as the agent sent it.
        sequence: the frame's number in its source.

    Raises:
        InternalError: it has an outcome that this client does not know. Such a frame is not shown.
    """
    if result.outcome not in _OUTCOMES:
        raise InternalError(
            f"frame {sequence} came back with the unknown outcome {result.outcome}", remedy="install a newer maskfleet"
        )
    outcome = _OUTCOMES[result.outcome]
    payload = result.WhichOneof("payload") if outcome is not Outcome.DROPPED else None
    if outcome is not Outcome.DROPPED and payload not in ("encoded", "raw"):
        raise InternalError(f"frame {sequence} came back as {outcome.value} without a picture")
    return MaskedFrame(
        sequence=sequence,
        outcome=outcome,
        reason=_REASONS.get(result.reason, Reason.UNKNOWN),
        detail=result.detail,
        regions=tuple(
            Region(r.x1, r.y1, r.x2, r.y2, score=r.score, track_id=r.track_id, coasted=r.coasted)
            for r in result.regions
        ),
        timings={_STAGES.get(t.stage, str(t.stage)): t.duration_us / 1e6 for t in result.timings},
        release_digest=result.release_digest,
        encoded=result.encoded.data if payload == "encoded" else None,
        raw=(result.raw.width, result.raw.height, result.raw.data) if payload == "raw" else None,
    )


def superseded(sequence: int) -> MaskedFrame:
    """The result of a frame that a newer one replaced before it was sent."""
    return MaskedFrame(
        sequence, Outcome.DROPPED, Reason.SUPERSEDED, detail="a newer frame took its place before this one was sent"
    )
