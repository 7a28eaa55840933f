"""Both backends build real detectors; what they cannot build they refuse by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from maskfleet.decoding import decoder_spec
from maskfleet.errors import BuildError, CanceledError, UnsupportedError
from maskfleet.targets import target
from model_compiler.builds import onnx_cpu, tensorrt
from model_compiler.precision import in_precision
from model_compiler.prepare import prepare

DECODERS = ("centerface", "yunet", "ultraface")


def prepared(path: Path, decoder: str, precision: str = "fp32") -> bytes:
    return in_precision(prepare(path.read_bytes(), decoder_spec(decoder)).model, precision)[0]


def build_rtx(
    model: bytes,
    *,
    sms: tuple[str, ...] = ("SM86",),
    progress: Callable[[float], None] = lambda _f: None,
    canceled: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = lambda _line: None,
) -> bytes:
    pytest.importorskip("tensorrt_rtx")
    return tensorrt.build(model, backend="tensorrt-rtx", sms=sms, progress=progress, canceled=canceled, log=log)


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
    assert not any(line.startswith("verbose") for line in lines)


def test_half_precision_halves_an_engine(detector_path: Callable[[str], Path]) -> None:
    path = detector_path("centerface")
    full, half = (build_rtx(prepared(path, "centerface", precision)) for precision in ("fp32", "fp16"))
    assert len(half) < 0.7 * len(full)


def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(unsupported_path: Path) -> None:
    with pytest.raises(BuildError, match="node 'toss', operator Bernoulli: unsupported node") as raised:
        build_rtx(prepared(unsupported_path, "centerface"))
    assert "ort-cpu" in raised.value.remedy


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
