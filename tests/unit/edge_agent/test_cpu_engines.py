"""Engines on the CPU: real detectors find real faces, and what is no engine is refused by name."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_agent.engines import openvino_cpu
from edge_agent.engines.engine import Engine, FloatArray
from edge_agent.engines.loading import load
from edge_agent.facts import gather
from edge_agent.masking.detections import iou_matrix
from edge_agent.masking.detector import Detector, detect
from maskfleet.decoding import decoder_spec
from maskfleet.errors import BadModelError, EngineError, UnknownTargetError, UnsupportedError
from model_compiler.prepare import prepare

ROOT = Path(__file__).parents[3]
# It is looked for and not imported: that would start its telemetry.
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the openvino extra is not installed"
)
TARGETS = ("ort-cpu", pytest.param("openvino-cpu", marks=needs_openvino))
SOURCES = {
    "yunet": "yunet_n_dynamic.onnx",
    "ultraface": "ultraface_version-RFB-320.onnx",
}


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    """Each target of a CPU."""
    return str(request.param)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, centerface_path: Path, testdata: Path) -> dict[str, Path]:
    """Prepared models by decoder, without a suffix, as slots hold them."""
    folder = tmp_path_factory.mktemp("engines")
    files = {"centerface": centerface_path} | {name: testdata / "models" / file for name, file in SOURCES.items()}
    prepared = {}
    for name, file in files.items():
        prepared[name] = folder / name
        prepared[name].write_bytes(prepare(file.read_bytes(), decoder_spec(name)).model)
    return prepared


@pytest.fixture
def loaded(engines: dict[str, Path], target: str) -> Iterator[Callable[[str], Engine]]:
    """Loads the engine of a decoder, on one thread; closed with the test."""
    with contextlib.ExitStack() as stack:

        def of(name: str) -> Engine:
            engine = load(target, engines[name], decoder=decoder_spec(name), threads=1)
            stack.callback(engine.close)
            return engine

        yield of


def picture(testdata: Path, name: str) -> npt.NDArray[np.uint8]:
    frame = cv2.imread(str(testdata / "images" / name))
    assert frame is not None
    return frame.astype(np.uint8)


def noise(engine: Engine, seed: int) -> FloatArray:
    shape = (1, 3, engine.info.height, engine.info.width)
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


@pytest.mark.parametrize("name", ["centerface", "yunet", "ultraface"])
def test_every_face_of_every_picture_is_found_and_nothing_else(
    engines: dict[str, Path], testdata: Path, name: str, target: str
) -> None:
    faces = json.loads((testdata / "images" / "faces.json").read_text())
    with contextlib.closing(load(target, engines[name], decoder=decoder_spec(name), threads=2)) as engine:
        for file in ("Test1.jpg", "Test3.jpg", "Test7.jpg", "astronaut.png"):
            frame = picture(testdata, file)
            found = detect(engine, decoder_spec(name), frame, min_confidence=0.5, nms_iou=0.3)
            shares = iou_matrix(np.array(faces[file], np.float32), np.array([d.box for d in found], np.float32))
            assert (shares.max(axis=1) >= 0.7).all(), file
            assert len(found) == len(faces[file]), file
            scores = [d.score for d in found]
            assert scores == sorted(scores, reverse=True)


def test_what_is_loaded_says_what_it_is(loaded: Callable[[str], Engine], target: str) -> None:
    info = loaded("centerface").info
    backend = {"ort-cpu": "onnxruntime", "openvino-cpu": "openvino"}[target]
    assert (info.target, info.backend, info.width, info.height) == (target, backend, 640, 352)
    assert set(info.outputs) == {"heatmap", "scale", "offset", "landmarks"}
    facts = gather()
    assert target in facts.targets
    assert info.runtime_version == facts.runtimes[backend]


def test_several_threads_share_an_engine(loaded: Callable[[str], Engine], testdata: Path) -> None:
    spec = decoder_spec("yunet")
    engine = loaded("yunet")
    frame = picture(testdata, "Test3.jpg")
    counts: list[int] = []

    def run() -> None:
        detector = Detector(engine, spec)
        for _ in range(5):
            counts.append(len(detector(frame, min_confidence=0.5, nms_iou=0.3).boxes))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [3] * 15


def test_outputs_hold_while_other_threads_use_the_engine(loaded: Callable[[str], Engine]) -> None:
    engine = loaded("yunet")
    mine = engine.infer(noise(engine, 1))
    before = {role: value.copy() for role, value in mine.items()}
    theirs: list[dict[str, FloatArray]] = []
    thread = threading.Thread(target=lambda: theirs.append(dict(engine.infer(noise(engine, 2)))))
    thread.start()
    thread.join()
    for role, value in before.items():
        assert np.array_equal(mine[role], value)
        assert not np.shares_memory(mine[role], theirs[0][role])
    assert any(not np.array_equal(theirs[0][role], value) for role, value in before.items())


def test_outputs_outlive_the_engine_and_the_thread(loaded: Callable[[str], Engine]) -> None:
    engine = loaded("yunet")
    blob = noise(engine, 1)
    kept: list[dict[str, FloatArray]] = []
    thread = threading.Thread(target=lambda: kept.append(dict(engine.infer(blob))))
    thread.start()
    thread.join()
    again = {role: value.copy() for role, value in engine.infer(blob).items()}
    engine.close()
    for role, value in again.items():
        assert np.allclose(kept[0][role], value, atol=1e-5)


def test_a_thread_has_its_memory_once_and_sees_what_is_in_its_input_now(loaded: Callable[[str], Engine]) -> None:
    engine = loaded("yunet")
    blob = noise(engine, 1)
    first = engine.infer(blob)
    expected = {role: value.copy() for role, value in first.items()}
    blob[:] = noise(engine, 2)  # as the preprocessor does: the same array, filled again
    second = engine.infer(blob)
    assert all(second[role] is first[role] for role in expected)
    assert any(not np.array_equal(second[role], value) for role, value in expected.items())
    other = noise(engine, 1)
    other.flags.writeable = False
    third = engine.infer(other)
    assert all(np.allclose(third[role], value, atol=1e-5) for role, value in expected.items())


def test_a_closed_engine_and_an_input_of_another_shape_are_errors(loaded: Callable[[str], Engine]) -> None:
    engine = loaded("yunet")
    with pytest.raises(EngineError, match="takes float32"):
        engine.infer(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(EngineError, match="C-contiguous"):
        engine.infer(np.zeros((1, 352, 640, 3), np.float32).transpose(0, 3, 1, 2))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(np.zeros((1, 3, 352, 640), np.float32))


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path, target: str) -> None:
    file = tmp_path / "engine"
    for content in (b"no model at all", b"", b"<?xml version='1.0'?><net/>"):
        file.write_bytes(content)
        with pytest.raises(EngineError, match="engine"):
            load(target, file, decoder=decoder_spec("yunet"), threads=1)
    with pytest.raises(EngineError, match="missing"):
        load(target, tmp_path / "missing", decoder=decoder_spec("yunet"), threads=1)


def test_a_file_that_was_cut_short_is_an_error(engines: dict[str, Path], tmp_path: Path, target: str) -> None:
    file = tmp_path / "engine"
    file.write_bytes(engines["yunet"].read_bytes()[:-20_000])
    with pytest.raises(EngineError, match="cannot load engine"):
        load(target, file, decoder=decoder_spec("yunet"), threads=1)


def test_an_engine_of_another_decoder_is_refused(engines: dict[str, Path], target: str) -> None:
    with pytest.raises(BadModelError, match="heatmap"):
        load(target, engines["yunet"], decoder=decoder_spec("centerface"), threads=1)


def test_a_model_that_was_not_prepared_is_refused(testdata: Path, target: str) -> None:
    with pytest.raises(BadModelError, match="compile"):
        load(target, testdata / "models/yunet_n_dynamic.onnx", decoder=decoder_spec("yunet"), threads=1)


def test_loading_and_running_send_nothing_and_write_nothing(
    engines: dict[str, Path], tmp_path: Path, target: str
) -> None:
    home, slot = tmp_path / "home", tmp_path / "slot"
    home.mkdir()
    slot.mkdir()
    (slot / "engine").write_bytes(engines["yunet"].read_bytes())
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from edge_agent.engines.loading import load\n"
        "from maskfleet.decoding import decoder_spec\n"
        f"engine = load({target!r}, Path('engine'), decoder=decoder_spec('yunet'), threads=1)\n"
        "engine.infer(np.zeros((1, 3, 352, 640), np.float32))\n"
        "sys.exit('it can report' if sys.modules.get('openvino_telemetry') else 0)\n"
    )
    environ = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=slot, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in slot.iterdir()] == ["engine"]
    assert list(home.iterdir()) == []


@needs_openvino
def test_an_engine_of_openvino_computes_in_what_its_file_says_and_else_in_32_bits(
    engines: dict[str, Path], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    spec = decoder_spec("centerface")
    own = openvino_cpu.own_arithmetic(openvino_cpu.bindings().Core())

    def outputs(target: str, arithmetic: str) -> dict[str, FloatArray]:
        model = onnx.load(engines["centerface"])
        if arithmetic:
            onnx.helper.set_model_props(model, {openvino_cpu.ARITHMETIC_KEY: arithmetic})
        file = tmp_path / "engine"
        file.write_bytes(model.SerializeToString())
        with contextlib.closing(load(target, file, decoder=spec, threads=1)) as engine:
            return {role: value.copy() for role, value in engine.infer(noise(engine, 1)).items()}

    expected = outputs("ort-cpu", "")

    def error(arithmetic: str) -> float:
        found = outputs("openvino-cpu", arithmetic)
        return max(float(np.abs(found[r] - v).max() / np.abs(v).max()) for r, v in expected.items())

    assert error("") < 1e-3
    assert error("f32") < 1e-3
    assert error("bf16" if own == "f16" else "f16") < 1e-3
    if own != "f32":
        assert error(own) > 1e-3


def test_unknown_targets_and_targets_of_other_machines_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnknownTargetError, match="toaster"):
        load("toaster", tmp_path, decoder=decoder_spec("yunet"), threads=1)
    if "rtx-turing" not in gather().targets:
        with pytest.raises(UnsupportedError):
            load("rtx-turing", tmp_path, decoder=decoder_spec("yunet"), threads=1)
