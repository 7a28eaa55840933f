"""Engines of OpenVINO: built of real detectors, judged, packed, and served by an agent of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import onnx
import pytest
from onnx import helper

from edge_agent.engines import loading, openvino_cpu
from maskfleet.decoding import decoder_spec
from maskfleet.errors import BuildError
from maskfleet.manifest import Envelope, Manifest
from maskfleet.v1 import masking_pb2, masking_service_pb2, masking_service_pb2_grpc
from model_compiler.builds import openvino
from model_compiler.precision import in_precision
from model_compiler.prepare import prepare

# It is looked for and not imported: that would start its telemetry.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the openvino extra is not installed"
)
ROOT = Path(__file__).parents[3]
WAIT_S = 60


def build(model: bytes, precision: str = "fp32") -> bytes:
    return openvino.build(model, precision=precision, progress=lambda _f: None, log=lambda _line: None)


def properties(engine: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_model_from_string(engine).metadata_props}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("decoder", ["centerface", "yunet", "ultraface"])
def test_an_engine_says_its_arithmetic_and_loads(
    detector_path: Callable[[str], Path], tmp_path: Path, decoder: str, precision: str
) -> None:
    spec = decoder_spec(decoder)
    model = in_precision(prepare(detector_path(decoder).read_bytes(), spec).model, precision)[0]
    engine = build(model, precision)
    own = openvino_cpu.own_arithmetic(openvino_cpu.bindings().Core())
    assert properties(engine)[openvino_cpu.ARITHMETIC_KEY] == ("f32" if precision == "fp32" else own)
    assert engine == build(model, precision), "the same model gives the same bytes"
    path = tmp_path / "engine"
    path.write_bytes(engine)
    with contextlib.closing(loading.load("openvino-cpu", path, decoder=spec, threads=1)) as loaded:
        assert loaded.info.outputs == tuple(role.role for role in spec.outputs)


def test_what_a_model_says_of_arithmetic_itself_does_not_count(centerface_path: Path) -> None:
    model = onnx.load_model_from_string(prepare(centerface_path.read_bytes(), decoder_spec("centerface"), 64, 64).model)
    helper.set_model_props(model, {openvino_cpu.ARITHMETIC_KEY: "bf16", "author": "somebody"})
    assert properties(build(model.SerializeToString())) == {"author": "somebody", openvino_cpu.ARITHMETIC_KEY: "f32"}


def test_what_openvino_cannot_read_is_refused() -> None:
    with pytest.raises(BuildError, match="refuses the model"):
        build(b"junk")
    value = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    result = helper.make_tensor_value_info("heatmap", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph([helper.make_node("NoSuch", ["input"], ["heatmap"], name="odd")], "g", [value], [result])
    with pytest.raises(BuildError, match="node 'odd', operator NoSuch: no conversion"):
        build(helper.make_model(graph).SerializeToString())


def test_a_package_passes_the_gate_and_an_agent_serves_it(centerface_path: Path, tmp_path: Path) -> None:
    package, home = tmp_path / "package", tmp_path / "home"
    home.mkdir()
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    compiled = subprocess.run(
        [
            *(sys.executable, "-m", "model_compiler", "compile", str(centerface_path), "--decoder", "centerface"),
            *("--target", "openvino-cpu", "-o", str(package), "--report", str(tmp_path / "report.json")),
        ],
        env=environ, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr
    manifest = Manifest.from_payload(Envelope.from_bytes((package / "manifest.json").read_bytes()).payload)
    assert [(e.target, e.backend, e.verified_on) for e in manifest.engines] == [("openvino-cpu", "openvino", "engine")]
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "edge_agent", "--package", str(package)),
                    *("--data-dir", str(tmp_path / "agent"), "--listen", "127.0.0.1:0", "--threads", "1"),
                ],
                env=environ, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
        )  # fmt: skip
        stack.callback(agent.terminate)
        assert agent.stdout is not None
        ready = json.loads(agent.stdout.readline())
        picture = (ROOT / "edge_agent" / "golden" / "two-faces.jpg").read_bytes()
        frame = masking_pb2.Frame(
            sequence=1, encoded=masking_pb2.EncodedImage(encoding=masking_pb2.IMAGE_ENCODING_JPEG, data=picture)
        )
        with grpc.insecure_channel(ready["listen"]) as channel:
            stub = masking_service_pb2_grpc.MaskingServiceStub(channel)
            result = stub.MaskImage(masking_service_pb2.MaskImageRequest(frame=frame), timeout=WAIT_S).result
        assert len(result.regions) == 2
        assert result.encoded.data != picture
    assert list(home.iterdir()) == [], "neither compiler nor agent keeps an identifier for anybody's telemetry"
