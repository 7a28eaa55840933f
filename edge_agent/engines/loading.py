"""Loading an engine for its target. Each backend is imported when it is first asked for.

Example::

    engine = load("ort-cpu", path, decoder=decoder_spec("centerface"), threads=2)
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.engines.engine import Engine
from maskfleet.decoding import DecoderSpec
from maskfleet.targets import target as target_spec


def load(target: str, path: Path, *, decoder: DecoderSpec, threads: int) -> Engine:
    """Loads an engine whose digest was checked.

    Args:
        target: that it was built for.
        path: of its file.
        decoder: that its outputs are read by.
        threads: that one run may use, on a CPU.

    Raises:
        UnknownTargetError: no such target.
        UnsupportedError: what runs it is not installed here, or this machine's GPU is of another kind.
        EngineError: its runtime cannot load it.
        BadModelError: its input or outputs are not what the decoder reads.
    """
    entry = target_spec(target)
    if entry.backend == "onnxruntime":
        from edge_agent.engines.onnx_cpu import OnnxCpuEngine

        return OnnxCpuEngine.load(path, decoder=decoder, threads=threads)
    if entry.backend == "openvino":
        from edge_agent.engines.openvino_cpu import OpenVinoCpuEngine

        return OpenVinoCpuEngine.load(path, decoder=decoder, threads=threads)
    from edge_agent.engines.tensorrt import TensorRtEngine

    return TensorRtEngine.load(path, target=target, decoder=decoder)
