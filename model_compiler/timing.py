"""How fast an engine is where it was built: against the fp32 model, run by run in turn.

Machines are noisy, and two engines that are timed one after the other are timed on two machines. So every engine is
timed against the same other side, the fp32 model as ONNX Runtime runs it, and engines are compared by that ratio.

Example::

    speed = timed(engine, reference)
    speed.ms, speed.ratio       # 12.1 ms, 0.35 of the fp32 model's time
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import numpy as np

from edge_agent.engines.engine import Engine, FloatArray

WARM_UPS = 3
ROUNDS = 25
MAX_SECONDS = 4.0
"""Fewer rounds than :data:`ROUNDS` where they take longer than this, but never fewer than three."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        ms: median milliseconds of a run of the engine, on one thread of a CPU.
        reference_ms: likewise of the fp32 model.
        ratio: median of the engine's time as a share of the model's, pair by pair.
        rounds: pairs.
    """

    ms: float
    reference_ms: float
    ratio: float
    rounds: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded for people."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in dataclasses.asdict(self).items()}


def timed(engine: Engine, reference: Engine) -> Speed:
    """Runs both in turn on a picture of noise, which costs what any picture costs.

    Raises:
        EngineError: one of them cannot run.
    """
    info = engine.info
    blob = np.random.default_rng(0).uniform(0, 255, (1, 3, info.height, info.width)).astype(np.float32)
    for _ in range(WARM_UPS):
        _run(engine, blob)
        _run(reference, blob)
    ours: list[float] = []
    theirs: list[float] = []
    begun = time.perf_counter()
    while len(ours) < ROUNDS and (len(ours) < WARM_UPS or time.perf_counter() - begun < MAX_SECONDS):
        ours.append(_run(engine, blob))
        theirs.append(_run(reference, blob))
    ratios = [a / b for a, b in zip(ours, theirs)]
    return Speed(
        ms=statistics.median(ours) * 1000,
        reference_ms=statistics.median(theirs) * 1000,
        ratio=statistics.median(ratios),
        rounds=len(ratios),
    )


def _run(engine: Engine, blob: FloatArray) -> float:
    begun = time.perf_counter()
    engine.infer(blob)
    return time.perf_counter() - begun
