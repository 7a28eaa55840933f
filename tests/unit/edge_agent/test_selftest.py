"""The self-test: good engines pass, and an engine that a change has blinded does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engines.engine import Engine, EngineInfo, FloatArray
from edge_agent.engines.loading import load
from edge_agent.updates import selftest
from edge_agent.updates.selftest import MAX_SECONDS, golden_frames, run_self_test
from maskfleet.clock import FakeClock
from maskfleet.decoding import decoder_spec
from maskfleet.errors import EngineError, SelfTestError
from maskfleet.policy import MaskPolicy

MODELS = {
    "centerface": None,
    "yunet": "yunet_n_dynamic.onnx",
    "ultraface": "ultraface_version-RFB-320.onnx",
}


def engine_of(decoder: str, model: bytes, tmp_path: Path) -> Engine:
    pytest.importorskip("onnx")
    from model_compiler.prepare import prepare

    spec = decoder_spec(decoder)
    file = tmp_path / "engine"
    file.write_bytes(prepare(model, spec, 0, 0).model)
    return load("ort-cpu", file, decoder=spec, threads=1)


class Noisy:
    """An engine whose outputs are disturbed."""

    def __init__(self, engine: Engine, disturb: str) -> None:
        self._engine = engine
        self._disturb = disturb

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        outputs = dict(self._engine.infer(blob))
        for name, values in outputs.items():
            if self._disturb == "numbers":
                values = np.full_like(values, np.nan)
            elif self._disturb == "blind" and name == "heatmap":
                values = np.zeros_like(values)
            elif self._disturb == "sees ghosts" and name == "heatmap":
                values = values.copy()
                values[..., 40, 40] = 0.99
            elif self._disturb == "sizes" and name == "scale":
                values = values + np.float32(1.2)
            outputs[name] = values
        return outputs

    def close(self) -> None:
        self._engine.close()


def test_the_golden_frames_are_small_and_have_faces_and_none() -> None:
    frames = golden_frames()
    assert sorted(len(frame.boxes) for frame in frames) == [0, 1, 2]
    for frame in frames:
        height, width = frame.picture.shape[:2]
        assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in frame.boxes)
    folder = Path(selftest.__file__).parents[1] / "golden"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 100_000


def test_centerface_passes(centerface_path: Path, tmp_path: Path) -> None:
    run_self_test(
        engine_of("centerface", centerface_path.read_bytes(), tmp_path), decoder_spec("centerface"), MaskPolicy()
    )


@pytest.mark.parametrize("decoder", [name for name, file in MODELS.items() if file])
def test_other_detectors_pass(decoder: str, testdata: Path, tmp_path: Path) -> None:
    model = (testdata / "models" / str(MODELS[decoder])).read_bytes()
    run_self_test(engine_of(decoder, model, tmp_path), decoder_spec(decoder), MaskPolicy())


@pytest.mark.parametrize(
    ("disturb", "error", "words"),
    [
        ("blind", SelfTestError, "finds 0 of"),
        ("sizes", SelfTestError, "finds 0 of"),
        ("sees ghosts", SelfTestError, "no-face.jpg, which has none"),
        ("numbers", EngineError, "no numbers"),
    ],
)
def test_a_disturbed_engine_is_refused(
    disturb: str, error: type[Exception], words: str, centerface_path: Path, tmp_path: Path
) -> None:
    engine = Noisy(engine_of("centerface", centerface_path.read_bytes(), tmp_path), disturb)
    with pytest.raises(error, match=words):
        run_self_test(engine, decoder_spec("centerface"), MaskPolicy())


def test_a_policy_that_sees_nobody_is_refused(centerface_path: Path, tmp_path: Path) -> None:
    engine = engine_of("centerface", centerface_path.read_bytes(), tmp_path)
    with pytest.raises(SelfTestError, match=r"at min_confidence 0\.99: lower min_confidence"):
        run_self_test(engine, decoder_spec("centerface"), MaskPolicy(min_confidence=0.99))


def test_an_engine_that_is_far_too_slow_is_refused(centerface_path: Path, tmp_path: Path) -> None:
    class Slow(FakeClock):
        def monotonic(self) -> float:
            self._monotonic += MAX_SECONDS + 1
            return self._monotonic

    engine = engine_of("centerface", centerface_path.read_bytes(), tmp_path)
    with pytest.raises(SelfTestError, match="s for one frame"):
        run_self_test(engine, decoder_spec("centerface"), MaskPolicy(), clock=Slow())
