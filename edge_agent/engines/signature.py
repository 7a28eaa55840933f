"""What every engine on the CPU must be: one picture in, the decoder's roles out, float32, of static shape.

The model's input and outputs are checked against the decoder when it is loaded, not when the first frame comes.

Example::

    width, height = input_size("engine", inputs)
    check_outputs("engine", decoder, outputs)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.engines.engine import EngineInfo, FloatArray
from maskfleet.decoding import DecoderSpec, TensorSpec
from maskfleet.errors import BadModelError, EngineError


def input_size(file: str, inputs: Sequence[TensorSpec]) -> tuple[int, int]:
    """Width and height of an engine's input, in pixels.

    Args:
        file: its name, for people.
        inputs: as the runtime sees them.

    Raises:
        BadModelError: it takes something else than one float32[1, 3, height, width].
    """
    only = inputs[0] if len(inputs) == 1 else None
    if only is not None and only.dtype == "float32" and len(only.shape) == 4:
        batch, channels, height, width = only.shape
        if (batch, channels) == (1, 3) and isinstance(height, int) and isinstance(width, int):
            return width, height
    listed = ", ".join(str(value) for value in inputs) or "nothing"
    raise BadModelError(
        f"{file} takes {listed} where an engine takes float32[1, 3, height, width]",
        remedy="compile the model first: python -m model_compiler compile",
    )


def check_outputs(file: str, decoder: DecoderSpec, outputs: Sequence[TensorSpec]) -> None:
    """Passes or raises.

    Args:
        file: the engine's name, for people.
        decoder: that reads them.
        outputs: as the runtime sees them.

    Raises:
        BadModelError: a role of the decoder is missing, or an output is not float32 of static shape.
    """
    by_name = {output.name: output for output in outputs}
    for role in decoder.outputs:
        output = by_name.get(role.role)
        length = output.shape[role.axis] if output is not None and role.axis < len(output.shape) else None
        if output is None or output.dtype != "float32" or length != role.length:
            raise BadModelError(
                f"{file} has no output {role.role!r} as decoder {decoder.name!r} reads it"
                f" (it has {', '.join(str(o) for o in outputs) or 'none'})",
                remedy="compile the model with the decoder that belongs to it",
            )
    for output in outputs:  # their memory is allocated once
        if output.dtype != "float32" or not all(isinstance(dim, int) for dim in output.shape):
            raise BadModelError(
                f"{file} gives {output} where an engine gives float32 of one size",
                remedy="compile the model first: python -m model_compiler compile",
            )


def check_blob(info: EngineInfo, blob: FloatArray) -> None:
    """Passes or raises.

    Args:
        info: of the engine.
        blob: that it is to run on.

    Raises:
        EngineError: it is not float32, 1×3×height×width, C-contiguous.
    """
    shape = (1, 3, info.height, info.width)
    if blob.shape != shape or blob.dtype != np.float32:
        raise EngineError(f"the engine takes float32{list(shape)}, not {blob.dtype}{list(blob.shape)}")
    if not blob.flags.c_contiguous:  # it is read where it lies
        raise EngineError("the engine takes arrays that are C-contiguous", remedy="use numpy.ascontiguousarray()")


def one_line(error: Exception) -> str:
    """What a runtime says in several lines, at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
