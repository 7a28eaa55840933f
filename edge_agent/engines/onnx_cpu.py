"""Engines of the target ``ort-cpu``: prepared ONNX, run by ONNX Runtime on the CPU.

Input and outputs are bound once in each thread that calls: the input where it lies, the outputs to memory of the
thread's own, so that a frame allocates nothing.

Example::

    engine = OnnxCpuEngine.load(path, decoder=decoder_spec("centerface"), threads=2)
    outputs = engine.infer(blob)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge_agent.engines.engine import EngineInfo, FloatArray
from edge_agent.engines.signature import check_blob, check_outputs, input_size, one_line
from maskfleet.decoding import DecoderSpec, TensorSpec
from maskfleet.errors import EngineError

TARGET = "ort-cpu"
_PROVIDER = "CPUExecutionProvider"
_REMEDY = "build the release again for ort-cpu"
_FATAL_ONLY = 4  # what goes wrong comes back as an exception
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


class OnnxCpuEngine:
    """A session. Safe to call from several threads, which run side by side."""

    def __init__(self, session: Any, info: EngineInfo) -> None:
        self._bound: _Bound | None = _Bound(session)
        self._info = info

    @classmethod
    def load(cls, path: Path, *, decoder: DecoderSpec, threads: int) -> OnnxCpuEngine:
        """Loads a prepared model.

        Args:
            path: of the ONNX file, whose digest was checked.
            decoder: that its outputs are read by.
            threads: that one run may use.

        Raises:
            EngineError: the runtime cannot load it.
            BadModelError: it is not what the decoder reads, or not of static shape.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, threads)
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _FATAL_ONLY
        # Threads that spin between two frames take the cores from those who decode and encode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[_PROVIDER])
        except Exception as error:  # noqa: BLE001  # the runtime's exceptions have no common base but this
            raise EngineError(f"ONNX Runtime cannot load {path.name} ({one_line(error)})", remedy=_REMEDY) from None
        if session.get_providers() != [_PROVIDER]:
            # It falls back in silence, so ask what it really uses.
            raise EngineError(f"ONNX Runtime uses {session.get_providers()} where {_PROVIDER} is due", remedy=_REMEDY)
        outputs = [_spec(value) for value in session.get_outputs()]
        width, height = input_size(path.name, [_spec(value) for value in session.get_inputs()])
        check_outputs(path.name, decoder, outputs)
        info = EngineInfo(
            target=TARGET,
            backend="onnxruntime",
            runtime_version=str(onnxruntime.__version__),
            width=width,
            height=height,
            outputs=tuple(output.name for output in outputs),
        )
        return cls(session, info)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        bound = self._bound
        if bound is None:
            raise EngineError("the engine is closed", remedy="load it again")
        check_blob(self._info, blob)
        try:
            return bound.run(blob)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed ({one_line(error)})", remedy=_REMEDY) from error

    def close(self) -> None:
        self._bound = None  # the memory of every thread goes with it


class _Bound(threading.local):
    """A session with memory for its outputs; each thread that comes by gets its own."""

    def __init__(self, session: Any) -> None:  # runs once in each thread
        self._session = session
        self._binding = session.io_binding()
        self._input = session.get_inputs()[0].name
        self._blob: FloatArray | None = None
        # The binding knows addresses only: what lies there is kept here.
        self._outputs: dict[str, FloatArray] = {}
        for output in session.get_outputs():
            memory = self._outputs[output.name] = np.zeros(output.shape, np.float32)
            self._binding.bind_output(output.name, "cpu", 0, np.float32, memory.shape, memory.ctypes.data)

    def run(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        if blob is not self._blob:  # who fills one array again and again has it bound once
            self._binding.bind_cpu_input(self._input, blob)
            self._blob = blob
        self._session.run_with_iobinding(self._binding)
        return self._outputs


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(value.name, _DTYPES.get(value.type, value.type), tuple(value.shape))
