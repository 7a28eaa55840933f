"""Which engine of a CPU is worth what: CenterFace at 640×352 in each number format, one run after the other in turn.

    python -m benchmarks.engines [ROUNDS]

Milliseconds of one run are medians; the ratio is the median of each round's own, over ONNX Runtime at 32 bits. The
verdict is the compiler's gate with its usual margins, on this processor: a fast engine that is refused is worth nothing
to a release that keeps them.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.engines.engine import Engine
from edge_agent.engines.loading import load
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import GateRefusedError
from maskfleet.ids import digest_bytes
from model_compiler import evaluation, quantize, verify
from model_compiler.builds import onnx_cpu, openvino
from model_compiler.precision import in_precision
from model_compiler.prepare import prepare
from model_compiler.spec import BuildSpec, Margins

THREADS = (1, 2)
BASE = "ort-cpu fp32"


def built(source: bytes, decoder: DecoderSpec, folder: Path) -> dict[str, Path]:
    """An engine of each kind by target and precision; finding the nodes for eight bits takes most of the time."""
    prepared = prepare(source, decoder, 640, 352).model
    spec = BuildSpec(digest_bytes(source), decoder.name, "ort-cpu", "int8")
    models = {"fp32": prepared, "fp16": in_precision(prepared, "fp16")[0]}
    # Both runtimes take the same scheme.
    models["int8"] = quantize.quantised(
        prepared, decoder, spec, backend="onnxruntime", log=lambda _line: None, step=lambda _fraction: None
    ).model
    quiet: dict[str, Any] = {"progress": lambda _fraction: None, "log": lambda _line: None}
    engines = {f"ort-cpu {name}": onnx_cpu.build(models[name], **quiet) for name in ("fp32", "int8")}
    engines |= {f"openvino-cpu {name}": openvino.build(models[name], precision=name, **quiet) for name in models}
    paths = {}
    for name, data in engines.items():
        paths[name] = folder / name
        paths[name].write_bytes(data)
    return paths


def measured(source: bytes, decoder: DecoderSpec, rounds: int) -> dict[str, Any]:
    """By kind of engine: milliseconds and ratio by threads, verdict of the gate, least cosine, recall."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = built(source, decoder, Path(folder))
        for threads in THREADS:
            with contextlib.ExitStack() as stack:
                engines: dict[str, Engine] = {}
                for name, path in paths.items():
                    engines[name] = load(name.split()[0], path, decoder=decoder, threads=threads)
                    stack.callback(engines[name].close)
                times = _alternating(engines, rounds)
                for name, own in times.items():
                    if threads == THREADS[0]:
                        figures[name] = _judged(engines[BASE], engines[name], decoder)
                    figures[name][f"ms_{threads}"] = statistics.median(own)
                    figures[name][f"ratio_{threads}"] = statistics.median(a / b for a, b in zip(own, times[BASE]))
    return figures


def table(figures: dict[str, Any]) -> str:
    """For people."""
    head = "".join(f"{f'{threads} thread' + 's' * (threads > 1):>12}{'ratio':>8}" for threads in THREADS)
    lines = [f"{'CenterFace 640x352, ms a run':<30}{head}  gate"]
    for name, values in figures.items():
        row = "".join(f"{values[f'ms_{threads}']:12.1f}{values[f'ratio_{threads}']:8.2f}" for threads in THREADS)
        lines.append(f"  {name:<28}{row}  {values['gate']}, least cosine {values['cosine']:.4f}")
    return "\n".join(lines)


def _alternating(engines: dict[str, Engine], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each run."""
    blob = np.random.default_rng(0).uniform(0, 255, (1, 3, 352, 640)).astype(np.float32)
    for engine in engines.values():
        engine.infer(blob)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            begun = time.perf_counter()
            engine.infer(blob)
            times[name].append((time.perf_counter() - begun) * 1000)
    return times


def _judged(reference: Engine, engine: Engine, decoder: DecoderSpec) -> dict[str, Any]:
    margins = Margins()
    found = verify.compared(
        reference, engine, decoder, evaluation.frames(), min_confidence=0.35, nms_iou=0.3, match_iou=margins.match_iou
    )
    try:
        verify.check(found, margins)
        verdict = "passes"
    except GateRefusedError:
        verdict = "refused"
    return {
        "gate": verdict,
        "cosine": min(output.cosine for output in found.outputs.values()),
        "recall": found.recall,
    }


if __name__ == "__main__":
    from benchmarks.__main__ import SPEC, weights

    print(table(measured(weights().read_bytes(), SPEC, int(sys.argv[1]) if len(sys.argv) > 1 else 40)))
