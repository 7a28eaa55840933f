"""Computes what is constant in a graph of static shape, and removes what nobody reads.

An export for any size works its reshapes out at run time, from ``Shape`` through ``Gather`` and ``Concat``. Once the
input has one size these chains are numbers; folded they cost nothing and every compiler takes them.

- Only cheap, repeatable work is folded: no random operator, no operator with a graph inside, no tensor above
  :data:`MAX_ELEMENTS`.
- ``QuantizeLinear`` and ``DequantizeLinear`` stay: they say which precision a layer has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from model_compiler.onnx_file import subgraphs

MAX_ELEMENTS = 1 << 20
_KEPT = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Dropout", "Bernoulli", "Multinomial"}
    | {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def folded(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Folds constants in place, one pass in the graph's order.

    Args:
        model: topologically sorted, as the checker demands.
        shapes: the static shapes that are known, by name of tensor.

    Returns:
        How many nodes were replaced by their value. Call again with new shapes until it is 0.
    """
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    results = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        values = None if results & set(node.output) else _value(node, constants, shapes, opset)
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, values):
            if name:
                tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
                constants[name] = tensor
                graph.initializer.append(tensor)
        count += 1
    if count:
        del graph.node[:]
        graph.node.extend(kept)
    return count


def pruned(graph: onnx.GraphProto) -> None:
    """Removes, in place, nodes and weights that no output depends on."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= _reads(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:]
    graph.node.extend(reversed(kept))
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Every name that a node reads, those that its inner graphs take from outside included."""
    names = set(node.input)
    for inner in subgraphs(node):
        names |= {value.name for value in inner.output}
        for child in inner.node:
            names |= _reads(child)
    return names


def _value(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, tuple[int, ...]],
    opset: int,
) -> list[Any] | None:
    """What a node gives, where that is known now."""
    if node.op_type in _KEPT or any(True for _ in subgraphs(node)):
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        shape = np.asarray(shapes[node.input[0]], np.int64)
        if node.op_type == "Size":
            return [np.asarray(shape.prod(), np.int64)]
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return [shape[bounds.get("start", 0) : bounds.get("end")]]
    names = [name for name in node.input if name]
    if not all(name in constants for name in names):
        return None
    if sum(int(np.prod(constants[name].dims)) for name in names) > MAX_ELEMENTS:
        return None
    if sum(int(np.prod(shapes.get(name, (0,)))) for name in node.output) > MAX_ELEMENTS:
        return None
    try:
        evaluator = ReferenceEvaluator(node, opsets={"": opset})
        values = list(evaluator.run(None, {name: numpy_helper.to_array(constants[name]) for name in names}))
    except Exception:  # noqa: BLE001  # the reference has gaps and raises anything; what it cannot fold just stays
        return None
    return values if all(isinstance(value, np.ndarray | np.generic) for value in values) else None
