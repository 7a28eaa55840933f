"""The SDK: frames in, masked frames out.

Pictures are ``uint8`` arrays of H×W×3 in the order blue, green, red, as OpenCV gives them.

Example::

    from fleet import MaskingClient, Mode

    with MaskingClient("127.0.0.1:7710") as client:
        for result in client.stream(camera(), policy={"style": "pixelate"}, mode=Mode.LIVE):
            if result.image is not None:
                show(result.image)
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any

import grpc

from fleet.codec import ENCODINGS, MODES, PolicyChanges, check_quality, decode_result, encode_frame, encode_policy
from fleet.results import EncodedFrame, Encoding, Image, MaskedFrame, Mode
from fleet.streaming import MaskStream, SourceFrame
from maskfleet.errors import InvalidInputError, UnavailableError
from maskfleet.logs import correlated, correlation_id
from maskfleet.rpc.channel import MAX_FRAME_BYTES, connect, metadata
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import masking_pb2, masking_service_pb2, masking_service_pb2_grpc

DEFAULT_TIMEOUT = timedelta(seconds=10)
MAX_DEADLINE = timedelta(minutes=10)


class MaskingClient:
    """A connection to the agent on a device. Safe to use from several threads; each stream is its own call.

    Args:
        address: the agent's, ``host:port`` or ``unix:/path``.
        timeout: how long the agent may take to open a stream, or to mask a single picture.
    """

    def __init__(self, address: str, *, timeout: timedelta = DEFAULT_TIMEOUT) -> None:
        if timeout <= timedelta(0):
            raise InvalidInputError(f"a timeout of {timeout} is over before it begins", remedy="give more than zero")
        self.address = address
        self._timeout = timeout.total_seconds()
        self._channel: grpc.Channel | None = connect(address, max_message_bytes=MAX_FRAME_BYTES)

    def __enter__(self) -> MaskingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and every stream on it."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def stream(
        self,
        frames: Iterable[SourceFrame],
        *,
        policy: PolicyChanges = None,
        mode: Mode = Mode.EVERY_FRAME,
        encoding: Encoding | str = Encoding.JPEG,
        jpeg_quality: int | None = None,
        deadline: timedelta | None = None,
        max_in_flight: int | None = None,
    ) -> Generator[MaskedFrame, None, None]:
        """Masks a stream of frames; gives one result for each, in their order, tracks kept from frame to frame.

        ``frames`` is read in a thread of its own. An array may be used again once the next one is asked for. Ending the
        iteration early (``break``, ``close()``) cancels the call.

        Args:
            frames: arrays of uint8, H×W×3, BGR, at most 16384 pixels a side; or :class:`EncodedFrame`.
            policy: differences from the release's own policy, as ``{"style": "solid"}``; or a complete one.
            mode: EVERY_FRAME masks every frame and lets ``frames`` wait; LIVE lets the newest frame win, and each older
                one comes back DROPPED, SUPERSEDED.
            encoding: how pictures travel, both ways: JPEG (small), PNG (lossless), RAW (no coding time, large).
            jpeg_quality: 1 to 100; None for 90 on the way up and the agent's own on the way back.
            deadline: a frame that is not masked within this time of reaching the agent is failed closed, as the
                policy's ``fail_closed`` says; None for no deadline.
            max_in_flight: how many frames may be under way at once; None for the agent's own number.

        Yields:
            One :class:`MaskedFrame` a frame. Its picture is absent when DROPPED; it is never the source's.

        Raises:
            BadPolicyError: the policy has an unknown field or a value out of range (raised at once).
            InvalidInputError: another argument is out of range (raised at once).
            BadFrameError: a frame is no such array.
            UnavailableError: the agent cannot be reached, or went away in the middle.
            DeadlineError: the agent did not open the stream within the client's timeout.
            CapacityError: the agent has no stream left to give.
            Exception: whatever ``frames`` raised, after the results of the frames before.
        """
        way = _encoding(encoding)
        if deadline is not None and not timedelta(milliseconds=1) <= deadline <= MAX_DEADLINE:
            raise InvalidInputError(f"a deadline of {deadline} cannot be kept", remedy="give 1 ms to 10 minutes")
        if max_in_flight is not None and max_in_flight < 1:
            raise InvalidInputError(f"{max_in_flight} frames in flight mask nothing", remedy="give 1 or more")
        config = masking_pb2.StreamConfig(
            mode=MODES[mode],
            policy=encode_policy(policy),
            output_encoding=ENCODINGS[way],
            jpeg_quality=check_quality(jpeg_quality),
            deadline_ms=round(deadline / timedelta(milliseconds=1)) if deadline is not None else 0,
            max_in_flight=max_in_flight or 0,
        )
        stub = self._stub()

        def start(requests: Any) -> Any:
            with correlated(correlation_id()):
                return stub.Mask(requests, metadata=tuple(metadata()))

        return MaskStream(
            start,
            frames,
            config,
            mode=mode,
            encoding=way,
            jpeg_quality=jpeg_quality,
            opening_timeout=self._timeout,
            peer=self._peer,
        ).results()

    def mask_image(
        self,
        image: Image | bytes | EncodedFrame,
        *,
        policy: PolicyChanges = None,
        encoding: Encoding | str = Encoding.PNG,
        jpeg_quality: int | None = None,
    ) -> MaskedFrame:
        """Masks one picture, without tracking.

        Args:
            image: an array of uint8, H×W×3, BGR; or a JPEG or PNG file's bytes.
            policy: as in :meth:`stream`.
            encoding: how an array travels, and how the result comes back.
            jpeg_quality: 1 to 100; None for the default.

        Raises:
            BadFrameError: the picture cannot be read, or is too large.
            BadPolicyError, InvalidInputError: as :meth:`stream`.
            UnavailableError: the agent cannot be reached.
            DeadlineError: it takes longer than the client's timeout.
        """
        way = _encoding(encoding)
        source = EncodedFrame.sniffed(image) if isinstance(image, bytes) else image
        request = masking_service_pb2.MaskImageRequest(
            frame=encode_frame(source, 0, way, jpeg_quality),
            policy=encode_policy(policy),
            output_encoding=ENCODINGS[way],
            jpeg_quality=check_quality(jpeg_quality),
        )
        try:
            with correlated(correlation_id()):
                response = self._stub().MaskImage(request, timeout=self._timeout, metadata=tuple(metadata()))
        except grpc.RpcError as error:
            raise from_rpc_error(error, peer=self._peer) from None
        return decode_result(response.result, 0)

    def is_serving(self) -> bool:
        """Whether the agent has a release to mask with.

        Raises:
            UnavailableError: the agent cannot be reached.
        """
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        try:
            stub = health_pb2_grpc.HealthStub(self._open_channel())
            said = stub.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error, peer=self._peer) from None
        return bool(said.status == health_pb2.HealthCheckResponse.SERVING)

    @property
    def _peer(self) -> str:
        return f"the agent at {self.address}"

    def _open_channel(self) -> grpc.Channel:
        if self._channel is None:
            raise UnavailableError(f"the connection to {self._peer} was closed", remedy="make a new MaskingClient")
        return self._channel

    def _stub(self) -> masking_service_pb2_grpc.MaskingServiceStub:
        return masking_service_pb2_grpc.MaskingServiceStub(self._open_channel())


def _encoding(word: Encoding | str) -> Encoding:
    try:
        return Encoding(word)
    except ValueError:
        words = ", ".join(member.value for member in Encoding)
        raise InvalidInputError(f"there is no encoding {word!r}", remedy=f"use one of {words}") from None
