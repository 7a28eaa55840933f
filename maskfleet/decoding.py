"""What each decoder expects of a model: names, outputs and preprocessing. No code that decodes; that is the agent's.

A decoder is chosen by name when a model is added. :func:`bind_outputs` says which output of the model plays which role;
the compiler renames outputs to their roles, so that an engine's outputs carry role names on every backend.

>>> sorted(DECODERS)
['centerface', 'ultraface', 'yunet']
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from maskfleet.errors import BadModelError, InvalidInputError
from maskfleet.policy import MaskPolicy

Dim = int | str | None


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output; a dimension is a number, a symbol, or None for unknown."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From a picture (uint8, H×W×3, BGR) to the engine's input (float32, 1×3×h×w).

    ``(pixel − mean) · scale`` after resizing by letterbox: the picture keeps its shape, its top left corner stays, and
    the rest is filled with zeros (before normalisation).

    Attributes:
        rgb: channels are red, green, blue; otherwise blue, green, red.
        mean: subtracted from each channel, 0 to 255.
        scale: multiplied afterwards.
    """

    rgb: bool
    mean: float
    scale: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class OutputRole:
    """One output that a decoder reads.

    Attributes:
        role: the name that the engine's output carries.
        axis: the axis whose length is fixed.
        length: that length.
        names: names by which known exports call it; where none matches, outputs are bound by order.
    """

    role: str
    axis: int
    length: int
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """Everything about a decoder but its code.

    Attributes:
        name: as ``fleet models add --decoder`` takes it.
        preprocessing: how a picture becomes the input.
        outputs: what the model must give, in the order of its first export.
        stride: width and height of the input are multiples of this.
        default_size: width and height of the input where nothing else is asked for.
        min_confidence: from which score its detectors are worth believing. They are not calibrated alike: on the clip
            of ``make demo`` YuNet at 0.35 sees 29 faces in 110 frames that are none, at 0.6 six, and as many true ones.
    """

    name: str
    preprocessing: Preprocessing
    outputs: tuple[OutputRole, ...]
    stride: int
    default_size: tuple[int, int]
    min_confidence: float

    def default_policy(self) -> MaskPolicy:
        """The policy of a release that asks for nothing."""
        return MaskPolicy(min_confidence=self.min_confidence)


_YUNET_STRIDES = (8, 16, 32)
MIN_INPUT = 32
MAX_INPUT = 4096

DECODERS: dict[str, DecoderSpec] = {
    spec.name: spec
    for spec in (
        DecoderSpec(
            name="centerface",
            preprocessing=Preprocessing(rgb=False, mean=0.0, scale=1.0),
            outputs=(
                OutputRole("heatmap", axis=1, length=1, names=("537", "heatmap")),
                OutputRole("scale", axis=1, length=2, names=("538", "scale")),
                OutputRole("offset", axis=1, length=2, names=("539", "offset")),
                OutputRole("landmarks", axis=1, length=10, names=("540", "landmarks")),
            ),
            stride=32,
            default_size=(640, 352),
            min_confidence=0.35,
        ),
        DecoderSpec(
            name="yunet",
            preprocessing=Preprocessing(rgb=False, mean=0.0, scale=1.0),
            outputs=tuple(
                OutputRole(f"{kind}_{stride}", axis=2, length=length, names=(f"{kind}_{stride}",))
                for kind, length in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
                for stride in _YUNET_STRIDES
            ),
            stride=32,
            default_size=(640, 352),
            min_confidence=0.6,
        ),
        DecoderSpec(
            name="ultraface",
            preprocessing=Preprocessing(rgb=True, mean=127.0, scale=1.0 / 128.0),
            outputs=(
                OutputRole("scores", axis=2, length=2, names=("scores",)),
                OutputRole("boxes", axis=2, length=4, names=("boxes",)),
            ),
            stride=1,
            default_size=(320, 240),
            min_confidence=0.6,
        ),
    )
}


def decoder_spec(name: str) -> DecoderSpec:
    """The decoder of that name.

    Raises:
        InvalidInputError: there is none.
    """
    try:
        return DECODERS[name]
    except KeyError:
        raise InvalidInputError(
            f"there is no decoder {name!r}", remedy=f"use one of {', '.join(sorted(DECODERS))}"
        ) from None


def bind_outputs(spec: DecoderSpec, outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Which output of a model plays which role: role → output name.

    Raises:
        BadModelError: the outputs are not what the decoder reads.
    """
    bound = choose_outputs(spec, outputs)
    for role, output in zip(spec.outputs, bound):
        length = output.shape[role.axis] if role.axis < len(output.shape) else 0
        if output.dtype != "float32" or (isinstance(length, int) and length != role.length):
            raise BadModelError(f"output {output} cannot be {role.role!r}", remedy=_belongs(spec))
    return {role.role: output.name for role, output in zip(spec.outputs, bound)}


def choose_outputs(spec: DecoderSpec, outputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The outputs of a model that a decoder reads, in the order of its roles, whatever their shapes.

    By name where every role's name is known, otherwise by order.

    Raises:
        BadModelError: there are not as many as the decoder reads.
    """
    by_name = {output.name: output for output in outputs}
    named = [next((by_name[n] for n in role.names if n in by_name), None) for role in spec.outputs]
    bound = [n for n in named if n is not None]
    if len(bound) == len(spec.outputs):
        return bound
    if len(outputs) != len(spec.outputs):
        raise BadModelError(
            f"the model has {len(outputs)} outputs where decoder {spec.name!r} reads {len(spec.outputs)}",
            remedy=_belongs(spec),
        )
    return list(outputs)


def _belongs(spec: DecoderSpec) -> str:
    wanted = ", ".join(f"{o.role} (axis {o.axis} of length {o.length})" for o in spec.outputs)
    return f"decoder {spec.name!r} reads {wanted}; choose the decoder that belongs to the model"


def check_input(spec: DecoderSpec, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """The one picture that a model takes: float32, N×3×H×W.

    Raises:
        BadModelError: it takes something else.
    """
    if len(inputs) == 1:
        only = inputs[0]
        channels = only.shape[1] if len(only.shape) == 4 else 0
        if only.dtype == "float32" and len(only.shape) == 4 and channels in (3, None):
            return only
    listed = ", ".join(str(i) for i in inputs) or "none"
    raise BadModelError(
        f"the model takes {listed}",
        remedy=f"decoder {spec.name!r} needs exactly one input, float32[N, 3, height, width]",
    )


def input_size(spec: DecoderSpec, fixed: tuple[int, int] | None, width: int, height: int) -> tuple[int, int]:
    """Width and height that an engine is built for.

    Args:
        spec: the decoder.
        fixed: width and height that the graph is made for; None where it works at any size.
        width: asked for, in pixels; 0 for the default.
        height: asked for, in pixels; 0 for the default.

    Raises:
        InvalidInputError: the size is no multiple of the stride, out of range, or not the one that the graph is
            made for.
    """
    default = fixed or spec.default_size
    size = (width or default[0], height or default[1])
    if fixed and size != fixed:
        raise InvalidInputError(
            f"input size {size[0]}x{size[1]} does not suit this model",
            remedy=f"its graph is made for {fixed[0]}x{fixed[1]} only; leave the size out",
        )
    for name, value in (("width", size[0]), ("height", size[1])):
        if not MIN_INPUT <= value <= MAX_INPUT or value % spec.stride:
            raise InvalidInputError(
                f"input {name} {value} does not suit decoder {spec.name!r}",
                remedy=f"give a multiple of {spec.stride} from {MIN_INPUT} to {MAX_INPUT}",
            )
    return size
