"""Engines of the target ``ort-cpu``: prepared ONNX, run by ONNX Runtime on the CPU.

The model's input and outputs are checked against the decoder when it is loaded, not when the first frame comes.

Example::

    engine = OnnxCpuEngine.load(path, decoder=decoder_spec("centerface"), threads=2)
    outputs = engine.infer(blob)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge_agent.engines.engine import EngineInfo, FloatArray
from maskfleet.decoding import DecoderSpec, TensorSpec
from maskfleet.errors import BadModelError, EngineError

TARGET = "ort-cpu"
_PROVIDER = "CPUExecutionProvider"
_REMEDY = "build the release again for ort-cpu"
_FATAL_ONLY = 4  # what goes wrong comes back as an exception
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


class OnnxCpuEngine:
    """A session. Safe to call from several threads: each run has its own memory."""

    def __init__(self, session: Any, info: EngineInfo, input_name: str) -> None:
        self._session: Any = session
        self._info = info
        self._input_name = input_name
        self._shape = (1, 3, info.height, info.width)

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
            raise EngineError(f"ONNX Runtime cannot load {path.name} ({_line(error)})", remedy=_REMEDY) from None
        if session.get_providers() != [_PROVIDER]:
            # It falls back in silence, so ask what it really uses.
            raise EngineError(f"ONNX Runtime uses {session.get_providers()} where {_PROVIDER} is due", remedy=_REMEDY)
        inputs = [_spec(value) for value in session.get_inputs()]
        outputs = [_spec(value) for value in session.get_outputs()]
        width, height = _input_size(path, inputs)
        _check_outputs(path, decoder, outputs)
        info = EngineInfo(
            target=TARGET,
            backend="onnxruntime",
            runtime_version=str(onnxruntime.__version__),
            width=width,
            height=height,
            outputs=tuple(output.name for output in outputs),
        )
        return cls(session, info, inputs[0].name)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        session = self._session
        if session is None:
            raise EngineError("the engine is closed", remedy="load it again")
        if blob.shape != self._shape or blob.dtype != np.float32:
            raise EngineError(f"the engine takes float32{list(self._shape)}, not {blob.dtype}{list(blob.shape)}")
        try:
            values = session.run(None, {self._input_name: blob})
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed ({_line(error)})", remedy=_REMEDY) from error
        return dict(zip(self._info.outputs, values))

    def close(self) -> None:
        self._session = None


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(value.name, _DTYPES.get(value.type, value.type), tuple(value.shape))


def _input_size(path: Path, inputs: list[TensorSpec]) -> tuple[int, int]:
    only = inputs[0] if len(inputs) == 1 else None
    if only is not None and only.dtype == "float32" and len(only.shape) == 4:
        batch, channels, height, width = only.shape
        if (batch, channels) == (1, 3) and isinstance(height, int) and isinstance(width, int):
            return width, height
    listed = ", ".join(str(value) for value in inputs) or "nothing"
    raise BadModelError(
        f"{path.name} takes {listed} where an engine takes float32[1, 3, height, width]",
        remedy="compile the model first: python -m model_compiler compile",
    )


def _check_outputs(path: Path, decoder: DecoderSpec, outputs: list[TensorSpec]) -> None:
    by_name = {output.name: output for output in outputs}
    for role in decoder.outputs:
        output = by_name.get(role.role)
        length = output.shape[role.axis] if output is not None and role.axis < len(output.shape) else None
        if output is None or output.dtype != "float32" or (isinstance(length, int) and length != role.length):
            raise BadModelError(
                f"{path.name} has no output {role.role!r} as decoder {decoder.name!r} reads it"
                f" (it has {', '.join(str(o) for o in outputs) or 'none'})",
                remedy="compile the model with the decoder that belongs to it",
            )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
