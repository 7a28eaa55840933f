"""Runs a prepared model as it is, by the agent's own CPU engine: what every engine is measured against.

Example::

    with loaded(prepared.model, decoder) as engine:
        outputs = engine.infer(blob)
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_agent.engines import loading
from edge_agent.engines.engine import Engine, FloatArray
from maskfleet.decoding import DecoderSpec


@contextlib.contextmanager
def loaded(model: bytes, decoder: DecoderSpec) -> Iterator[Engine]:
    """A prepared model as an engine, on one thread.

    Raises:
        EngineError: ONNX Runtime refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        engine = loading.load("ort-cpu", path, decoder=decoder, threads=1)
    try:
        yield engine
    finally:
        engine.close()


def run(model: bytes, decoder: DecoderSpec) -> dict[str, FloatArray]:
    """Runs a model once on a grey picture: each output by name.

    Raises:
        EngineError: ONNX Runtime refuses it, or cannot run it.
    """
    with loaded(model, decoder) as engine:
        grey = np.full((1, 3, engine.info.height, engine.info.width), 64.0, np.float32)
        return {role: value.copy() for role, value in engine.infer(grey).items()}  # they outlive the engine
