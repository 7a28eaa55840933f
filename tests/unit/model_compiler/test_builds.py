"""Both backends build real detectors; what they cannot build they refuse by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from maskfleet.decoding import decoder_spec
from maskfleet.errors import BuildError, CanceledError, UnsupportedError
from maskfleet.targets import TARGETS, target
from model_compiler.builds import onnx_cpu, tensorrt
from model_compiler.precision import in_precision
from model_compiler.prepare import prepare

DECODERS = ("centerface", "yunet", "ultraface")
RTX_SMS = sorted({sm for entry in TARGETS.values() if entry.backend == "tensorrt-rtx" for sm in entry.sms})
SM_BITS = {"SM75": 1, "SM80": 2, "SM86": 4, "SM89": 8, "SM120": 16, "SM121": 32}
"""Bits in the header of an engine of TensorRT for RTX 1.7, as observed."""


def prepared(path: Path, decoder: str, precision: str = "fp32") -> bytes:
    return in_precision(prepare(path.read_bytes(), decoder_spec(decoder)).model, precision)[0]


def build_rtx(
    model: bytes,
    *,
    sms: tuple[str, ...] = ("SM86",),
    progress: Callable[[float], None] = lambda _f: None,
    canceled: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = lambda _line: None,
    workspace_mb: int = 0,
) -> bytes:
    pytest.importorskip("tensorrt_rtx")
    return tensorrt.build(
        model,
        backend="tensorrt-rtx",
        sms=sms,
        progress=progress,
        canceled=canceled,
        log=log,
        workspace_mb=workspace_mb,
    )


def network(height: int | str = 32) -> bytes:
    """The least that is worth an engine: one convolution and its activation."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [4, 3, 3, 3], [0.01] * 108)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "weights"], ["edges"], name="look", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["edges"], ["found"], name="judge"),
        ],
        "network",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, height, 32])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, 4, height, 32])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_cpu_engine_has_standard_operators_and_names_for_roles(
    detector_path: Callable[[str], Path], decoder: str, precision: str
) -> None:
    engine = onnx.load_model_from_string(
        onnx_cpu.build(
            prepared(detector_path(decoder), decoder, precision), progress=lambda _f: None, log=lambda _line: None
        )
    )
    onnx.checker.check_model(engine, full_check=True)
    assert {node.domain for node in engine.graph.node} <= {"", "ai.onnx"}
    assert [(entry.domain, entry.version) for entry in engine.opset_import] == [("", 17)]
    assert [value.name for value in engine.graph.output] == [role.role for role in decoder_spec(decoder).outputs]
    assert "BatchNormalization" not in {node.op_type for node in engine.graph.node} or precision == "fp16"


@pytest.mark.parametrize(("decoder", "name"), [*itertools.product(DECODERS, ("rtx-ampere-plus", "rtx-turing"))])
def test_an_rtx_engine_is_built_without_a_gpu(detector_path: Callable[[str], Path], decoder: str, name: str) -> None:
    seen: list[float] = []
    lines: list[str] = []
    engine = build_rtx(
        prepared(detector_path(decoder), decoder), sms=target(name).sms, progress=seen.append, log=lines.append
    )
    tensorrt.check_plan(engine, "tensorrt-rtx")
    assert seen == sorted(seen)
    assert len(seen) > 5
    assert 0 < seen[-1] <= 1
    assert any("Engine generation completed" in line for line in lines)
    assert any(line.startswith("phase: ") for line in lines)
    assert not any(line.startswith("verbose") for line in lines)


@pytest.mark.parametrize("sm", RTX_SMS)
def test_an_rtx_engine_is_built_for_each_compute_capability_alone(sm: str) -> None:
    engine = build_rtx(network(), sms=(sm,))
    assert int.from_bytes(engine[32:34], "little") == SM_BITS[sm]


def test_one_rtx_engine_holds_several_compute_capabilities() -> None:
    sms = target("rtx-ampere-plus").sms
    assert int.from_bytes(build_rtx(network(), sms=sms)[32:34], "little") == sum(SM_BITS[sm] for sm in sms)


def test_half_precision_halves_an_engine(detector_path: Callable[[str], Path]) -> None:
    path = detector_path("centerface")
    full, half = (build_rtx(prepared(path, "centerface", precision)) for precision in ("fp32", "fp16"))
    assert len(half) < 0.7 * len(full)


def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(unsupported_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"node 'toss', operator Bernoulli: unsupported node \(.*cpp:\d+, .*Bernoulli\)"
    ) as raised:
        build_rtx(prepared(unsupported_path, "centerface"))
    assert "ort-cpu" in raised.value.remedy


def test_a_workspace_that_is_too_small_is_said_so(detector_path: Callable[[str], Path]) -> None:
    model = prepared(detector_path("yunet"), "yunet")
    with pytest.raises(BuildError, match="within a workspace of 1 MiB") as raised:
        build_rtx(model, workspace_mb=1)
    assert "larger workspace" in raised.value.remedy
    assert build_rtx(model, workspace_mb=64)


def test_a_model_of_no_one_shape_is_refused_by_the_name_of_its_input() -> None:
    with pytest.raises(BuildError, match=r"'picture' has shape \[1, 3, \?, 32\]") as raised:
        build_rtx(network(height="height"))
    assert "prepare" in raised.value.remedy


FAILURES = {
    "a layer that nothing implements": (
        ["Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[look...judge]}.)"],
        "at node 'look', operator convolution and node 'judge', operator activation",
    ),
    "a name that is part of another one": (
        ["Error Code 4: Internal Error (judge_1: kernel weights has count 3 but 4 was expected)"],
        "at node 'judge_1', operator scale (Error Code 4",
    ),
    "a workspace that is too small": (
        ["Error Code 10: (Could not find any implementation for node look.)", "try increasing the workspace size"],
        "within a workspace of 8 MiB",
    ),
    "a workspace that is too small, as RTX says it": (
        ["Error Code 2: OutOfMemory (Requested size was 10485760 bytes.)"],
        "within a workspace of 8 MiB: it had no room for 10.0 MiB more",
    ),
    "a GPU that is full": (["Error Code 1: Cuda Runtime (out of memory)"], "found no room on the GPU"),
    "nothing at all": ([], "could not build the engine (it gave no reason)"),
}


@pytest.mark.parametrize(("said", "expected"), FAILURES.values(), ids=FAILURES.keys())
def test_what_tensorrt_reports_becomes_a_sentence_with_the_node(said: list[str], expected: str) -> None:
    layers = {"look": "CONVOLUTION", "judge": "ACTIVATION", "judge_1": "SCALE"}
    error = tensorrt.build_error("tensorrt", said, layers, 8)
    assert expected in error.message
    assert error.remedy


def test_garbage_that_tensorrt_parses_is_refused() -> None:
    with pytest.raises(BuildError):
        build_rtx(b"\x00" * 64)


def test_a_build_stops_when_it_is_canceled(detector_path: Callable[[str], Path]) -> None:
    asked = itertools.count()
    with pytest.raises(CanceledError):
        build_rtx(prepared(detector_path("centerface"), "centerface"), canceled=lambda: next(asked) > 3)


def test_an_unknown_compute_capability_is_refused(detector_path: Callable[[str], Path]) -> None:
    with pytest.raises(UnsupportedError, match="does not build for SM87"):
        build_rtx(prepared(detector_path("yunet"), "yunet"), sms=("SM87",))


def test_a_backend_that_is_not_installed_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="cannot be loaded here"):
        tensorrt.build(
            b"", backend="tensorrt", sms=(), progress=lambda _f: None, canceled=lambda: False, log=lambda _line: None
        )


def test_a_plan_that_was_cut_short_is_refused(detector_path: Callable[[str], Path]) -> None:
    engine = build_rtx(prepared(detector_path("yunet"), "yunet"))
    for broken in (engine[:40], engine[:-5000], b"junk" + engine[4:]):
        with pytest.raises(BuildError, match="no whole engine"):
            tensorrt.check_plan(broken, "tensorrt-rtx")


def test_the_cpu_backend_refuses_what_is_no_model() -> None:
    with pytest.raises(BuildError, match="refuses the model"):
        onnx_cpu.build(b"junk", progress=lambda _f: None, log=lambda _line: None)
