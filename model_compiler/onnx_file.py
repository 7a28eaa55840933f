"""Reads an ONNX file that may be anything: garbage, cut short, without its weights, or hostile in size.

Nothing that was not checked here goes to a compiler: TensorRT parses garbage as an empty network and says it is fine.

Example::

    model = checked(path.read_bytes())
    inputs, outputs = signature(model)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import checker, inliner

from maskfleet.decoding import Dim, TensorSpec
from maskfleet.errors import BadModelError

MAX_MODEL_BYTES = 1 << 30
"""Largest file that is read. A face detector has a few megabytes; protobuf itself ends at 2 GiB."""

STANDARD_DOMAINS = ("", "ai.onnx")
_REMEDY = "export it again as one ONNX file, weights inside, with standard operators"


def checked(data: bytes) -> onnx.ModelProto:
    """The model in an ONNX file, once the checker finds nothing.

    Functions of the file's own are written out in place, so that only standard operators remain.

    Raises:
        BadModelError: it is no ONNX, cut short, too large, empty, without its weights, or uses operators of others.
    """
    if len(data) > MAX_MODEL_BYTES:
        raise BadModelError(
            f"the model has {len(data)} bytes, more than {MAX_MODEL_BYTES}", remedy="give a smaller detector"
        )
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise BadModelError(
            f"the file of {len(data)} bytes is no ONNX, or is cut short",
            remedy="check that it was copied whole and that it is an .onnx file",
        ) from None
    # Protobuf reads much that was never ONNX as a message of unknown fields.
    if model.ir_version <= 0 or not model.graph.node or not model.graph.output:
        raise BadModelError(f"the file of {len(data)} bytes holds no ONNX graph", remedy=_REMEDY)
    _check_weights(model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _check_operators(model.graph)
    try:
        checker.check_model(model)
    # RuntimeError and ValueError are how the checker's C++ reports what its own class does not cover
    except (checker.ValidationError, RuntimeError, ValueError) as error:
        raise BadModelError(f"the ONNX checker refuses the model ({first_line(error)})", remedy=_REMEDY) from None
    return model


def signature(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the file declares them; weights that old exports list as inputs are no inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(tensor_spec(value) for value in model.graph.input if value.name not in weights)
    return inputs, tuple(tensor_spec(value) for value in model.graph.output)


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Name, dtype as numpy calls it, and shape of a tensor of the graph."""
    tensor = value.type.tensor_type
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, ValueError, TypeError):
        dtype = "unknown"
    shape: tuple[Dim, ...] = tuple(
        dim.dim_value if dim.WhichOneof("value") == "dim_value" else dim.dim_param or None for dim in tensor.shape.dim
    )
    return TensorSpec(value.name, dtype, shape)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node carries, as the branches of an If."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def first_line(error: object) -> str:
    """The first line of an error's text that says something, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _check_weights(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BadModelError(
                f"weight {tensor.name!r} lies in another file",
                remedy='save it as one file: onnx.save(onnx.load("model.onnx"), "whole.onnx")',
            )
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadModelError(
                f"weight {tensor.name!r} cannot be read ({first_line(error)})", remedy="check that it was copied whole"
            ) from None
        if tensor.data_type == onnx.TensorProto.FLOAT and not np.isfinite(onnx.numpy_helper.to_array(tensor)).all():
            raise BadModelError(
                f"weight {tensor.name!r} holds values that are no numbers",
                remedy="the training diverged, or the file was damaged; take another checkpoint",
            )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
        for inner in subgraphs(node):
            yield from _tensors(inner)


def _check_operators(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.domain not in STANDARD_DOMAINS:
            raise BadModelError(
                f"node {node.name or node.output[0]!r} uses operator {node.domain}.{node.op_type}, "
                "which is not of the ONNX standard",
                remedy="export without optimisation for one runtime, with standard operators only",
            )
        for inner in subgraphs(node):
            _check_operators(inner)
