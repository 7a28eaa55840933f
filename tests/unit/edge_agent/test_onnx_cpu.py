"""Engines on the CPU: real detectors find real faces, and what is no engine is refused by name."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.engines.loading import load
from edge_agent.facts import gather
from edge_agent.masking.detections import iou_matrix
from edge_agent.masking.detector import Detector, detect
from maskfleet.decoding import decoder_spec
from maskfleet.errors import BadModelError, EngineError, UnknownTargetError, UnsupportedError
from model_compiler.prepare import prepare

SOURCES = {
    "yunet": "yunet_n_dynamic.onnx",
    "ultraface": "ultraface_version-RFB-320.onnx",
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, centerface_path: Path, testdata: Path) -> dict[str, Path]:
    """Prepared models by decoder."""
    folder = tmp_path_factory.mktemp("engines")
    files = {"centerface": centerface_path} | {name: testdata / "models" / file for name, file in SOURCES.items()}
    prepared = {}
    for name, file in files.items():
        prepared[name] = folder / f"{name}.onnx"
        prepared[name].write_bytes(prepare(file.read_bytes(), decoder_spec(name)).model)
    return prepared


@pytest.mark.parametrize("picture", ["Test1.jpg", "Test3.jpg", "Test7.jpg", "astronaut.png"])
@pytest.mark.parametrize("name", ["centerface", "yunet", "ultraface"])
def test_every_face_of_every_picture_is_found_and_nothing_else(
    engines: dict[str, Path], testdata: Path, name: str, picture: str
) -> None:
    faces = np.array(json.loads((testdata / "images" / "faces.json").read_text())[picture], np.float32)
    frame = cv2.imread(str(testdata / "images" / picture))
    assert frame is not None
    engine = load("ort-cpu", engines[name], decoder=decoder_spec(name), threads=2)
    found = detect(engine, decoder_spec(name), frame.astype(np.uint8), min_confidence=0.5, nms_iou=0.3)
    shares = iou_matrix(faces, np.array([d.box for d in found], np.float32))
    assert (shares.max(axis=1) >= 0.7).all()
    assert len(found) == len(faces)
    scores = [d.score for d in found]
    assert scores == sorted(scores, reverse=True)


def test_what_is_loaded_says_what_it_is(engines: dict[str, Path]) -> None:
    info = load("ort-cpu", engines["centerface"], decoder=decoder_spec("centerface"), threads=1).info
    assert (info.target, info.backend, info.width, info.height) == ("ort-cpu", "onnxruntime", 640, 352)
    assert set(info.outputs) == {"heatmap", "scale", "offset", "landmarks"}
    assert "ort-cpu" in gather().targets


def test_several_threads_share_an_engine(engines: dict[str, Path], testdata: Path) -> None:
    spec = decoder_spec("yunet")
    engine = load("ort-cpu", engines["yunet"], decoder=spec, threads=1)
    frame = cv2.imread(str(testdata / "images" / "Test3.jpg"))
    assert frame is not None
    counts: list[int] = []

    def run() -> None:
        detector = Detector(engine, spec)
        for _ in range(5):
            counts.append(len(detector(frame.astype(np.uint8), min_confidence=0.5, nms_iou=0.3).boxes))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [3] * 15


def test_a_closed_engine_and_an_input_of_another_shape_are_errors(engines: dict[str, Path]) -> None:
    engine = load("ort-cpu", engines["yunet"], decoder=decoder_spec("yunet"), threads=1)
    with pytest.raises(EngineError, match="takes float32"):
        engine.infer(np.zeros((1, 3, 32, 32), np.float32))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(np.zeros((1, 3, 352, 640), np.float32))


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "engine.onnx"
    file.write_bytes(b"no model at all")
    with pytest.raises(EngineError, match=r"engine\.onnx"):
        load("ort-cpu", file, decoder=decoder_spec("yunet"), threads=1)
    with pytest.raises(EngineError, match="missing"):
        load("ort-cpu", tmp_path / "missing", decoder=decoder_spec("yunet"), threads=1)


def test_an_engine_of_another_decoder_is_refused(engines: dict[str, Path]) -> None:
    with pytest.raises(BadModelError, match="heatmap"):
        load("ort-cpu", engines["yunet"], decoder=decoder_spec("centerface"), threads=1)


def test_a_model_that_was_not_prepared_is_refused(testdata: Path) -> None:
    with pytest.raises(BadModelError, match="compile"):
        load("ort-cpu", testdata / "models/yunet_n_dynamic.onnx", decoder=decoder_spec("yunet"), threads=1)


def test_unknown_targets_and_targets_of_other_machines_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnknownTargetError, match="toaster"):
        load("toaster", tmp_path, decoder=decoder_spec("yunet"), threads=1)
    if "rtx-turing" not in gather().targets:
        with pytest.raises(UnsupportedError):
            load("rtx-turing", tmp_path, decoder=decoder_spec("yunet"), threads=1)
