"""A masking service that does on request what agents do on bad days."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from fleet import MaskingClient
from maskfleet.rpc.server import bind, make_server
from maskfleet.v1 import masking_pb2, masking_service_pb2, masking_service_pb2_grpc


class Agent(masking_service_pb2_grpc.MaskingServiceServicer):
    """Inverts pictures, so that a test sees that they went through. Steps wait for ``gate`` where it is set."""

    def __init__(self) -> None:
        self.credits = 2
        self.gate: queue.Queue[None] | None = None
        self.most_in_flight = 0
        self.config = masking_pb2.StreamConfig()
        self.seen: list[int] = []
        self.ended = threading.Event()
        self.opening: Callable[[], None] = lambda: None
        self.change: Callable[[masking_pb2.FrameResult], masking_pb2.FrameResult] = lambda result: result
        self.last: int | None = None

    def Mask(self, requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        context.add_callback(self.ended.set)
        self.config.CopyFrom(next(requests).config)
        self.opening()
        yield masking_service_pb2.MaskResponse(opened=masking_pb2.StreamOpened(credits=self.credits))
        arrived: queue.Queue[Any] = queue.Queue()
        reader = threading.Thread(target=self._read, args=(requests, arrived), daemon=True)
        reader.start()
        while (request := arrived.get()) is not None:
            waiting = sum(1 for other in list(arrived.queue) if other is not None)
            self.most_in_flight = max(self.most_in_flight, waiting + 1)
            if self.gate is not None:
                self.gate.get()
            self.seen.append(request.frame.sequence)
            yield masking_service_pb2.MaskResponse(result=self.change(masked(request.frame)))
            if request.frame.sequence == self.last:
                return

    @staticmethod
    def _read(requests: Any, arrived: queue.Queue[Any]) -> None:
        try:
            for request in requests:
                arrived.put(request)
        except grpc.RpcError:
            pass
        arrived.put(None)

    def MaskImage(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.config.policy.CopyFrom(request.policy)
        self.opening()
        return masking_service_pb2.MaskImageResponse(result=masked(request.frame))


def masked(frame: masking_pb2.Frame) -> masking_pb2.FrameResult:
    result = masking_pb2.FrameResult(
        sequence=frame.sequence,
        outcome=masking_pb2.OUTCOME_MASKED,
        reason=masking_pb2.OUTCOME_REASON_DETECTED,
        regions=[masking_pb2.Region(x1=1, y1=2, x2=3, y2=4, score=0.5, track_id=7)],
        timings=[masking_pb2.StageTiming(stage=masking_pb2.STAGE_TOTAL, duration_us=1500)],
        release_digest="sha256:00",
    )
    if frame.WhichOneof("payload") == "raw":
        result.raw.CopyFrom(frame.raw)
        result.raw.data = bytes(255 - b for b in frame.raw.data)
    else:
        pixels = cv2.imdecode(np.frombuffer(frame.encoded.data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        result.encoded.CopyFrom(frame.encoded)
        result.encoded.data = cv2.imencode(".png", 255 - pixels)[1].tobytes()
    return result


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def server(agent: Agent) -> Iterator[tuple[grpc.Server, str]]:
    server = make_server(workers=4, max_message_bytes=64 << 20)
    masking_service_pb2_grpc.add_MaskingServiceServicer_to_server(agent, server)
    address = bind(server, "127.0.0.1:0")
    server.start()
    yield server, address
    server.stop(0).wait()


@pytest.fixture
def client(server: tuple[grpc.Server, str]) -> Iterator[MaskingClient]:
    with MaskingClient(server[1]) as client:
        yield client
