"""Eight bits: what passes the gate, what is refused with figures, and that the agent's engine runs it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_agent.engines.onnx_cpu import OnnxCpuEngine
from edge_agent.masking.detector import detect
from maskfleet.decoding import decoder_spec
from maskfleet.errors import BuildError, CanceledError, GateRefusedError
from maskfleet.ids import digest_bytes
from model_compiler import calibration, evaluation, pipeline, quantize
from model_compiler.builds import tensorrt
from model_compiler.precision import pictures_digest
from model_compiler.prepare import prepare
from model_compiler.spec import BuildSpec, Margins
from model_compiler.verify import matched

STRICT = Margins()
WIDE = Margins(min_cosine=0.0, max_error=100.0)
"""Detections are judged as ever; the outputs' values are not."""


def built(path: Path, decoder: str, *, margins: Margins = STRICT, log: Callable[[str], None] = lambda _line: None,
          progress: pipeline.Progress = lambda _phase, _done: None) -> pipeline.Result:  # fmt: skip
    source = path.read_bytes()
    spec = BuildSpec(digest_bytes(source), decoder, "ort-cpu", "int8", margins=margins)
    return pipeline.run(spec, source, calibration=calibration.OWN, progress=progress, canceled=lambda: False, log=log)


def parts(path: Path, decoder: str, **margins: Any) -> tuple[bytes, BuildSpec]:
    model = prepare(path.read_bytes(), decoder_spec(decoder)).model
    return model, BuildSpec(digest_bytes(model), decoder, "ort-cpu", "int8", margins=Margins(**margins))


def operators(model: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(model).graph.node}


def test_a_model_whose_sensitive_nodes_stay_at_32_bits_passes_the_gate(detector_path: Callable[[str], Path]) -> None:
    seen: list[tuple[str, float]] = []
    result = built(detector_path("yunet"), "yunet", progress=lambda *at: seen.append(at))
    found = result.report["details"]
    json.dumps(result.report)
    assert result.report["gate"]["figures"]["recall"] == 1.0
    assert found["format"] == "int8"
    assert 0 < len(found["kept_fp32"]) < found["nodes"] / 4
    assert found["work_int8"] > 0.8
    # What is kept is what was measured to be worst, and the trials without it were not good enough.
    assert found["kept_fp32"][0] == next(iter(found["sensitivity"]))
    assert list(found["sensitivity"].values()) == sorted(found["sensitivity"].values(), reverse=True)
    assert [trial["within_margins"] for trial in found["trials"]] == [False] * (len(found["trials"]) - 1) + [True]
    assert any("nodes have 8 bits" in note for note in result.report["prepared"]["notes"])
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(result.engine or b"")
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)


def test_the_agents_engine_runs_eight_bits_and_finds_the_golden_faces(centerface_path: Path, tmp_path: Path) -> None:
    decoder = decoder_spec("centerface")
    result = built(centerface_path, "centerface", margins=WIDE)
    (tmp_path / "engine").write_bytes(result.engine or b"")
    engine = OnnxCpuEngine.load(tmp_path / "engine", decoder=decoder, threads=1)
    assert (tmp_path / "engine").stat().st_size < centerface_path.stat().st_size / 3
    golden = json.loads((Path(evaluation.__file__).parents[1] / "edge_agent/golden/boxes.json").read_text())
    faces = 0
    for frame in evaluation.frames(variants=False):
        found = detect(engine, decoder, frame.image, min_confidence=0.35, nms_iou=0.3)
        boxes = np.array([[face.x1, face.y1, face.x2, face.y2] for face in found], np.float32).reshape(-1, 4)
        truth = np.array(golden[frame.name], np.float32).reshape(-1, 4)
        assert len(boxes) == len(truth) == len(matched(truth, boxes, 0.4)), frame.name
        faces += len(truth)
    assert faces == 3
    engine.close()


@pytest.mark.slow
@pytest.mark.timeout(400)  # it measures node by node: minutes on a machine that is busy
def test_centerface_passes_or_is_refused_with_figures_and_what_was_kept(centerface_path: Path) -> None:
    lines: list[str] = []
    refused: GateRefusedError | None = None
    try:
        result = built(centerface_path, "centerface", log=lines.append)
        assert result.report["details"]["work_int8"] >= quantize.LEAST_WORK
    except GateRefusedError as error:
        refused = error
    if refused is not None:
        assert "offset has cosine 0.9" in refused.message
        assert "of 118 nodes have 8 bits" in refused.message
        assert "at 32 bits: Conv_" in refused.message
        assert "fp32" in refused.remedy
    assert sum("within_margins" in line for line in lines) >= 2


def test_what_is_kept_grows_until_too_little_is_left(detector_path: Callable[[str], Path]) -> None:
    model, spec = parts(detector_path("yunet"), "yunet", min_cosine=1.0)
    found = quantize.quantised(
        model,
        decoder_spec("yunet"),
        spec,
        backend="onnxruntime",
        calibration=calibration.OWN,
        log=lambda _line: None,
        step=lambda _done: None,
    )
    kept = [trial["kept_units"] for trial in found.trials]
    assert kept == list(quantize.STEPS[: len(kept)])
    assert not any(trial["within_margins"] for trial in found.trials)
    assert all(trial["work_int8"] >= quantize.LEAST_WORK for trial in found.trials)
    # The nearest of them goes to the gate, which decides on its own.
    best = max(found.trials, key=lambda trial: trial["least_cosine"])
    assert round(found.work, 4) == best["work_int8"]


def test_an_rtx_engine_of_eight_bits_is_built_from_symmetric_ones(detector_path: Callable[[str], Path]) -> None:
    pytest.importorskip("tensorrt_rtx")
    model, spec = parts(detector_path("ultraface"), "ultraface", min_cosine=0.0, max_error=100.0, max_extra=9.0,
                        min_mean_iou=0.0)  # fmt: skip
    spec = dataclasses.replace(spec, target="rtx-turing")
    found = quantize.quantised(
        model,
        decoder_spec("ultraface"),
        spec,
        backend="tensorrt-rtx",
        calibration=calibration.OWN,
        log=lambda _line: None,
        step=lambda _done: None,
    )
    points = {
        bytes(tensor.raw_data) or bytes(tensor.int32_data)
        for tensor in onnx.load_model_from_string(found.model).graph.initializer
        if tensor.name.endswith("_zero_point")
    }
    assert {byte for point in points for byte in point} <= {0}
    plan = tensorrt.build(
        found.model,
        backend="tensorrt-rtx",
        sms=("SM75",),
        progress=lambda _done: None,
        canceled=lambda: False,
        log=lambda _line: None,
    )
    tensorrt.check_plan(plan, "tensorrt-rtx")


def test_it_stops_when_it_is_told_to(detector_path: Callable[[str], Path]) -> None:
    model, spec = parts(detector_path("yunet"), "yunet", min_cosine=1.0)

    def step(fraction: float) -> None:
        if fraction > 0.2:
            raise CanceledError("the build was canceled")

    with pytest.raises(CanceledError):
        quantize.quantised(
            model,
            decoder_spec("yunet"),
            spec,
            backend="onnxruntime",
            calibration=calibration.OWN,
            log=lambda _line: None,
            step=step,
        )


def test_a_model_without_weights_to_shrink_is_refused(
    monkeypatch: pytest.MonkeyPatch, detector_path: Callable[[str], Path]
) -> None:
    model, spec = parts(detector_path("yunet"), "yunet")
    monkeypatch.setattr(quantize, "UNITS", ("Einsum",))
    with pytest.raises(BuildError, match="8 bits"):
        quantize.quantised(
            model,
            decoder_spec("yunet"),
            spec,
            backend="onnxruntime",
            calibration=calibration.OWN,
            log=lambda _line: None,
            step=lambda _done: None,
        )


def test_ranges_are_learnt_from_pictures_that_the_gate_does_not_see() -> None:
    learnt, judged = calibration.OWN.frames(), evaluation.frames()
    assert len(learnt) == 15
    seen = {frame.image.tobytes() for frame in judged}
    assert not [frame.name for frame in learnt if frame.image.tobytes() in seen]
    assert all(frame.image.shape == learnt[place % 3].image.shape for place, frame in enumerate(learnt))


def test_only_eight_bits_depend_on_the_calibration_pictures() -> None:
    assert pictures_digest("fp32", calibration.OWN) == pictures_digest("fp16", calibration.OWN) == evaluation.digest()
    assert pictures_digest("int8", calibration.OWN) == calibration.OWN.digest() != evaluation.digest()
