"""The SDK against a masking service that does on request what agents do on bad days."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from fleet import EncodedFrame, Encoding, MaskedFrame, MaskingClient, Mode, Outcome, Reason, Style
from maskfleet.errors import (
    BadFrameError,
    BadPolicyError,
    CapacityError,
    DeadlineError,
    FleetError,
    InternalError,
    InvalidInputError,
    UnavailableError,
)
from maskfleet.policy import MaskPolicy
from maskfleet.v1 import masking_pb2

FRAME = np.full((24, 32, 3), 200, np.uint8)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name == "mask-source"] == []


def numbered(count: int) -> Iterator[np.ndarray[Any, Any]]:
    """Frames that all use the same memory, as cameras do."""
    frame = FRAME.copy()
    for number in range(count):
        frame[:] = number
        yield frame


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_every_frame_comes_back_once_and_in_order(agent: Any, client: MaskingClient, encoding: str) -> None:
    results = list(client.stream(numbered(30), encoding=encoding))
    assert [r.sequence for r in results] == list(range(30))
    assert [int(r.image[0, 0, 0]) for r in results if r.image is not None] == [255 - n for n in range(30)]
    assert agent.most_in_flight <= agent.credits


def test_a_result_says_what_was_done(client: MaskingClient) -> None:
    (result,) = client.stream([FRAME])
    assert (result.outcome, result.reason, result.release_digest) == (Outcome.MASKED, Reason.DETECTED, "sha256:00")
    assert result.regions[0].track_id == 7
    assert result.timings == {"total": 0.0015}
    assert result.image is not None
    assert (result.image.dtype, result.image.shape, result.image.flags.writeable) == (np.uint8, (24, 32, 3), True)
    assert result.image is result.image
    assert result.encoded is not None


def test_what_the_caller_asks_for_reaches_the_agent(agent: Any, client: MaskingClient) -> None:
    policy = {"style": "pixelate", "margin": 0.5, "coast_frames": None}
    deadline = timedelta(milliseconds=40)
    list(client.stream([FRAME], policy=policy, jpeg_quality=80, deadline=deadline, max_in_flight=3))
    assert agent.config.mode == masking_pb2.STREAM_MODE_EVERY_FRAME
    assert agent.config.policy.style == 2
    assert agent.config.policy.margin == 0.5
    assert not agent.config.policy.HasField("coast_frames")
    assert (agent.config.jpeg_quality, agent.config.deadline_ms, agent.config.max_in_flight) == (80, 40, 3)


def test_a_picture_that_is_a_file_already_travels_as_it_is(client: MaskingClient) -> None:
    data = cv2.imencode(".jpg", FRAME)[1].tobytes()
    (result,) = client.stream([EncodedFrame(data)])
    assert result.image is not None
    assert abs(int(result.image[5, 5, 1]) - 55) <= 2


def test_no_frames_give_no_results(client: MaskingClient) -> None:
    assert list(client.stream([])) == []


def test_live_lets_the_newest_frame_win_and_answers_for_the_others(agent: Any, client: MaskingClient) -> None:
    agent.credits, agent.gate = 1, queue.Queue()
    first_sent, all_given = threading.Event(), threading.Event()

    def camera() -> Iterator[np.ndarray[Any, Any]]:
        frames = numbered(10)
        yield next(frames)
        assert first_sent.wait(10)
        yield from frames
        all_given.set()

    stream = client.stream(camera(), mode=Mode.LIVE, encoding=Encoding.RAW)
    results: list[MaskedFrame] = []
    taker = threading.Thread(target=lambda: results.extend(stream))
    taker.start()
    until(lambda: agent.most_in_flight == 1)
    first_sent.set()
    assert all_given.wait(10)
    agent.gate.put(None)
    agent.gate.put(None)
    taker.join(10)
    assert [r.sequence for r in results] == list(range(10))
    assert [r.sequence for r in results if r.outcome is Outcome.MASKED] == [0, 9]
    assert {r.reason for r in results[1:9]} == {Reason.SUPERSEDED}
    assert {r.image is None for r in results[1:9]} == {True}
    assert results[9].image is not None
    assert results[9].image[0, 0, 0] == 246
    assert agent.seen == [0, 1], "sequences on the wire have no gaps"


def test_an_error_of_the_source_comes_after_the_frames_before_it(client: MaskingClient) -> None:
    def broken() -> Iterator[np.ndarray[Any, Any]]:
        yield from numbered(3)
        raise LookupError("the camera fell down")

    results = client.stream(broken())
    assert [next(results).sequence for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="fell down"):
        next(results)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(np.zeros((4, 4), np.uint8), id="grey"),
        pytest.param(np.zeros((4, 4, 3), np.float32), id="floats"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), id="four channels"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), id="no rows"),
        pytest.param(np.zeros((1, 20000, 3), np.uint8), id="20,000 wide"),
        pytest.param("frame.jpg", id="a file name"),
    ],
)
def test_what_is_no_picture_is_refused(client: MaskingClient, frame: Any, mode: Mode) -> None:
    with pytest.raises(BadFrameError):
        list(client.stream([frame], mode=mode))


def test_ending_early_cancels_the_call_and_ends_the_threads(agent: Any, client: MaskingClient) -> None:
    def endless() -> Generator[np.ndarray[Any, Any], None, None]:
        while True:
            yield FRAME

    for result in client.stream(endless()):
        if result.sequence == 5:
            break
    assert agent.ended.wait(10)


def test_an_agent_that_goes_away_ends_the_stream(server: tuple[grpc.Server, str], client: MaskingClient) -> None:
    results = client.stream(FRAME for _ in range(1000))
    next(results)
    server[0].stop(0)
    with pytest.raises(UnavailableError):
        list(results)


def test_an_agent_that_ends_too_soon_is_no_success(agent: Any, client: MaskingClient) -> None:
    agent.last = 2
    with pytest.raises(UnavailableError, match="before every frame"):
        list(client.stream(FRAME for _ in range(9)))


def test_nobody_there() -> None:
    with MaskingClient("127.0.0.1:1") as client:
        with pytest.raises(UnavailableError, match="1:1 cannot be reached: check"):
            list(client.stream([FRAME]))
        with pytest.raises(UnavailableError):
            client.mask_image(FRAME)


def test_an_agent_that_never_opens_the_stream(agent: Any, server: tuple[grpc.Server, str]) -> None:
    release = threading.Event()
    agent.opening = lambda: [release.wait(20), None][1]
    with MaskingClient(server[1], timeout=timedelta(milliseconds=200)) as client:
        with pytest.raises(DeadlineError, match="did not open"):
            list(client.stream([FRAME]))
        with pytest.raises(DeadlineError):
            client.mask_image(FRAME)
    release.set()


@pytest.mark.parametrize("error", [CapacityError("every stream is taken", remedy="try later"), BadFrameError("0×0")])
def test_the_agents_errors_keep_their_class(agent: Any, client: MaskingClient, error: FleetError) -> None:
    def refuse() -> None:
        raise error

    agent.opening = refuse
    with pytest.raises(type(error), match=error.message):
        list(client.stream([FRAME]))


def _renumbered(result: masking_pb2.FrameResult) -> masking_pb2.FrameResult:
    result.sequence += 1
    return result


def _without_picture(result: masking_pb2.FrameResult) -> masking_pb2.FrameResult:
    result.ClearField("payload")
    return result


def _unknown_outcome(result: masking_pb2.FrameResult) -> masking_pb2.FrameResult:
    result.outcome = 99  # type: ignore[assignment]  # a value of the future
    return result


@pytest.mark.parametrize("change", [_renumbered, _without_picture, _unknown_outcome])
def test_a_result_that_cannot_be_is_an_error(agent: Any, client: MaskingClient, change: Any) -> None:
    agent.change = change
    with pytest.raises(InternalError):
        list(client.stream([FRAME]))


def test_a_dropped_frame_has_no_picture_even_where_one_is_sent(agent: Any, client: MaskingClient) -> None:
    def dropped(result: masking_pb2.FrameResult) -> masking_pb2.FrameResult:
        result.outcome, result.reason = masking_pb2.OUTCOME_DROPPED, 99  # type: ignore[assignment]
        return result

    agent.change = dropped
    (result,) = client.stream([FRAME])
    assert (result.outcome, result.reason, result.image) == (Outcome.DROPPED, Reason.UNKNOWN, None)


def test_a_raw_result_of_the_wrong_size_is_no_picture() -> None:
    with pytest.raises(BadFrameError, match="4×4"):
        _ = MaskedFrame(0, Outcome.MASKED, Reason.DETECTED, raw=(4, 4, b"123")).image
    with pytest.raises(BadFrameError):
        _ = MaskedFrame(0, Outcome.MASKED, Reason.DETECTED, encoded=b"123").image


def test_a_single_image(agent: Any, client: MaskingClient) -> None:
    result = client.mask_image(FRAME, policy=MaskPolicy(style=Style.SOLID))
    assert result.image is not None
    assert result.image[0, 0, 0] == 55
    assert agent.config.policy.style == 3
    file = cv2.imencode(".png", FRAME)[1].tobytes()
    assert client.mask_image(file).image is not None
    with pytest.raises(BadFrameError, match="neither"):
        client.mask_image(b"GIF89a")


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"policy": {"colour": "red"}}, BadPolicyError),
        ({"policy": {"style": "fog"}}, BadPolicyError),
        ({"policy": {"strength": 2}}, BadPolicyError),
        ({"encoding": "webp"}, InvalidInputError),
        ({"jpeg_quality": 0}, InvalidInputError),
        ({"max_in_flight": 0}, InvalidInputError),
        ({"deadline": timedelta(0)}, InvalidInputError),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    client: MaskingClient, arguments: dict[str, Any], kind: type[FleetError]
) -> None:
    with pytest.raises(kind):
        client.stream([FRAME], **arguments)


def test_a_closed_client_says_so(client: MaskingClient) -> None:
    client.close()
    with pytest.raises(UnavailableError, match="closed"):
        client.stream([FRAME])


def until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(2000):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("the condition never came true")


def test_a_stream_of_a_closed_client_says_so_and_leaves_no_thread() -> None:
    client = MaskingClient("127.0.0.1:1")
    client.close()
    with pytest.raises(UnavailableError, match="closed"):
        list(client.stream(iter([np.zeros((8, 8, 3), np.uint8)])))
    assert not [t for t in threading.enumerate() if t.name == "mask-source"]
