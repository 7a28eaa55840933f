"""The OpenVINO backend: the engine is the prepared ONNX file, with the arithmetic to run it in among its metadata.

One file, the same bytes from the same model on processors of one kind, and any x86-64 or ARM machine with OpenVINO of
the year loads it, without the onnx package: OpenVINO reads ONNX itself. Its own IR is two files, and would have to be
packed into one; CenterFace is read in 0.053 s from either (int8: 0.066 s from ONNX, 0.114 s from IR), before 0.3 s of
compiling for the processor at hand (int8: 0.8 s) which neither saves. What OpenVINO compiled runs on that kind of
processor alone, so it is made on the device.

Sixteen bits are those that the building machine has, bfloat16 or float16, so that the gate judges what devices
compute; on one that has none the file is half as large and no faster. The agent holds to what the file says: see
:mod:`edge_agent.engines.openvino_cpu`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import onnx

from edge_agent.engines.openvino_cpu import ARITHMETIC_KEY, bindings, own_arithmetic
from maskfleet.errors import BuildError
from model_compiler.onnx_file import first_line


def build(model: bytes, *, precision: str, progress: Callable[[float], None], log: Callable[[str], None]) -> bytes:
    """Marks a prepared model and proves that OpenVINO compiles it.

    Args:
        model: prepared, in its final precision.
        precision: ``fp32``, ``fp16`` or ``int8``; what an int8 model keeps out of eight bits has 32.
        progress: told how far it is, 0 to 1.
        log: told what is worth a line.

    Raises:
        UnsupportedError: OpenVINO is not installed.
        BuildError: OpenVINO refuses the model.
    """
    core = bindings().Core()
    arithmetic = own_arithmetic(core) if precision == "fp16" else "f32"
    log(f"floating point is computed as {arithmetic}")
    try:
        engine = _marked(model, arithmetic)
        progress(0.2)
        core.compile_model(core.read_model(engine), "CPU", {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1})
    except Exception as error:  # noqa: BLE001  # its exceptions have no common base
        raise BuildError(
            f"OpenVINO refuses the model ({_said(error, model)})", remedy="build it for ort-cpu, which runs there too"
        ) from None
    progress(1.0)
    return engine


def _marked(model: bytes, arithmetic: str) -> bytes:
    proto = onnx.load_model_from_string(model)
    kept = [entry for entry in proto.metadata_props if entry.key != ARITHMETIC_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend([*kept, onnx.StringStringEntryProto(key=ARITHMETIC_KEY, value=arithmetic)])
    return bytes(proto.SerializeToString(deterministic=True))


def _said(error: Exception, model: bytes) -> str:
    """What OpenVINO holds against a model, with node and operator; first it says where in its own sources it was."""
    if found := re.search(r"No conversion rule found for operations: (\w+)", str(error)):
        nodes = (node.name for node in onnx.load_model_from_string(model).graph.node if node.op_type == found[1])
        return f"node {next(nodes, '')!r}, operator {found[1]}: no conversion"
    frames = ("Exception from", "Check '", "FrontEnd API failed")
    return first_line("\n".join(line for line in str(error).splitlines() if not line.startswith(frames)))
