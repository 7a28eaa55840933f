"""The CPU backend: the engine is a prepared ONNX file after ONNX Runtime's portable optimisations.

Only optimisations that stay within standard operators are kept, so that the engine runs on any version of ONNX Runtime
and any processor; what is particular to a processor is done when the agent loads it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime as ort

from maskfleet.errors import BuildError
from model_compiler.onnx_file import STANDARD_DOMAINS, first_line


def build(model: bytes, *, progress: Callable[[float], None], log: Callable[[str], None]) -> bytes:
    """Optimises a prepared model: batch normalisation into convolutions, dead nodes away.

    Args:
        model: prepared, in its final precision.
        progress: told how far it is, 0 to 1.
        log: told what is worth a line.

    Raises:
        BuildError: ONNX Runtime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  # its exceptions have no common base
            raise BuildError(
                f"ONNX Runtime refuses the model ({first_line(error)})", remedy="export it with standard operators"
            ) from None
        progress(0.8)
        optimised = onnx.load(path)
    source = onnx.load_model_from_string(model)
    domains = {node.domain for node in optimised.graph.node}
    if not domains <= set(STANDARD_DOMAINS):
        log(f"kept the model as prepared: optimised it would need operators of {', '.join(sorted(domains))}")
        progress(1.0)
        return model
    # ONNX Runtime lists every operator set it knows; a reader without one of them would refuse the file.
    del optimised.opset_import[:]
    optimised.opset_import.extend(source.opset_import)
    optimised.ir_version = source.ir_version
    log(f"{len(source.graph.node)} nodes became {len(optimised.graph.node)}")
    progress(1.0)
    return bytes(optimised.SerializeToString(deterministic=True))
