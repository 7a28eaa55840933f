"""Runs a prepared model by ONNX Runtime on the CPU: what every engine is measured against.

The only module of the compiler that runs models outside the agent's own engines.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from maskfleet.errors import EngineError

FloatArray = npt.NDArray[np.float32]


class Reference:
    """A model, loaded once.

    Args:
        model: a prepared ONNX file.
        threads: how many may work on one picture.

    Raises:
        EngineError: ONNX Runtime refuses it.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes back as an exception
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  # its exceptions have no common base
            raise EngineError(f"ONNX Runtime refuses the model: {_text(error)}") from None
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, blob: FloatArray) -> dict[str, FloatArray]:
        """Runs it on float32 1×3×height×width; each output by name.

        Raises:
            EngineError: ONNX Runtime raised.
        """
        try:
            values = self._session.run(None, {self._input: blob})
        except Exception as error:  # noqa: BLE001  # its exceptions have no common base
            raise EngineError(f"ONNX Runtime cannot run the model: {_text(error)}") from None
        return dict(zip(self._outputs, values))


def run(model: bytes, size: tuple[int, int]) -> dict[str, FloatArray]:
    """Runs a model once on a grey picture of a size (width, height): each output by name."""
    return Reference(model).infer(np.full((1, 3, size[1], size[0]), 64.0, np.float32))


def _text(error: Exception) -> str:
    """ONNX Runtime's sentence without its codes."""
    return " ".join(str(error).split())[:300]
