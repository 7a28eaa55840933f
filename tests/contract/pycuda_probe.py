"""Runs the TensorRT engine through the real pycuda, whose driver is tests/contract/cpu_driver.c; prints JSON.

A program of its own, because the stand-in has to be found before any other driver. TensorRT alone is made up: its
engine gives the mean of its input, computed where the driver queues it, so that a graph replays it::

    LD_LIBRARY_PATH=folder/of/the/stand-in python tests/contract/pycuda_probe.py
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.engines.tensorrt import TensorRtEngine
from edge_agent.masking.preprocess import Preprocessor
from maskfleet.decoding import decoder_spec
from maskfleet.errors import EngineError

DECODER = decoder_spec("ultraface")
SHAPES = {"input": (1, 3, 240, 320), "scores": (1, 5, 2), "boxes": (1, 5, 4)}
driver = ctypes.CDLL("libcuda.so.1")
driver.mf_engine.argtypes = [ctypes.c_uint64, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_int]
COUNTERS = ("mf_alive", "mf_contexts", "mf_copies", "mf_kernels", "mf_graphs_launched")


def counted() -> dict[str, int]:
    return {name: ctypes.c_int.in_dll(driver, name).value for name in COUNTERS}


class Context:
    def __init__(self, config: Any = None) -> None:
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert isinstance(stream, int)
        source, *outputs = SHAPES
        size = int(np.prod(SHAPES[source]))
        return not any(
            driver.mf_engine(self.addresses[source], size, self.addresses[name], int(np.prod(SHAPES[name])))
            for name in outputs
        )


class Engine:
    num_io_tensors = len(SHAPES)

    def get_tensor_name(self, index: int) -> str:
        return list(SHAPES)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "input" else "out"

    def get_tensor_dtype(self, _name: str) -> str:
        return "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    create_execution_context = Context


def tensorrt() -> Any:
    return types.SimpleNamespace(
        __version__="0",
        Logger=type("Logger", (), {"ERROR": 1, "__init__": lambda _self, _severity: None}),
        Runtime=lambda _logger: types.SimpleNamespace(
            deserialize_cuda_engine=lambda data: Engine() if data == b"plan" else None
        ),
        TensorIOMode=types.SimpleNamespace(INPUT="in"),
        DataType=types.SimpleNamespace(FLOAT="float"),
    )


def main() -> None:
    sys.modules["tensorrt_rtx"] = tensorrt()
    answer: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine"
        path.write_bytes(b"plan")
        engine = TensorRtEngine.load(path, target="rtx-ampere-plus", decoder=DECODER)
        answer["loaded"] = counted()
        answer["off"] = [difference(engine, size) for size in ((640, 480), (1277, 719), (2560, 1440), (320, 240))]
        blob = np.full(SHAPES["input"], 3, np.float32)
        answer["blob"] = float(engine.infer(blob)["boxes"].min())
        answer["ran"] = counted()
        closing = threading.Thread(target=engine.close)
        closing.start()
        closing.join()
        answer["closed"] = counted()
        path.write_bytes(b"junk")
        try:
            TensorRtEngine.load(path, target="rtx-ampere-plus", decoder=DECODER)
        except EngineError as error:
            answer["refused"] = error.message
        answer["after"] = counted()
    print(json.dumps(answer))


def difference(engine: TensorRtEngine, size: tuple[int, int]) -> float:
    """Between the mean input that the engine saw and the one that the CPU prepares, in grey levels."""
    picture: npt.NDArray[np.uint8] = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8)
    outputs, scale = engine.infer_picture(picture, DECODER.preprocessing)
    expected, expected_scale = Preprocessor(DECODER.preprocessing, 320, 240)(picture)
    assert scale == expected_scale
    return abs(float(outputs["scores"].mean()) - float(expected.mean(dtype=np.float64))) / DECODER.preprocessing.scale


if __name__ == "__main__":
    main()
