"""MaskingService: frames in, masked frames out.

Each stream has two threads: gRPC's own, which masks and answers, and one that reads, so that frames keep coming in
while one is masked. A stream holds a worker of the server for as long as it lasts, so their number is limited below
that of the workers; single pictures and health checks always find one free.

A frame that cannot be read or masked is answered with an outcome and the stream goes on. A client that breaks the
protocol gets an error, after the answers to the frames before it. Single pictures get errors as statuses.

Example::

    servicer = MaskingServicer(serving, observe=telemetry.frame)
    server = make_server(workers=servicer.workers, max_message_bytes=MAX_FRAME_BYTES)
    add_MaskingServiceServicer_to_server(servicer, server)
    ...
    servicer.stop()        # health is set to NOT_SERVING first
    server.stop(grace=5)
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc

from edge_agent import codec
from edge_agent.masking.outcomes import Reason
from edge_agent.pipeline import Answer, FrameMasker, Observer, unobserved
from edge_agent.serving import Serving
from edge_agent.waiting import FrameQueue, Waiting
from maskfleet.clock import Clock, SystemClock
from maskfleet.errors import CapacityError, DeadlineError, FleetError, InvalidInputError, UnavailableError
from maskfleet.v1 import masking_pb2, masking_service_pb2, masking_service_pb2_grpc

MAX_STREAMS = 8
RESERVED_WORKERS = 4
"""Workers that no stream may hold: for single pictures, health and reflection."""

DEFAULT_CREDITS = 4
MAX_CREDITS = 32
CONFIG_TIMEOUT_S = 10.0
"""A stream that does not say what it wants within this time gives its worker back."""

_DETAILS = {
    Reason.SUPERSEDED: "a newer frame took its place",
    Reason.SHUTTING_DOWN: "the agent is stopping",
}


class MaskingServicer(masking_service_pb2_grpc.MaskingServiceServicer):
    """Masks what clients send.

    Args:
        serving: where the release comes from.
        max_streams: how many streams may be open at once.
        clock: where time comes from.
        observe: is told of every frame.
        config_timeout_s: how long a stream may take to send its config.
    """

    def __init__(
        self,
        serving: Serving,
        *,
        max_streams: int = MAX_STREAMS,
        clock: Clock | None = None,
        observe: Observer = unobserved,
        config_timeout_s: float = CONFIG_TIMEOUT_S,
    ) -> None:
        self._serving = serving
        self._max_streams = max_streams
        self._clock = clock or SystemClock()
        self._observe = observe
        self._config_timeout_s = config_timeout_s
        self._lock = threading.Lock()
        self._streams = 0
        self._queues: set[FrameQueue] = set()
        self._stopping = False

    @property
    def workers(self) -> int:
        """How many workers its server needs."""
        return self._max_streams + RESERVED_WORKERS

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._streams

    def stop(self) -> None:
        """Takes no more work: frames that are being masked are finished, those that wait are dropped and answered."""
        with self._lock:
            self._stopping = True
            waiting = list(self._queues)
        for frames in waiting:
            frames.stop()

    def Mask(  # noqa: N802  # gRPC's name
        self, request_iterator: Iterator[masking_service_pb2.MaskRequest], context: grpc.ServicerContext
    ) -> Iterator[masking_service_pb2.MaskResponse]:
        with self._admitted():
            reader = _Reader(request_iterator, self._clock)
            context.add_callback(reader.abandon)
            wanted, live = codec.stream_wanted(reader.config(self._config_timeout_s))
            masker = FrameMasker(self._serving, wanted, clock=self._clock, observe=self._observe)
            credit = min(reader.asked or DEFAULT_CREDITS, MAX_CREDITS)
            frames = FrameQueue(live=live, credit=credit)
            with self._stopped_with_us(frames):
                release = self._serving.current()
                digest = release.release_digest if release is not None else ""
                opened = codec.opened_message(credit, masker.policy(release), digest)
                reader.begin(frames)
                yield masking_service_pb2.MaskResponse(opened=opened)
                last: int | None = None
                while (waiting := frames.take()) is not None:
                    passed = 1 if last is None else waiting.sequence - last
                    answer = self._answer(masker, waiting, passed)
                    if waiting.source is not None:
                        last = waiting.sequence
                    frames.answered()
                    result = codec.result_message(waiting.sequence, answer)
                    del waiting, answer  # a picture is not kept while the client takes its time
                    yield masking_service_pb2.MaskResponse(result=result)

    def MaskImage(  # noqa: N802  # gRPC's name
        self, request: masking_service_pb2.MaskImageRequest, context: grpc.ServicerContext
    ) -> masking_service_pb2.MaskImageResponse:
        if self._stopping:
            raise UnavailableError("the agent is stopping", remedy="try again when it is back")
        arrived = self._clock.monotonic()
        wanted = codec.image_wanted(request)
        source = codec.source_frame(request.frame)
        masker = FrameMasker(self._serving, wanted, tracking=False, clock=self._clock, observe=self._observe)
        answer = masker.mask_or_raise(source, arrived=arrived)
        return masking_service_pb2.MaskImageResponse(result=codec.result_message(request.frame.sequence, answer))

    def _answer(self, masker: FrameMasker, waiting: Waiting, passed: int) -> Answer:
        if waiting.source is None:
            reason = waiting.dropped or Reason.SHUTTING_DOWN
            return masker.dropped(reason, _DETAILS[reason], arrived=waiting.arrived)
        return masker.mask(waiting.source, arrived=waiting.arrived, frames=passed)

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        with self._lock:
            if self._stopping:
                raise UnavailableError("the agent is stopping", remedy="open the stream when it is back")
            if self._streams >= self._max_streams:
                raise CapacityError(
                    f"{self._streams} streams are open, as many as this agent takes",
                    remedy="close a stream, or start the agent with a larger --max-streams",
                )
            self._streams += 1
        try:
            yield
        finally:
            with self._lock:
                self._streams -= 1

    @contextlib.contextmanager
    def _stopped_with_us(self, frames: FrameQueue) -> Iterator[None]:
        with self._lock:
            self._queues.add(frames)
            late = self._stopping
        if late:
            frames.stop()
        try:
            yield
        finally:
            frames.abandon()
            with self._lock:
                self._queues.discard(frames)


class _Reader:
    """The thread that reads a stream's requests. It ends with the call: gRPC ends its iterator then."""

    def __init__(self, requests: Iterator[masking_service_pb2.MaskRequest], clock: Clock) -> None:
        self._requests = requests
        self._clock = clock
        self._first: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._begun = threading.Event()
        self._frames: FrameQueue | None = None
        self._abandoned = False
        self.asked = 0
        threading.Thread(target=self._read, name="mask-reader", daemon=True).start()

    def config(self, timeout_s: float) -> masking_pb2.StreamConfig:
        """The config, which is the first message.

        Raises:
            InvalidInputError: the first message is none, or there is none.
            DeadlineError: none came in time.
        """
        try:
            first = self._first.get(timeout=timeout_s)
        except queue.Empty:
            raise DeadlineError(
                f"the stream sent no config within {timeout_s:g} s", remedy="send the config first, at once"
            ) from None
        if first is None or first.WhichOneof("kind") != "config":
            raise InvalidInputError("the stream does not begin with its config", remedy="send the config first")
        config: masking_pb2.StreamConfig = first.config
        self.asked = config.max_in_flight
        return config

    def begin(self, frames: FrameQueue) -> None:
        """Reads on, into this queue."""
        self._frames = frames
        self._begun.set()
        if self._abandoned:
            frames.abandon()

    def abandon(self) -> None:
        """The call is over."""
        self._abandoned = True
        self._begun.set()
        self._first.put(None)
        if self._frames is not None:
            self._frames.abandon()

    def _read(self) -> None:
        try:
            self._first.put(next(self._requests, None))
        except Exception:  # noqa: BLE001  # the call is over, however it ended
            self._first.put(None)
            return
        self._begun.wait()
        frames = self._frames
        if frames is None:
            return
        try:
            if self._read_frames(frames):
                frames.end()
        except FleetError as error:
            frames.end(error)
        except Exception:  # noqa: BLE001  # gRPC's word for a call that is over
            frames.abandon()

    def _read_frames(self, frames: FrameQueue) -> bool:
        """Whether the client has said all that it had to say; otherwise nobody wants more."""
        due: int | None = None
        for request in self._requests:
            arrived = self._clock.monotonic()
            if request.WhichOneof("kind") != "frame":
                raise InvalidInputError(
                    "a message after the config holds no frame", remedy="send one config, then frames"
                )
            sequence = request.frame.sequence
            if due is not None and sequence != due:
                raise InvalidInputError(
                    f"frame {sequence} came where {due} is due", remedy="count frames up by one, without gaps"
                )
            due = sequence + 1
            if not frames.put(sequence, arrived, codec.source_frame(request.frame)):
                return False
        return True
