"""The frame loop: what is masked, what it says, and that no fault ever lets a frame through."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import cv2
import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent import pipeline
from edge_agent.engines.engine import EngineInfo, FloatArray
from edge_agent.masking import styles
from edge_agent.masking.frames import Encoding, SourceFrame, decode
from edge_agent.masking.outcomes import Outcome, Reason, Stage
from edge_agent.masking.preprocess import Picture
from edge_agent.masking.styles import GREY, MaskedFrame
from edge_agent.pipeline import Answer, FrameMasker, FrameRecord, Wanted
from edge_agent.serving import LoadedRelease, Serving
from maskfleet.clock import FakeClock
from maskfleet.decoding import decoder_spec
from maskfleet.errors import BadFrameError, BadPolicyError, EngineError, NoEngineError
from maskfleet.policy import FailClosed, MaskPolicy, Shape, Style

WIDTH, HEIGHT = 64, 32
FACE = (16.0, 8.0, 48.0, 24.0)
SOLID = MaskPolicy(style=Style.SOLID, shape=Shape.RECTANGLE, margin=0.25, coast_frames=2)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Faults are logged with their tracebacks, which structlog's default draws at length."""
    with structlog.testing.capture_logs():
        yield


class FaceInTheMiddle:
    """A stand-in for a real network, whose outputs say: one face in the middle. Faulty on request."""

    info = EngineInfo("ort-cpu", "none", "0", WIDTH, HEIGHT, ())

    def __init__(self) -> None:
        self.sees = True
        self.fault: Callable[[dict[str, FloatArray]], object] = lambda _outputs: None
        self.runs = 0

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        self.runs += 1
        scores = np.zeros((1, 4, 2), np.float32)
        scores[0, :, 0] = 1
        boxes = np.zeros((1, 4, 4), np.float32)
        if self.sees:
            scores[0, 1] = 0.1, 0.9
            boxes[0, 1] = FACE[0] / WIDTH, FACE[1] / HEIGHT, FACE[2] / WIDTH, FACE[3] / HEIGHT
        outputs = {"scores": scores, "boxes": boxes}
        self.fault(outputs)
        return outputs

    def close(self) -> None:
        pass


class Bench:
    """A frame loop with everything around it."""

    def __init__(self, policy: MaskPolicy = SOLID, **wanted: Any) -> None:
        self.clock = FakeClock()
        self.engine = FaceInTheMiddle()
        self.serving = Serving()
        self.release = LoadedRelease("r-1", "sha256:1", self.engine, decoder_spec("ultraface"), policy)
        self.serving.swap(self.release)
        self.records: list[FrameRecord] = []
        self.masker = FrameMasker(self.serving, Wanted(**wanted), clock=self.clock, observe=self.records.append)

    def mask(self, source: SourceFrame | None = None, **more: Any) -> Answer:
        return self.masker.mask(source or raw(), arrived=self.clock.monotonic(), **more)


def picture(seed: int = 5) -> Picture:
    return np.random.default_rng(seed).integers(60, 250, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def raw(frame: Picture | None = None) -> SourceFrame:
    frame = picture() if frame is None else frame
    return SourceFrame(Encoding.RAW, frame.tobytes(), frame.shape[1], frame.shape[0])


def pixels(answer: Answer) -> Picture:
    assert answer.data is not None
    return decode(SourceFrame(answer.encoding, answer.data, answer.width, answer.height))


def test_a_face_is_masked_and_the_answer_says_where_and_how_long_it_took() -> None:
    bench = Bench()
    answer = bench.mask()
    assert (answer.outcome, answer.reason, answer.detail) == (Outcome.MASKED, Reason.DETECTED, "")
    assert answer.release_digest == "sha256:1"
    (region,) = answer.regions
    assert (region.x1, region.y1, region.x2, region.y2) == pytest.approx(FACE)
    assert (region.score, region.track_id) == (pytest.approx(0.9), 1)
    shown, source = pixels(answer), picture()
    assert (shown[8:24, 16:48] == GREY).all()
    assert (shown[:, :4] == source[:, :4]).all()
    assert set(answer.stages_s) == set(Stage)
    assert bench.records == [
        FrameRecord(Outcome.MASKED, Reason.DETECTED, answer.stages_s, 1, (pytest.approx(0.9),), "r-1", "ort-cpu")  # type: ignore[arg-type]
    ]


def test_a_frame_without_a_face_comes_back_as_it_was_and_says_so() -> None:
    bench = Bench()
    bench.engine.sees = False
    answer = bench.mask()
    assert (answer.outcome, answer.regions) == (Outcome.MASKED, ())
    assert (pixels(answer) == picture()).all()


def test_a_lost_face_is_carried_on_and_counted_as_no_detection() -> None:
    bench = Bench()
    bench.mask()
    bench.engine.sees = False
    answer = bench.mask()
    assert (answer.outcome, answer.reason) == (Outcome.COASTED, Reason.TRACK_CARRIED)
    assert (pixels(answer)[8:24, 16:48] == GREY).all()
    assert bench.records[-1].detections == 0


def test_a_swap_takes_effect_with_the_next_frame_and_keeps_the_tracks() -> None:
    bench = Bench()
    bench.mask()
    blind = FaceInTheMiddle()
    blind.sees = False
    bench.serving.swap(dataclasses.replace(bench.release, release_id="r-2", release_digest="sha256:2", engine=blind))
    answer = bench.mask()
    assert (answer.outcome, answer.release_digest) == (Outcome.COASTED, "sha256:2")
    assert answer.regions[0].track_id == 1


@pytest.mark.parametrize("encoding", Encoding)
def test_results_are_encoded_as_wanted_and_otherwise_as_the_source_was(encoding: Encoding) -> None:
    assert Bench(encoding=encoding).mask().encoding is encoding
    png = SourceFrame(Encoding.PNG, cv2.imencode(".png", picture())[1].tobytes())
    assert Bench().mask(png).encoding is Encoding.PNG


# -- faults ------------------------------------------------------------------------------------------------------


def raises(error: Exception) -> Callable[..., Any]:
    def fault(*_args: object, **_more: object) -> Any:
        raise error

    return fault


def poisoned(role: str, value: float) -> Callable[[dict[str, FloatArray]], object]:
    return lambda outputs: outputs[role].fill(value)


Fault = Callable[[Bench, pytest.MonkeyPatch], SourceFrame | None]


def engine(fault: Callable[[dict[str, FloatArray]], object]) -> Fault:
    def inject(bench: Bench, _patch: pytest.MonkeyPatch) -> None:
        bench.engine.fault = fault

    return inject


def step(name: str, error: Exception) -> Fault:
    def inject(_bench: Bench, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(pipeline, name, raises(error))

    return inject


def bytes_of(source: SourceFrame) -> Fault:
    return lambda _bench, _patch: source


def no_engine(bench: Bench, _patch: pytest.MonkeyPatch) -> None:
    bench.serving.swap(None)


def first_encoding_fails(_bench: Bench, patch: pytest.MonkeyPatch) -> None:
    real, calls = pipeline.encode, [0]

    def encode(*args: Any, **more: Any) -> bytes:
        calls[0] += 1
        if calls[0] == 1:
            raise RuntimeError("encoder")
        return real(*args, **more)

    patch.setattr(pipeline, "encode", encode)


def tracker_fails(_bench: Bench, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline.Tracker, "update", raises(RuntimeError("tracker")))


def shows_its_source(_bench: Bench, patch: pytest.MonkeyPatch) -> None:
    """A mask that draws nothing, and a full mask that is none."""
    patch.setattr(pipeline, "mask", lambda frame, _regions, _policy: MaskedFrame(frame.copy(), seal=styles._SEAL))


def full_mask_shows_something(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    bench.engine.fault = raises(RuntimeError("x"))
    patch.setattr(pipeline.guard, "full_mask", lambda *_size: MaskedFrame(picture(), seal=styles._SEAL))


FAULTS: dict[str, tuple[Fault, Outcome, Reason]] = {
    "the engine raises an EngineError": (engine(raises(EngineError("x"))), Outcome.FULL_MASK, Reason.ENGINE_FAILED),
    "the engine raises anything": (engine(raises(RuntimeError("x"))), Outcome.FULL_MASK, Reason.ENGINE_FAILED),
    "the engine runs out of memory": (engine(raises(MemoryError())), Outcome.FULL_MASK, Reason.ENGINE_FAILED),
    "scores are no numbers": (engine(poisoned("scores", np.nan)), Outcome.FULL_MASK, Reason.ENGINE_FAILED),
    "boxes are infinite": (engine(poisoned("boxes", np.inf)), Outcome.FULL_MASK, Reason.ENGINE_FAILED),
    "scores are out of range": (engine(poisoned("scores", 7.0)), Outcome.FULL_MASK, Reason.ENGINE_FAILED),
    "an output is missing": (engine(lambda o: o.pop("boxes")), Outcome.FULL_MASK, Reason.ENGINE_FAILED),
    "an output has another shape": (
        engine(lambda o: o.update(boxes=o["boxes"][:, :3])),
        Outcome.FULL_MASK,
        Reason.ENGINE_FAILED,
    ),
    "no engine is loaded": (no_engine, Outcome.FULL_MASK, Reason.NO_ENGINE),
    "tracking raises": (tracker_fails, Outcome.FULL_MASK, Reason.MASKING_FAILED),
    "masking raises": (step("mask", ValueError("x")), Outcome.FULL_MASK, Reason.MASKING_FAILED),
    "encoding raises once": (first_encoding_fails, Outcome.FULL_MASK, Reason.MASKING_FAILED),
    "encoding raises every time": (step("encode", ValueError("x")), Outcome.DROPPED, Reason.MASKING_FAILED),
    "decoding raises anything": (step("decode", ValueError("x")), Outcome.FULL_MASK, Reason.MASKING_FAILED),
    "a mask draws nothing": (shows_its_source, Outcome.DROPPED, Reason.SOURCE_FRAME),
    "a full mask is none": (full_mask_shows_something, Outcome.DROPPED, Reason.SOURCE_FRAME),
    "the bytes are no picture": (
        bytes_of(SourceFrame(Encoding.JPEG, b"junk")),
        Outcome.DROPPED,
        Reason.DECODE_FAILED,
    ),
    "the picture ends too early": (
        bytes_of(SourceFrame(Encoding.JPEG, cv2.imencode(".jpg", picture())[1].tobytes()[:-9])),
        Outcome.DROPPED,
        Reason.DECODE_FAILED,
    ),
    "the picture is too large": (
        bytes_of(SourceFrame(Encoding.RAW, b"", 20_000, 20_000)),
        Outcome.DROPPED,
        Reason.DECODE_FAILED,
    ),
}


@pytest.mark.parametrize(("fault", "outcome", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_masks_the_whole_frame_or_drops_it(
    fault: Fault, outcome: Outcome, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    answer = bench.mask(fault(bench, monkeypatch))
    assert (answer.outcome, answer.reason) == (outcome, reason)
    assert answer.detail
    if outcome is Outcome.FULL_MASK:
        assert (pixels(answer) == GREY).all()
    else:
        assert answer.data is None
    assert (bench.records[0].outcome, bench.records[0].reason) == (outcome, reason)
    assert Stage.TOTAL in answer.stages_s


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_policy_that_drops_gives_no_picture_for_any_fault(
    fault: tuple[Fault, Outcome, Reason], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(SOLID.changed(fail_closed=FailClosed.DROP), changes={"fail_closed": FailClosed.DROP})
    answer = bench.mask(fault[0](bench, monkeypatch))
    assert (answer.outcome, answer.data) == (Outcome.DROPPED, None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*FAULTS, "none"]), min_size=1, max_size=6), st.sampled_from(FailClosed))
def test_whatever_fails_in_whatever_order_a_face_never_comes_out(names: list[str], fail_closed: FailClosed) -> None:
    """The face's pixels are those of the source in no answer, and a frame that failed shows nothing of it at all."""
    bench = Bench(SOLID.changed(fail_closed=fail_closed))
    for number, name in enumerate(names):
        frame = picture(number)
        with pytest.MonkeyPatch.context() as patch:
            injected = FAULTS[name][0](bench, patch) if name != "none" else None
            answer = bench.mask(injected or raw(frame))
        bench.engine.fault = lambda _outputs: None
        bench.serving.swap(bench.release)
        if answer.data is None:
            assert answer.outcome is Outcome.DROPPED
            continue
        shown = pixels(answer)
        assert (shown[8:24, 16:48] == GREY).all()
        if name != "none":
            assert (shown == GREY).all()
    assert len(bench.records) == len(names)


def test_the_loop_goes_on_after_a_fault_and_keeps_its_tracks() -> None:
    bench = Bench()
    bench.mask()
    bench.engine.fault = raises(RuntimeError("x"))
    assert bench.mask().outcome is Outcome.FULL_MASK
    bench.engine.fault = lambda _outputs: None
    assert bench.mask().regions[0].track_id == 1


@pytest.mark.parametrize("late_in", ["waiting", "infer", "mask"])
def test_a_frame_that_is_too_late_is_failed_closed_wherever_the_time_went(
    late_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(deadline_s=0.1)
    arrived = bench.clock.monotonic()

    def slowly(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            bench.clock.advance(timedelta(milliseconds=150))
            return real(*args, **more)

        return run

    if late_in == "waiting":
        bench.clock.advance(timedelta(milliseconds=150))
    elif late_in == "infer":
        monkeypatch.setattr(bench.engine, "infer", slowly(bench.engine.infer))
    else:
        monkeypatch.setattr(pipeline, "mask", slowly(pipeline.mask))
    answer = bench.masker.mask(raw(), arrived=arrived)
    assert (answer.outcome, answer.reason) == (Outcome.FULL_MASK, Reason.DEADLINE_MISSED)
    assert (pixels(answer) == GREY).all()
    assert bench.engine.runs == (0 if late_in == "waiting" else 1)
    monkeypatch.undo()
    assert bench.mask().outcome is Outcome.MASKED


def test_telemetry_that_fails_costs_no_frame() -> None:
    bench = Bench()
    masker = FrameMasker(bench.serving, Wanted(), clock=bench.clock, observe=raises(RuntimeError("x")))
    assert masker.mask(raw(), arrived=0.0).outcome is Outcome.MASKED


def test_a_dropped_frame_is_counted_too() -> None:
    bench = Bench()
    answer = bench.masker.dropped(Reason.SUPERSEDED, "a newer frame", arrived=0.0)
    assert (answer.outcome, answer.data) == (Outcome.DROPPED, None)
    assert bench.records[0].reason is Reason.SUPERSEDED


def test_what_a_stream_may_not_change_is_refused_at_once_or_held() -> None:
    with pytest.raises(BadPolicyError):
        Bench(changes={"margin": 9.0})
    bench = Bench(changes={"min_confidence": 1.0, "margin": 0.0})
    policy = bench.masker.policy(bench.release)
    assert (policy.min_confidence, policy.margin) == (SOLID.min_confidence, SOLID.margin)
    assert bench.mask().outcome is Outcome.MASKED


ERRORS: dict[str, tuple[Fault, type[Exception]]] = {
    "no picture": (FAULTS["the bytes are no picture"][0], BadFrameError),
    "no engine": (no_engine, NoEngineError),
    "an engine that fails": (engine(raises(RuntimeError("x"))), EngineError),
}


@pytest.mark.parametrize(("fault", "kind"), ERRORS.values(), ids=ERRORS.keys())
def test_for_a_single_picture_faults_are_errors_and_are_counted_as_well(
    fault: Fault, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    source = fault(bench, monkeypatch) or raw()
    with pytest.raises(kind):
        bench.masker.mask_or_raise(source, arrived=0.0)
    assert bench.records[0].outcome in (Outcome.FULL_MASK, Outcome.DROPPED)


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned by its EXIF"])
def test_a_frame_that_came_too_late_to_be_decoded_leaves_the_tracks_alone(turned: bool) -> None:
    jpeg = cv2.imencode(".jpg", np.full((56, 64, 3), 120, np.uint8))[1].tobytes()
    if turned:
        entry = struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
        exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + bytes(4)
        jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + jpeg[2:]
    engine, clock, serving = FaceInTheMiddle(), FakeClock(), Serving()
    serving.swap(LoadedRelease("r-1", "sha256:1", engine, decoder_spec("ultraface"), SOLID))
    masker = FrameMasker(serving, Wanted(deadline_s=0.1), clock=clock)
    source = SourceFrame(Encoding.JPEG, jpeg)
    first = masker.mask(source, arrived=clock.monotonic())
    assert (first.outcome, len(first.regions)) == (Outcome.MASKED, 1)
    arrived = clock.monotonic()
    clock.advance(timedelta(seconds=1))
    late = masker.mask(source, arrived=arrived)
    assert (late.outcome, late.reason) == (Outcome.FULL_MASK, Reason.DEADLINE_MISSED)
    assert (late.width, late.height) == (first.width, first.height)
    engine.sees = False
    carried = masker.mask(source, arrived=clock.monotonic())
    assert (carried.outcome, len(carried.regions)) == (Outcome.COASTED, 1)
