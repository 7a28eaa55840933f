"""MaskingService over real gRPC on loopback, with a real engine and real pictures."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_agent.engines.engine import Engine, FloatArray
from edge_agent.engines.loading import load
from edge_agent.masking.styles import GREY
from edge_agent.pipeline import FrameRecord
from edge_agent.servicer import DEFAULT_CREDITS, MaskingServicer
from edge_agent.serving import LoadedRelease, Serving
from maskfleet.decoding import decoder_spec
from maskfleet.errors import (
    BadFrameError,
    BadPolicyError,
    CapacityError,
    DeadlineError,
    EngineError,
    FleetError,
    InvalidInputError,
    NoEngineError,
    UnavailableError,
    UnsupportedError,
)
from maskfleet.policy import MaskPolicy, Style
from maskfleet.rpc.channel import MAX_FRAME_BYTES, connect
from maskfleet.rpc.server import add_standard_services, bind, make_server
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import masking_pb2 as pb
from maskfleet.v1 import masking_service_pb2 as rpc
from maskfleet.v1 import masking_service_pb2_grpc, policy_pb2
from model_compiler.prepare import prepare

SPEC = decoder_spec("yunet")
SERVICE = "maskfleet.v1.MaskingService"
WAIT_S = 30


class Gated:
    """A real engine that waits at a gate, so that a test decides when a frame is done."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.fails = False

    @property
    def info(self) -> Any:
        return self._engine.info

    def infer(self, blob: FloatArray) -> Any:
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        if self.fails:
            raise RuntimeError("a fault")
        return self._engine.infer(blob)

    def close(self) -> None:
        pass


class Agent:
    """A server with a servicer, and what a test wants to reach in it."""

    def __init__(self, engine: Engine, *, max_streams: int = 3, config_timeout_s: float = 10.0) -> None:
        self.engine = Gated(engine)
        self.serving = Serving()
        self.release = LoadedRelease("r-1", "sha256:one", self.engine, SPEC, MaskPolicy(min_confidence=0.5))
        self.serving.swap(self.release)
        self.records: list[FrameRecord] = []
        self.servicer = MaskingServicer(
            self.serving,
            max_streams=max_streams,
            observe=self.records.append,
            config_timeout_s=config_timeout_s,
        )
        self.server = make_server(workers=self.servicer.workers, max_message_bytes=MAX_FRAME_BYTES)
        masking_service_pb2_grpc.add_MaskingServiceServicer_to_server(self.servicer, self.server)
        self.health = add_standard_services(self.server, [SERVICE])
        self.address = bind(self.server, "127.0.0.1:0")
        self.server.start()
        self.channel = connect(self.address, max_message_bytes=MAX_FRAME_BYTES)
        self.stub = masking_service_pb2_grpc.MaskingServiceStub(self.channel)

    def close(self) -> None:
        self.engine.gate.set()
        self.channel.close()
        self.server.stop(0).wait()

    def image(self, frame: pb.Frame, **more: Any) -> pb.FrameResult:
        try:
            return self.stub.MaskImage(rpc.MaskImageRequest(frame=frame, **more), timeout=WAIT_S).result
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None


class Stream:
    """A client that says what it likes, also what it should not."""

    def __init__(self, agent: Agent, config: pb.StreamConfig | None) -> None:
        self._requests: queue.SimpleQueue[rpc.MaskRequest | None] = queue.SimpleQueue()
        self._call = agent.stub.Mask(iter(self._requests.get, None), timeout=WAIT_S)
        self._sequence = 0
        if config is not None:
            self._requests.put(rpc.MaskRequest(config=config))

    def opened(self) -> pb.StreamOpened:
        return self._next().opened

    def send(self, frame: pb.Frame, *, sequence: int | None = None) -> None:
        frame.sequence = self._sequence if sequence is None else sequence
        self._sequence += 1
        self.say(rpc.MaskRequest(frame=frame))

    def say(self, request: rpc.MaskRequest) -> None:
        self._requests.put(rpc.MaskRequest.FromString(request.SerializeToString()))

    def end(self) -> None:
        self._requests.put(None)

    def cancel(self) -> None:
        self._call.cancel()
        self.end()

    def result(self) -> pb.FrameResult:
        return self._next().result

    def results(self) -> list[pb.FrameResult]:
        found = []
        while True:
            try:
                found.append(next(self._call).result)
            except StopIteration:
                return found
            except grpc.RpcError as error:
                raise from_rpc_error(error) from None

    def error(self) -> FleetError:
        try:
            while True:
                self._next()
        except FleetError as error:
            self.end()
            return error

    def _next(self) -> rpc.MaskResponse:
        try:
            response: rpc.MaskResponse = next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return response


@pytest.fixture(scope="module")
def engine(testdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("engine") / "yunet.onnx"
    model = (testdata / "models" / "yunet_n_dynamic.onnx").read_bytes()
    path.write_bytes(prepare(model, SPEC, 320, 320).model)
    return load("ort-cpu", path, decoder=SPEC, threads=2)


@pytest.fixture
def agent(engine: Engine) -> Iterator[Agent]:
    running = Agent(engine)
    yield running
    running.close()


@pytest.fixture(scope="module")
def picture(testdata: Path) -> bytes:
    return (testdata / "images" / "Test3.jpg").read_bytes()


@pytest.fixture(scope="module")
def faces(testdata: Path) -> list[list[float]]:
    found: list[list[float]] = json.loads((testdata / "images" / "faces.json").read_text())["Test3.jpg"]
    return found


def jpeg(data: bytes) -> pb.Frame:
    return pb.Frame(encoded=pb.EncodedImage(encoding=pb.IMAGE_ENCODING_JPEG, data=data))


def raw(width: int, height: int, data: bytes) -> pb.Frame:
    return pb.Frame(raw=pb.RawImage(width=width, height=height, format=pb.PIXEL_FORMAT_BGR24, data=data))


def small(value: int = 120) -> pb.Frame:
    return raw(32, 24, bytes([value]) * (32 * 24 * 3))


def every_frame(**more: Any) -> pb.StreamConfig:
    return pb.StreamConfig(mode=pb.STREAM_MODE_EVERY_FRAME, **more)


def live(**more: Any) -> pb.StreamConfig:
    return pb.StreamConfig(mode=pb.STREAM_MODE_LIVE, **more)


def shown(result: pb.FrameResult) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(result.encoded.data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread does and tells nobody."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


# -- single pictures ---------------------------------------------------------------------------------------------


def test_a_picture_comes_back_with_every_face_masked(agent: Agent, picture: bytes, faces: list[list[float]]) -> None:
    solid = policy_pb2.MaskPolicy(style=policy_pb2.MASK_STYLE_SOLID, shape=policy_pb2.MASK_SHAPE_RECTANGLE)
    result = agent.image(jpeg(picture), policy=solid, output_encoding=pb.IMAGE_ENCODING_PNG)
    assert (result.outcome, result.reason) == (pb.OUTCOME_MASKED, pb.OUTCOME_REASON_DETECTED)
    assert result.release_digest == "sha256:one"
    assert len(result.regions) == len(faces)
    masked = shown(result)
    for x1, y1, x2, y2 in faces:
        assert (masked[y1 + 5 : y2 - 5, x1 + 5 : x2 - 5] == GREY).all()  # type: ignore[misc]  # whole pixels
    assert {t.stage for t in result.timings} >= {pb.STAGE_DECODE, pb.STAGE_INFER, pb.STAGE_MASK, pb.STAGE_TOTAL}


def bad_images(picture: bytes) -> dict[str, tuple[pb.Frame, type[FleetError], grpc.StatusCode]]:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    big = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    at = big.index(b"\xff\xc0") + 5
    return {
        "a corrupt JPEG": (jpeg(picture[: len(picture) // 2]), BadFrameError, invalid),
        "no picture": (pb.Frame(), InvalidInputError, invalid),
        "a picture of no encoding": (pb.Frame(encoded=pb.EncodedImage(data=picture)), InvalidInputError, invalid),
        "a frame of the wrong size for its bytes": (raw(10, 10, bytes(299)), BadFrameError, invalid),
        "a frame of 0x0": (raw(0, 0, b""), BadFrameError, invalid),
        "a frame of 20000x20000": (raw(20_000, 20_000, b"x"), BadFrameError, invalid),
        "a JPEG of 20000x20000": (jpeg(big[:at] + b"\x4e\x20\x4e\x20" + big[at + 4 :]), BadFrameError, invalid),
        "a raw frame of no format": (
            pb.Frame(raw=pb.RawImage(width=1, height=1, data=bytes(3))),
            InvalidInputError,
            invalid,
        ),
        "shared memory": (
            pb.Frame(shared_memory=pb.SharedMemoryImage(segment="s")),
            UnsupportedError,
            grpc.StatusCode.UNIMPLEMENTED,
        ),
    }


def test_bad_pictures_get_the_right_error_and_status(agent: Agent, picture: bytes) -> None:
    for name, (frame, kind, status) in bad_images(picture).items():
        with pytest.raises(grpc.RpcError) as caught:
            agent.stub.MaskImage(rpc.MaskImageRequest(frame=frame), timeout=WAIT_S)
        assert caught.value.code() is status, name
        error = from_rpc_error(caught.value)
        assert type(error) is kind, name
        assert error.remedy, name


def test_without_an_engine_or_with_one_that_fails_a_picture_is_refused(agent: Agent) -> None:
    agent.engine.fails = True
    with pytest.raises(EngineError):
        agent.image(small())
    agent.serving.swap(None)
    with pytest.raises(NoEngineError):
        agent.image(small())
    with pytest.raises(BadPolicyError):
        agent.image(small(), policy=policy_pb2.MaskPolicy(margin=5.0))
    with pytest.raises(InvalidInputError, match="jpeg_quality"):
        agent.image(small(), jpeg_quality=101)


# -- streams -----------------------------------------------------------------------------------------------------


def test_every_frame_comes_back_once_in_order_with_its_tracks(agent: Agent, picture: bytes) -> None:
    stream = Stream(agent, every_frame(jpeg_quality=70))
    opened = stream.opened()
    assert (opened.credits, opened.release_digest) == (DEFAULT_CREDITS, "sha256:one")
    assert opened.policy.min_confidence == pytest.approx(0.5)
    results = []
    for number in range(12):
        stream.send(jpeg(picture))
        if number >= opened.credits - 1:
            results.append(stream.result())
    stream.end()
    results += stream.results()
    assert [r.sequence for r in results] == list(range(12))
    assert {r.outcome for r in results} == {pb.OUTCOME_MASKED}
    assert {tuple(sorted(region.track_id for region in r.regions)) for r in results} == {(1, 2, 3)}
    assert len(agent.records) == 12


def test_an_engine_swap_while_streaming_loses_nothing(agent: Agent, picture: bytes, engine: Engine) -> None:
    stream = Stream(agent, every_frame())
    stream.opened()
    digests = []
    for number in range(10):
        if number == 5:
            policy = MaskPolicy(style=Style.SOLID, min_confidence=0.5)
            agent.serving.swap(LoadedRelease("r-2", "sha256:two", Gated(engine), SPEC, policy))
        stream.send(jpeg(picture))
        result = stream.result()
        assert result.outcome == pb.OUTCOME_MASKED
        assert [region.track_id for region in result.regions] == [1, 2, 3]
        digests.append(result.release_digest)
    stream.end()
    assert stream.results() == []
    assert digests == ["sha256:one"] * 5 + ["sha256:two"] * 5


def test_live_the_newest_frame_wins_and_the_others_say_so_in_order(agent: Agent) -> None:
    agent.engine.gate.clear()
    stream = Stream(agent, live())
    stream.opened()
    stream.send(small())
    assert agent.engine.entered.acquire(timeout=WAIT_S)
    for _ in range(9):
        stream.send(small())
    stream.end()
    # The tenth frame is read before the first is done: nothing else is left to wait for.
    until(lambda: _last_read(agent))
    agent.engine.gate.set()
    results = stream.results()
    assert [r.sequence for r in results] == list(range(10))
    assert [r.outcome for r in results] == [pb.OUTCOME_MASKED, *[pb.OUTCOME_DROPPED] * 8, pb.OUTCOME_MASKED]
    assert {r.reason for r in results[1:9]} == {pb.OUTCOME_REASON_SUPERSEDED}
    assert all(not r.HasField("raw") and r.detail for r in results[1:9])


def _last_read(agent: Agent) -> bool:
    (frames,) = agent.servicer._queues
    with frames._changed:
        return frames._ended


def test_a_corrupt_frame_is_dropped_and_the_stream_goes_on(agent: Agent, picture: bytes) -> None:
    stream = Stream(agent, every_frame())
    stream.opened()
    stream.send(jpeg(picture))
    stream.send(jpeg(picture[:4000]))
    stream.send(jpeg(picture))
    stream.end()
    good, bad, again = stream.results()
    assert (bad.outcome, bad.reason) == (pb.OUTCOME_DROPPED, pb.OUTCOME_REASON_DECODE_FAILED)
    assert bad.WhichOneof("payload") is None
    assert "too early" in bad.detail
    assert good.outcome == again.outcome == pb.OUTCOME_MASKED


def test_an_engine_that_fails_gives_full_masks_and_no_source(agent: Agent) -> None:
    stream = Stream(agent, every_frame())
    stream.opened()
    agent.engine.fails = True
    stream.send(small(200))
    result = stream.result()
    assert (result.outcome, result.reason) == (pb.OUTCOME_FULL_MASK, pb.OUTCOME_REASON_ENGINE_FAILED)
    assert set(result.raw.data) == {GREY}
    assert (result.raw.width, result.raw.height) == (32, 24)
    agent.serving.swap(None)
    stream.send(small(200))
    result = stream.result()
    assert (result.reason, set(result.raw.data)) == (pb.OUTCOME_REASON_NO_ENGINE, {GREY})
    stream.end()
    assert stream.results() == []


def test_a_stream_may_ask_for_more_than_its_release_masks_but_not_for_less(agent: Agent) -> None:
    weaker = policy_pb2.MaskPolicy(margin=0.0, min_confidence=0.99, coast_frames=0, style=policy_pb2.MASK_STYLE_SOLID)
    policy = Stream(agent, every_frame(policy=weaker)).opened().policy
    assert (policy.margin, policy.min_confidence, policy.coast_frames) == (pytest.approx(0.2), pytest.approx(0.5), 10)
    assert policy.style == policy_pb2.MASK_STYLE_SOLID
    stronger = Stream(agent, every_frame(policy=policy_pb2.MaskPolicy(margin=0.75))).opened().policy
    assert stronger.margin == pytest.approx(0.75)


# -- clients that break the contract -----------------------------------------------------------------------------


def test_a_stream_that_does_not_begin_with_a_good_config_is_refused(agent: Agent) -> None:
    no_config = Stream(agent, None)
    no_config.send(small())
    assert isinstance(no_config.error(), InvalidInputError)
    nothing = Stream(agent, None)
    nothing.end()
    assert isinstance(nothing.error(), InvalidInputError)
    assert "mode" in str(Stream(agent, pb.StreamConfig()).error())
    assert isinstance(Stream(agent, every_frame(policy=policy_pb2.MaskPolicy(strength=3))).error(), BadPolicyError)


def test_a_stream_that_says_nothing_gives_its_worker_back(engine: Engine) -> None:
    agent = Agent(engine, config_timeout_s=0.05)
    try:
        assert isinstance(Stream(agent, None).error(), DeadlineError)
    finally:
        agent.close()


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (rpc.MaskRequest(config=every_frame()), InvalidInputError),
        (rpc.MaskRequest(), InvalidInputError),
        (rpc.MaskRequest(frame=pb.Frame(sequence=7, raw=small().raw)), InvalidInputError),
        (rpc.MaskRequest(frame=pb.Frame(sequence=0, raw=small().raw)), InvalidInputError),
        (
            rpc.MaskRequest(frame=pb.Frame(sequence=1, raw=pb.RawImage(width=4, height=4, format=1, data=b"x"))),
            BadFrameError,
        ),
        (rpc.MaskRequest(frame=pb.Frame(sequence=1, shared_memory=pb.SharedMemoryImage())), UnsupportedError),
    ],
    ids=["a second config", "nothing", "a gap", "a sequence twice", "wrong bytes", "shared memory"],
)
def test_a_broken_contract_ends_the_stream_after_the_frames_before_it(
    agent: Agent, second: rpc.MaskRequest, kind: type[FleetError]
) -> None:
    stream = Stream(agent, every_frame())
    stream.opened()
    stream.send(small())
    stream.say(second)
    assert stream.result().sequence == 0
    error = stream.error()
    assert type(error) is kind
    assert error.remedy


def test_more_frames_than_credits_end_an_every_frame_stream(agent: Agent) -> None:
    agent.engine.gate.clear()
    stream = Stream(agent, every_frame(max_in_flight=2))
    assert stream.opened().credits == 2
    for _ in range(3):
        stream.send(small())
    assert agent.engine.entered.acquire(timeout=WAIT_S)
    until(lambda: _last_read(agent))
    agent.engine.gate.set()
    assert [stream.result().sequence for _ in range(2)] == [0, 1]
    assert isinstance(stream.error(), CapacityError)


def test_more_streams_than_there_is_room_for_are_refused_and_pictures_still_get_through(agent: Agent) -> None:
    streams = [Stream(agent, every_frame()) for _ in range(3)]
    for stream in streams:
        stream.opened()
    assert isinstance(Stream(agent, every_frame()).error(), CapacityError)
    assert agent.image(small()).outcome == pb.OUTCOME_MASKED
    for stream in streams:
        stream.end()
        assert stream.results() == []
    late = Stream(agent, every_frame())
    assert late.opened().credits
    late.end()


def test_a_client_that_goes_away_gives_its_worker_back(agent: Agent) -> None:
    for _ in range(6):
        stream = Stream(agent, every_frame())
        stream.opened()
        stream.send(small())
        stream.cancel()
        until(lambda: agent.servicer.streams == 0)


# -- the end -----------------------------------------------------------------------------------------------------


def test_an_agent_that_stops_finishes_the_frame_at_hand_and_answers_the_others(agent: Agent) -> None:
    agent.engine.gate.clear()
    stream = Stream(agent, every_frame())
    stream.opened()
    for _ in range(3):
        stream.send(small())
    assert agent.engine.entered.acquire(timeout=WAIT_S)
    (frames,) = agent.servicer._queues
    until(lambda: len(frames._frames) == 2)
    agent.servicer.stop()
    agent.engine.gate.set()
    results = [stream.result() for _ in range(3)]
    assert [r.sequence for r in results] == [0, 1, 2]
    assert results[0].outcome == pb.OUTCOME_MASKED
    assert {r.reason for r in results[1:]} == {pb.OUTCOME_REASON_SHUTTING_DOWN}
    assert isinstance(stream.error(), UnavailableError)
    assert isinstance(Stream(agent, every_frame()).error(), UnavailableError)
    with pytest.raises(UnavailableError):
        agent.image(small())


def test_health_says_what_it_is_told(agent: Agent) -> None:
    stub = health_pb2_grpc.HealthStub(agent.channel)
    ask = health_pb2.HealthCheckRequest(service=SERVICE)
    assert stub.Check(ask).status == health_pb2.HealthCheckResponse.NOT_SERVING
    agent.health.set(serving=True)
    assert stub.Check(ask).status == health_pb2.HealthCheckResponse.SERVING
