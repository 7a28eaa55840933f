"""Engines of the target ``openvino-cpu``: prepared ONNX, run by OpenVINO on the CPU.

Rules:

- Arithmetic is said by the engine file, under :data:`ARITHMETIC_KEY` of its metadata, and is what the compiler's gate
  saw. Left alone, OpenVINO computes fp32 models in bfloat16 on every processor that can. A processor that lacks the
  16-bit format of the file computes in 32 bits: never in a format that was not judged, nor in one that is emulated.
- Each thread that calls has a request of its own, with memory that was allocated once: the input is read where it lies.
- OpenVINO sends telemetry when its conversion tools are imported, which its package does by itself. The tools are kept
  out, so nothing is sent.
- Nothing is written: OpenVINO keeps compiled models only in a folder that it is given.

Example::

    engine = OpenVinoCpuEngine.load(path, decoder=decoder_spec("centerface"), threads=2)
    outputs = engine.infer(blob)
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.engines.engine import EngineInfo, FloatArray
from edge_agent.engines.signature import check_blob, check_outputs, input_size, one_line
from maskfleet.decoding import DecoderSpec, TensorSpec
from maskfleet.errors import EngineError, UnsupportedError

TARGET = "openvino-cpu"
ARITHMETIC_KEY = "maskfleet.arithmetic"
"""Where an engine file says ``f32``, ``bf16`` or ``f16``; one that says nothing is ``f32``."""

MOST_AT_ONCE = 4
"""Pictures that one engine works on at the same time; each costs memory of its own."""

_TOOLS = "openvino.tools.ovc"
_REMEDY = "build the release again for openvino-cpu"


def bindings() -> Any:
    """OpenVINO, without the tools that send telemetry.

    Raises:
        UnsupportedError: it is not installed.
    """
    sys.modules.setdefault(_TOOLS, None)  # type: ignore[arg-type]  # how Python is told that there is no such module
    try:
        return importlib.import_module("openvino")
    except (ImportError, OSError) as error:  # OSError: the bindings are there, a library of theirs is not
        raise UnsupportedError(
            f"engines for {TARGET} need openvino, which cannot be imported ({error})",
            remedy="install it: pip install 'maskfleet[openvino]'",
        ) from None


def own_arithmetic(core: Any) -> str:
    """What this processor computes fastest in: ``bf16``, ``f16``, or ``f32`` where it has neither.

    Args:
        core: of OpenVINO.
    """
    return str(core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())


class OpenVinoCpuEngine:
    """A compiled model. Safe to call from several threads, which run side by side."""

    def __init__(self, openvino: Any, compiled: Any, info: EngineInfo) -> None:
        self._requests: _Requests | None = _Requests(openvino, compiled, info.outputs)
        self._info = info

    @classmethod
    def load(cls, path: Path, *, decoder: DecoderSpec, threads: int) -> OpenVinoCpuEngine:
        """Loads an engine whose digest was checked, and compiles it for this processor: some 0.3 s, 0.8 s for int8.

        Args:
            path: of the engine.
            decoder: that its outputs are read by.
            threads: that one run may use.

        Raises:
            UnsupportedError: OpenVINO is not installed.
            EngineError: the runtime cannot load it.
            BadModelError: it is not what the decoder reads, or not of static shape.
        """
        openvino = bindings()
        try:
            core = openvino.Core()
            # From memory, so that the file's format is told by what is in it and never by its name.
            model = core.read_model(path.read_bytes())
            inputs, outputs = ([_spec(port) for port in ports] for ports in (model.inputs, model.outputs))
        except Exception as error:  # noqa: BLE001  # RuntimeError from the runtime, OSError from the file
            raise EngineError(f"OpenVINO cannot load {path.name} ({one_line(error)})", remedy=_REMEDY) from None
        width, height = input_size(path.name, inputs)
        check_outputs(path.name, decoder, outputs)
        try:
            compiled = core.compile_model(model, "CPU", _properties(_arithmetic(core, model), max(1, threads)))
        except Exception as error:  # noqa: BLE001
            raise EngineError(f"OpenVINO cannot compile {path.name} ({one_line(error)})", remedy=_REMEDY) from None
        info = EngineInfo(
            target=TARGET,
            backend="openvino",
            runtime_version=str(openvino.__version__).partition("-")[0],
            width=width,
            height=height,
            outputs=tuple(output.name for output in outputs),
        )
        return cls(openvino, compiled, info)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        requests = self._requests
        if requests is None:
            raise EngineError("the engine is closed", remedy="load it again")
        check_blob(self._info, blob)
        try:
            return requests.run(blob)
        except Exception as error:
            raise EngineError(f"OpenVINO failed ({one_line(error)})", remedy=_REMEDY) from error

    def close(self) -> None:
        self._requests = None  # the request of every thread goes with it


class _Requests(threading.local):
    """A compiled model with a request and memory for its outputs; each thread that comes by gets its own."""

    def __init__(self, openvino: Any, compiled: Any, names: tuple[str, ...]) -> None:  # runs once in each thread
        self._tensor = openvino.Tensor
        self._request = compiled.create_infer_request()
        self._blob: FloatArray | None = None
        self._outputs: dict[str, FloatArray] = {}
        # In the order of the model's; compiled outputs have names of what was fused into them as well.
        for place, (name, port) in enumerate(zip(names, compiled.outputs)):
            memory = self._outputs[name] = np.zeros(tuple(port.shape), np.float32)
            self._request.set_output_tensor(place, self._tensor(memory, shared_memory=True))

    def run(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        if not blob.flags.writeable:  # OpenVINO reads only where it might write
            blob = blob.copy()
        if blob is not self._blob:  # who fills one array again and again has it bound once
            self._request.set_input_tensor(self._tensor(blob, shared_memory=True))
            self._blob = blob
        self._request.infer(share_outputs=True)
        return self._outputs


def _spec(port: Any) -> TensorSpec:
    shape = tuple(dim.get_length() if dim.is_static else None for dim in port.get_partial_shape())
    dtype = port.get_element_type()
    return TensorSpec(port.get_any_name(), "unknown" if dtype.is_dynamic() else str(dtype.to_dtype()), shape)


def _arithmetic(core: Any, model: Any) -> str:
    """What the engine file says, where this processor has it."""
    where = ["framework", ARITHMETIC_KEY]
    said = str(model.get_rt_info(where).astype(str)) if model.has_rt_info(where) else "f32"
    return said if said == own_arithmetic(core) else "f32"


def _properties(arithmetic: str, threads: int) -> dict[str, Any]:
    at_once = max(1, min((os.cpu_count() or 1) // threads, MOST_AT_ONCE))
    return {
        "INFERENCE_PRECISION_HINT": arithmetic,
        "PERFORMANCE_HINT": "LATENCY",
        # The hint alone lets one picture at a time in, and the second camera's waits while cores idle.
        "NUM_STREAMS": at_once,
        "INFERENCE_NUM_THREADS": at_once * threads,
        # Others use the cores too: two processes that pin their threads meet on the same ones.
        "ENABLE_CPU_PINNING": False,
    }
