"""Between the wire's masking messages and the agent's values. The one module of the masking part that sees both."""

from __future__ import annotations

from edge_agent.masking.frames import DEFAULT_JPEG_QUALITY, Encoding, SourceFrame, size_of
from edge_agent.masking.outcomes import Outcome, Reason, Stage
from edge_agent.pipeline import Answer, Wanted
from maskfleet.codec import policy_changes, policy_message
from maskfleet.errors import InvalidInputError, UnsupportedError
from maskfleet.policy import MaskPolicy
from maskfleet.v1 import masking_pb2, masking_service_pb2

_ENCODINGS = {
    masking_pb2.IMAGE_ENCODING_JPEG: Encoding.JPEG,
    masking_pb2.IMAGE_ENCODING_PNG: Encoding.PNG,
    masking_pb2.IMAGE_ENCODING_RAW: Encoding.RAW,
}
_WIRE_ENCODINGS = {ours: wire for wire, ours in _ENCODINGS.items()}
_OUTCOMES = {outcome: masking_pb2.Outcome.Value(f"OUTCOME_{outcome.name}") for outcome in Outcome}
_REASONS = {
    reason: masking_pb2.OutcomeReason.Value(f"OUTCOME_REASON_{reason.name}")
    for reason in Reason
    if reason is not Reason.SOURCE_FRAME
} | {Reason.SOURCE_FRAME: masking_pb2.OUTCOME_REASON_MASKING_FAILED}
_STAGES = {stage: masking_pb2.Stage.Value(f"STAGE_{stage.name}") for stage in Stage}
_MAX_MICROSECONDS = (1 << 32) - 1


def source_frame(frame: masking_pb2.Frame) -> SourceFrame:
    """The picture of a frame.

    Raises:
        InvalidInputError: there is none, or nobody said how it is encoded.
        BadFrameError: a raw picture whose size does not suit its bytes.
        UnsupportedError: it is in shared memory.
    """
    kind = frame.WhichOneof("payload")
    if kind == "encoded":
        encoding = _ENCODINGS.get(frame.encoded.encoding)
        if encoding not in (Encoding.JPEG, Encoding.PNG):
            raise InvalidInputError(
                f"frame {frame.sequence} does not say how it is encoded", remedy="set encoded.encoding to JPEG or PNG"
            )
        return SourceFrame(encoding, frame.encoded.data)
    if kind == "raw":
        if frame.raw.format != masking_pb2.PIXEL_FORMAT_BGR24:
            raise InvalidInputError(
                f"frame {frame.sequence} does not say the order of its bytes", remedy="set raw.format to BGR24"
            )
        source = SourceFrame(Encoding.RAW, frame.raw.data, frame.raw.width, frame.raw.height)
        size_of(source)
        return source
    if kind == "shared_memory":
        raise UnsupportedError("frames in shared memory are not taken yet", remedy="send encoded or raw frames")
    raise InvalidInputError(f"frame {frame.sequence} holds no picture", remedy="set encoded or raw")


def stream_wanted(config: masking_pb2.StreamConfig) -> tuple[Wanted, bool]:
    """What a stream's config asks for, and whether the stream is LIVE.

    Raises:
        InvalidInputError: no mode, or a value out of range.
    """
    if config.mode not in (masking_pb2.STREAM_MODE_LIVE, masking_pb2.STREAM_MODE_EVERY_FRAME):
        raise InvalidInputError("the stream's config says no mode", remedy="set mode to LIVE or EVERY_FRAME")
    wanted = Wanted(
        changes=policy_changes(config.policy),
        encoding=_ENCODINGS.get(config.output_encoding),
        jpeg_quality=_quality(config.jpeg_quality),
        deadline_s=config.deadline_ms / 1000 or None,
    )
    return wanted, config.mode == masking_pb2.STREAM_MODE_LIVE


def image_wanted(request: masking_service_pb2.MaskImageRequest) -> Wanted:
    """What a request for one picture asks for.

    Raises:
        InvalidInputError: a value is out of range.
    """
    return Wanted(
        changes=policy_changes(request.policy),
        encoding=_ENCODINGS.get(request.output_encoding),
        jpeg_quality=_quality(request.jpeg_quality),
    )


def _quality(value: int) -> int:
    if value > 100:
        raise InvalidInputError(f"jpeg_quality is {value}", remedy="give 1 to 100, or 0 for the agent's own")
    return value or DEFAULT_JPEG_QUALITY


def opened_message(credit: int, policy: MaskPolicy, release_digest: str) -> masking_pb2.StreamOpened:
    """The answer to a stream's config."""
    return masking_pb2.StreamOpened(credits=credit, policy=policy_message(policy), release_digest=release_digest)


def result_message(sequence: int, answer: Answer) -> masking_pb2.FrameResult:
    """One frame's result."""
    result = masking_pb2.FrameResult(
        sequence=sequence,
        outcome=_OUTCOMES[answer.outcome],
        reason=_REASONS[answer.reason],
        detail=answer.detail,
        regions=[
            masking_pb2.Region(
                x1=region.x1,
                y1=region.y1,
                x2=region.x2,
                y2=region.y2,
                score=region.score,
                track_id=region.track_id,
                coasted=region.coasted,
            )
            for region in answer.regions
        ],
        timings=[
            masking_pb2.StageTiming(stage=_STAGES[stage], duration_us=min(round(s * 1e6), _MAX_MICROSECONDS))
            for stage, s in answer.stages_s.items()
        ],
        release_digest=answer.release_digest,
    )
    if answer.data is not None and answer.encoding is Encoding.RAW:
        result.raw.width, result.raw.height = answer.width, answer.height
        result.raw.format = masking_pb2.PIXEL_FORMAT_BGR24
        result.raw.data = answer.data
    elif answer.data is not None:
        result.encoded.encoding = _WIRE_ENCODINGS[answer.encoding]
        result.encoded.data = answer.data
    return result
