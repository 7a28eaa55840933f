"""Computes what is constant in a graph of static shape, and removes what nobody reads.

An export for any size works its reshapes out at run time, from ``Shape`` through ``Gather`` and ``Concat``. Once the
input has one size these chains are numbers; folded they cost nothing and every compiler takes them. onnxslim folds; its
fusions stay off, since the gate compares engines with the model as it was given, and fusing is what backends do.
"""

from __future__ import annotations

import onnx

from maskfleet.errors import BadModelError
from model_compiler.onnx_file import subgraphs

_FUSIONS = ["graph_fusion", "dead_node_elimination", "subexpression_elimination", "weight_tying"]
_RANDOM = frozenset({"RandomNormal", "RandomUniform"})


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The model with its constants folded, and by how many nodes it shrank.

    Args:
        model: of static shape, checked.

    Raises:
        BadModelError: it draws random numbers, which would be folded like constants.
    """
    for node in model.graph.node:
        if node.op_type in _RANDOM:
            raise BadModelError(
                f"node {node.name!r} draws random numbers ({node.op_type})",
                remedy="export the model for inference, without noise",
            )
    if not _foldable(model.graph):
        return model, 0
    import onnxslim  # brings sympy, which takes half a second to import

    slim: onnx.ModelProto = onnxslim.slim(model, skip_optimizations=list(_FUSIONS))
    return slim, len(model.graph.node) - len(slim.graph.node)


def _foldable(graph: onnx.GraphProto) -> bool:
    """Whether any node's result is known now: it reads weights alone, nothing at all, or the shape of something."""
    known = {tensor.name for tensor in graph.initializer} | {""}
    return any(node.op_type in ("Shape", "Size") or known.issuperset(node.input) for node in graph.node)


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
