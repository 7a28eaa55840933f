"""Which engines this machine can run, and loading one. Each backend is imported when it is first asked for.

Example::

    engine = load("ort-cpu", path, decoder=decoder_spec("centerface"), threads=2)
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edge_agent.engines.engine import Engine
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import UnknownTargetError, UnsupportedError

CPU_TARGET = "ort-cpu"
RTX_TARGETS: dict[str, tuple[int, ...]] = {
    "rtx-ampere-plus": (80, 86, 89, 120, 121),
    "rtx-turing": (75,),
}
"""Target → compute capabilities (major·10 + minor) that its engines hold code for."""


def runnable_targets() -> tuple[str, ...]:
    """The targets whose engines run here, best first: those of the GPU, then the CPU."""
    gpu: tuple[str, ...] = ()
    if importlib.util.find_spec("tensorrt_rtx") and importlib.util.find_spec("pycuda"):
        from edge_agent.engines.tensorrt import compute_capability

        capability = compute_capability()
        gpu = tuple(target for target, capabilities in RTX_TARGETS.items() if capability in capabilities)
    cpu = (CPU_TARGET,) if importlib.util.find_spec("onnxruntime") else ()
    return (*gpu, *cpu)


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
    if target != CPU_TARGET and target not in RTX_TARGETS:
        known = ", ".join((CPU_TARGET, *RTX_TARGETS))
        raise UnknownTargetError(f"there is no target {target!r}", remedy=f"use one of {known}")
    if target not in runnable_targets():
        needs = "maskfleet[agent]" if target == CPU_TARGET else "maskfleet[rtx,gpu], and a GPU that the target is for"
        raise UnsupportedError(f"engines for {target} cannot run on this machine", remedy=f"install {needs}")
    if target == CPU_TARGET:
        from edge_agent.engines.onnx_cpu import OnnxCpuEngine

        return OnnxCpuEngine.load(path, decoder=decoder, threads=threads)
    from edge_agent.engines.tensorrt import TensorRtEngine

    return TensorRtEngine.load(path, target=target, decoder=decoder)
