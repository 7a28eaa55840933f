"""From an ONNX file as somebody exported it to one that every backend compiles.

What comes out is of one kind: opset 17, no weights among the inputs, one input ``input`` of static shape
1×3×height×width, outputs named after the roles that the decoder reads, every node named, constants folded, shapes
inferred and checked.
The same bytes in and the same size give the same bytes out, so that their digest can be a cache's key.

Some graphs work at one size only (anchors or reshapes are baked in). That is found by trying: the graph is run at its
own and at another size, and its outputs must grow with the picture.

Example::

    prepared = prepare(path.read_bytes(), decoder_spec("centerface"), 640, 352)
    prepared.outputs[0]     # heatmap float32[1, 1, 88, 160]
"""

from __future__ import annotations

import dataclasses

import onnx
from onnx import checker, shape_inference, version_converter

from maskfleet.decoding import (
    MAX_INPUT,
    MIN_INPUT,
    DecoderSpec,
    TensorSpec,
    bind_outputs,
    check_input,
    choose_outputs,
    input_size,
)
from maskfleet.errors import BadModelError, FleetError
from maskfleet.ids import digest_bytes
from model_compiler import reference
from model_compiler.folding import folded, pruned
from model_compiler.onnx_file import checked, first_line, signature, subgraphs, tensor_spec

OPSET = 17
IR_VERSION = 8
INPUT_NAME = "input"
_GROWTH = (0.8, 1.25)
"""How far the growth of an output may be from the growth of the picture: borders of strided layers round."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model that every backend compiles.

    Attributes:
        model: the ONNX file.
        digest: of it.
        source_digest: of the file that it was made from.
        decoder: name of the decoder.
        width: of the input, in pixels.
        height: of the input, in pixels.
        fixed_size: width and height that the graph is made for; None where it works at any size.
        inputs: the one input.
        outputs: named by role, in the decoder's order.
        notes: what was changed, for the report.
    """

    model: bytes
    digest: str
    source_digest: str
    decoder: str
    width: int
    height: int
    fixed_size: tuple[int, int] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a model file is, before anything is built.

    Attributes:
        inputs: as declared.
        outputs: as declared.
        fixed_size: width and height that the graph is made for; None where it works at any size.
        default_size: width and height that are built where nothing else is asked for.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed_size: tuple[int, int] | None
    default_size: tuple[int, int]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "inputs": [dataclasses.asdict(spec) for spec in self.inputs],
            "outputs": [dataclasses.asdict(spec) for spec in self.outputs],
            "fixed_size": list(self.fixed_size) if self.fixed_size else None,
            "default_size": list(self.default_size),
            "resizable": self.fixed_size is None,
        }


def inspect(data: bytes, decoder: DecoderSpec) -> Inspection:
    """Says whether a file can be built for a decoder, and at which sizes.

    Raises:
        BadModelError: it cannot; the error says why.
    """
    model = checked(data)
    inputs, outputs = signature(model)
    fixed = _fixed_size(_normalised(model, []), decoder)
    return Inspection(inputs, outputs, fixed, input_size(decoder, fixed, 0, 0))


def prepare(data: bytes, decoder: DecoderSpec, width: int = 0, height: int = 0) -> Prepared:
    """Prepares a model for one input size.

    Args:
        data: the ONNX file.
        decoder: how its outputs are read.
        width: of the input, in pixels; 0 for the default.
        height: of the input, in pixels; 0 for the default.

    Raises:
        BadModelError: it is no ONNX, or not what the decoder reads.
        InvalidInputError: the size does not suit the decoder or the graph.
    """
    notes: list[str] = []
    model = _normalised(checked(data), notes)
    fixed = _fixed_size(model, decoder)
    width, height = input_size(decoder, fixed, width, height)
    result, fewer = folded(_sized(model, decoder, width, height))
    if fewer:
        notes.append(f"folded {fewer} constant nodes")
    result = _checked(result)
    prepared = result.SerializeToString(deterministic=True)
    return Prepared(
        model=prepared,
        digest=digest_bytes(prepared),
        source_digest=digest_bytes(data),
        decoder=decoder.name,
        width=width,
        height=height,
        fixed_size=fixed,
        inputs=tuple(tensor_spec(value) for value in result.graph.input),
        outputs=tuple(tensor_spec(value) for value in result.graph.output),
        notes=tuple(notes),
    )


def _normalised(model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """What does not depend on the size: no weights among the inputs, our opset, no texts."""
    weights = {tensor.name for tensor in model.graph.initializer}
    listed = [value for value in model.graph.input if value.name in weights]
    if listed:
        notes.append(f"took {len(listed)} weights out of the inputs")
        for value in listed:
            model.graph.input.remove(value)
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version != OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        # RuntimeError is how the converter's C++ reports an operator without an adapter
        except (version_converter.ConvertError, RuntimeError, ValueError) as error:
            raise BadModelError(
                f"the model is of opset {version}, which cannot be converted to {OPSET} ({first_line(error)})",
                remedy=f"export it with opset_version={OPSET}",
            ) from None
        notes.append(f"converted from opset {version} to {OPSET}")
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "maskfleet", "", ""
    model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""  # exports write stack traces with paths of their machine here
    del model.graph.value_info[:]
    return model


def _fixed_size(model: onnx.ModelProto, decoder: DecoderSpec) -> tuple[int, int] | None:
    """Width and height that a graph is made for, found by trying; None where it works at any.

    Raises:
        BadModelError: it works at no size, or not with this decoder.
    """
    declared = _declared_size(model, decoder)
    choose_outputs(decoder, signature(model)[1])  # before a trial fails on something less telling
    if declared is not None:
        try:
            outputs = signature(_resized(model, decoder, *declared))[1]
        except BadModelError:
            pass  # the size of a dummy: the trials tell
        else:
            bind_outputs(decoder, outputs)
    usual = _clamped(decoder.default_size, decoder)
    other = usual if usual != declared else _clamped((usual[0] * 2, usual[1] * 2), decoder)
    if declared is None:
        _trial(model, decoder, usual)
        return None
    try:
        moved = _trial(model, decoder, other)
    except BadModelError as error:
        # A decoder that does not fit fails at every size; this one says how.
        try:
            _trial(model, decoder, declared)
        except BadModelError:
            raise error from None
        return declared
    try:
        own = _trial(model, decoder, declared)
    except BadModelError:
        return None  # many exports declare the size of a dummy that is too small for them
    growth = (other[0] * other[1]) / (declared[0] * declared[1])
    for role, elements in own.items():
        if not _GROWTH[0] <= moved[role] / (elements * growth) <= _GROWTH[1]:
            return declared
    return None


def _declared_size(model: onnx.ModelProto, decoder: DecoderSpec) -> tuple[int, int] | None:
    """Width and height in the file; None where it leaves one of them open."""
    height, width = check_input(decoder, signature(model)[0]).shape[2:]
    return (width, height) if isinstance(width, int) and isinstance(height, int) and width and height else None


def _clamped(size: tuple[int, int], decoder: DecoderSpec) -> tuple[int, int]:
    """The nearest size that the decoder takes."""
    width, height = (
        min(max(value // decoder.stride * decoder.stride, MIN_INPUT), MAX_INPUT // decoder.stride * decoder.stride)
        for value in size
    )
    return width, height


def _trial(model: onnx.ModelProto, decoder: DecoderSpec, size: tuple[int, int]) -> dict[str, int]:
    """Runs a graph at a size: elements of each output by role."""
    sized = _sized(model, decoder, size[0], size[1])
    try:
        outputs = reference.run(sized.SerializeToString(), decoder)
    except FleetError as error:
        raise BadModelError(
            f"the model does not run at {size[0]}x{size[1]} ({error.message})", remedy="export it for a dynamic size"
        ) from None
    return {role: int(value.size) for role, value in outputs.items()}


def _sized(model: onnx.ModelProto, decoder: DecoderSpec, width: int, height: int) -> onnx.ModelProto:
    """The graph at one size, bound to its decoder, inferred and checked."""
    sized = _resized(model, decoder, width, height)
    source = sized.graph.input[0].name
    bound = bind_outputs(decoder, signature(sized)[1])
    computed = {name for node in sized.graph.node for name in node.output}
    for role, name in bound.items():
        if name not in computed:
            raise BadModelError(f"output {name!r} ({role}) is computed by no node", remedy="export the model again")
    by_name = {value.name: value for value in sized.graph.output}
    del sized.graph.output[:]
    sized.graph.output.extend(by_name[bound[output.role]] for output in decoder.outputs)
    pruned(sized.graph)
    _rename(sized, {source: INPUT_NAME} | {name: role for role, name in bound.items()})
    return _checked(sized)


def _resized(model: onnx.ModelProto, decoder: DecoderSpec, width: int, height: int) -> onnx.ModelProto:
    """The graph at one size, inferred."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    check_input(decoder, signature(sized)[0])
    shape = sized.graph.input[0].type.tensor_type.shape
    for dim, value in zip(shape.dim, (1, 3, height, width)):
        dim.Clear()
        dim.dim_value = value
    for result in sized.graph.output:
        result.type.tensor_type.ClearField("shape")  # the declared one is of another size
    return _inferred(sized)


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every node named and every shape inferred, once the checker finds nothing."""
    _name_nodes(model.graph)
    sized = _inferred(model)
    try:
        checker.check_model(sized, full_check=True)
    # RuntimeError and ValueError are how the checker's C++ reports what its own class does not cover
    except (checker.ValidationError, shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise BadModelError(
            f"the prepared model does not pass the checker ({first_line(error)})", remedy="export the model again"
        ) from None
    for output in signature(sized)[1]:
        if not all(isinstance(dim, int) for dim in output.shape):
            raise BadModelError(
                f"the shape of output {output} depends on what is in the picture",
                remedy="export the model without non-maximum suppression; maskfleet does that itself",
            )
    return sized


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.graph.value_info[:]
    try:
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    # RuntimeError and ValueError are how inference's C++ reports what its own class does not cover
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise BadModelError(
            f"the shapes in the model do not fit together ({first_line(error)})",
            remedy="export it for a dynamic size, or build it at the size that it was exported for",
        ) from None


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Renames tensors everywhere; whatever already carries a new name makes room for it."""
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in model.graph.initializer}
    moved = dict(names)
    for name in set(names.values()) & taken - set(names):
        moved[name] = next(free for i in range(len(taken) + 1) if (free := f"{name}.{i}") not in taken)
    _rename_in(model.graph, {old: new for old, new in moved.items() if old != new})
    del model.graph.value_info[:]


def _rename_in(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                if name in names:
                    field[i] = names[name]
        for inner in subgraphs(node):
            _rename_in(inner, names)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Gives a name to every node that has none of its own: errors and exclusions go by name."""
    seen: set[str] = set()
    for i, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{i}"
            while node.name in seen:
                node.name += "_"
        seen.add(node.name)
        for inner in subgraphs(node):
            _name_nodes(inner)
