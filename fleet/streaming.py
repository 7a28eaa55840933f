"""One masking call: source frames up in one thread, results down in the caller's.

Rules:

- One result for each source frame, in the order of the source.
- Each frame spends a credit and each result that the caller took gives one back: a slow caller slows the source
  (EVERY_FRAME) or skips frames (LIVE), and never piles up pictures.
- LIVE holds one frame, the newest. An older one that it replaces gets a DROPPED, SUPERSEDED result made here.
- An error of the source reaches the caller after the results of the frames before it.
- Whatever goes wrong, a frame that has no result from the agent has no picture: nothing falls back to the source.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import grpc

from fleet.codec import check_image, decode_result, encode_frame, superseded
from fleet.results import EncodedFrame, Encoding, Image, MaskedFrame, Mode
from maskfleet.errors import DeadlineError, InternalError, UnavailableError
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import masking_pb2, masking_service_pb2

JOIN_TIMEOUT_S = 2.0
"""How long closing waits for a source that does not give its next frame; its thread is a daemon."""

SourceFrame = Image | EncodedFrame
_Waiting = tuple[int, "masking_pb2.Frame | SourceFrame"]


class MaskStream:
    """The state that the threads of one call share. Used once, through :meth:`results`.

    Args:
        start: begins the call with an iterator of requests.
        frames: the source.
        config: first message of the call.
        encoding: how arrays travel.
        jpeg_quality: 1 to 100; None for the default.
        opening_timeout: seconds within which the agent has to answer the config.
        peer: who is called, for messages.
    """

    def __init__(
        self,
        start: Callable[[Iterator[masking_service_pb2.MaskRequest]], Any],
        frames: Iterable[SourceFrame],
        config: masking_pb2.StreamConfig,
        *,
        mode: Mode,
        encoding: Encoding,
        jpeg_quality: int | None,
        opening_timeout: float,
        peer: str,
    ) -> None:
        self._start = start
        self._frames = frames
        self._config = config
        self._mode = mode
        self._encoding = encoding
        self._jpeg_quality = jpeg_quality
        self._opening_timeout = opening_timeout
        self._peer = peer
        self._changed = threading.Condition()
        self._credits = 0
        self._waiting: _Waiting | None = None
        self._in_flight: deque[int] = deque()
        self._dropped: deque[int] = deque()
        self._source_ended = False
        self._source_error: BaseException | None = None
        self._closed = False
        self._opening_missed = False
        self._requests_ended = threading.Event()

    def results(self) -> Generator[MaskedFrame, None, None]:
        """The results. The call begins with the first one that is asked for, and ends with the generator."""
        source = threading.Thread(target=self._read_source, name="mask-source", daemon=True)
        try:
            call = self._start(self._requests())
        except ValueError:
            raise UnavailableError(
                f"the connection to {self._peer} is closed", remedy="open a stream while the client is open"
            ) from None
        source.start()
        timer = threading.Timer(self._opening_timeout, self._miss_opening, args=(call,))
        timer.daemon = True
        timer.start()
        try:
            self._open(call)
            timer.cancel()
            yield from self._merged(call)
        except grpc.RpcError as error:
            if self._opening_missed:
                raise DeadlineError(
                    f"{self._peer} did not open a stream within {self._opening_timeout:g} s",
                    remedy="check that it runs, or give the client a longer timeout",
                ) from None
            raise from_rpc_error(error, peer=self._peer) from None
        finally:
            timer.cancel()
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            call.cancel()
            source.join(JOIN_TIMEOUT_S)
            self._requests_ended.wait(JOIN_TIMEOUT_S)

    def _open(self, call: Any) -> None:
        response = next(call, None)
        if response is None or response.WhichOneof("kind") != "opened":
            raise InternalError(f"{self._peer} did not open the stream", remedy="check that it is a maskfleet agent")
        with self._changed:
            self._credits = response.opened.credits
            self._changed.notify_all()
        if not response.opened.credits:
            raise InternalError(f"{self._peer} gave no credits", remedy="check that it is a maskfleet agent")

    def _merged(self, call: Any) -> Iterator[MaskedFrame]:
        """Results of the agent and results made here, by sequence."""
        expected = 0
        for on_the_wire, response in enumerate(call):
            result = response.result
            with self._changed:
                if response.WhichOneof("kind") != "result" or not self._in_flight or result.sequence != on_the_wire:
                    raise InternalError(
                        f"{self._peer} sent a result out of order (frame {result.sequence}, {on_the_wire} was due)",
                        remedy="client and agent are of different versions, or the agent has a fault",
                    )
                sequence = self._in_flight.popleft()
                self._credits += 1
                self._changed.notify_all()
            for earlier in self._take_dropped(sequence):
                yield superseded(earlier)
            yield decode_result(result, sequence)
            expected = sequence + 1
            while self._take_one_dropped(expected):
                yield superseded(expected)
                expected += 1
        with self._changed:
            missing = len(self._in_flight) + (0 if self._source_ended and self._waiting is None else 1)
            source_error = self._source_error
        if missing and source_error is None:
            raise UnavailableError(
                f"{self._peer} ended the stream before every frame was answered", remedy="open a new stream"
            )
        for earlier in self._take_dropped(None):
            yield superseded(earlier)
        if source_error is not None:
            raise source_error

    def _take_dropped(self, below: int | None) -> list[int]:
        with self._changed:
            taken = []
            while self._dropped and (below is None or self._dropped[0] < below):
                taken.append(self._dropped.popleft())
            return taken

    def _take_one_dropped(self, sequence: int) -> bool:
        with self._changed:
            if self._dropped and self._dropped[0] == sequence:
                self._dropped.popleft()
                return True
            return False

    def _miss_opening(self, call: Any) -> None:
        self._opening_missed = True
        call.cancel()

    def _read_source(self) -> None:
        """Thread: takes frames from the caller's iterator, whose arrays may be used again once it is asked for more."""
        try:
            for sequence, frame in enumerate(self._frames):
                if not self._offer(sequence, frame):
                    return
        except BaseException as error:  # noqa: BLE001  # the caller's own error, raised again in the caller's thread
            self._source_error = error
        finally:
            with self._changed:
                self._source_ended = True
                self._changed.notify_all()

    def _offer(self, sequence: int, frame: SourceFrame) -> bool:
        """Leaves a frame for the request thread; False once the call is over."""
        waiting: masking_pb2.Frame | SourceFrame
        if self._mode is Mode.EVERY_FRAME:
            waiting = encode_frame(frame, sequence, self._encoding, self._jpeg_quality)
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is None or self._closed)
        else:
            # Most live frames are replaced before they are sent; a copy costs less than encoding.
            waiting = frame if isinstance(frame, EncodedFrame) else check_image(frame).copy()
        with self._changed:
            if self._closed:
                return False
            if self._waiting is not None:
                self._dropped.append(self._waiting[0])
            self._waiting = (sequence, waiting)
            self._changed.notify_all()
        return True

    def _requests(self) -> Iterator[masking_service_pb2.MaskRequest]:
        """Thread of gRPC: the config, then a frame for each credit. Sequences on the wire have no gaps."""
        try:
            yield masking_service_pb2.MaskRequest(config=self._config)
            on_the_wire = 0
            while (taken := self._take_waiting()) is not None:
                sequence, frame = taken
                if not isinstance(frame, masking_pb2.Frame):
                    frame = encode_frame(frame, on_the_wire, self._encoding, self._jpeg_quality)
                frame.sequence = on_the_wire
                on_the_wire += 1
                with self._changed:
                    self._in_flight.append(sequence)
                yield masking_service_pb2.MaskRequest(frame=frame)
        except Exception as error:  # noqa: BLE001  # a frame that cannot be encoded; gRPC would hide it
            with self._changed:
                self._source_error = self._source_error or error
                self._source_ended = self._closed = True
                self._changed.notify_all()
        finally:
            self._requests_ended.set()

    def _take_waiting(self) -> _Waiting | None:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or (self._credits > 0 and self._waiting is not None)
                    or (self._source_ended and self._waiting is None)
                )
            )
            if self._closed or self._waiting is None:
                return None
            taken, self._waiting = self._waiting, None
            self._credits -= 1
            self._changed.notify_all()
            return taken
