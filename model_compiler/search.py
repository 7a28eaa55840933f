"""Which precision a model gets on a target: each that may do is built and proved, and the fastest that passed wins.

Rules

- A candidate is a build of its own, in a process of its own, cached under its own key. What the gate refuses, and what
  crashes or cannot be built, is out; the others go on. Only if nothing is left does the search fail.
- Where engines run on the builder, every candidate is timed against the fp32 model in the same run, and the least ratio
  wins: see :mod:`model_compiler.timing`. What is not faster by more than :data:`NOISE` is not faster: of those the more
  exact one is taken.
- Where they do not run, nothing can be timed, and nothing is guessed: the first of :data:`UNTIMED` that passes is
  taken, and the report says that it was not timed. Eight bits are not among them: on a GPU they can be slower than
  sixteen, and whoever has measured that on a device asks for them by name.

Example::

    built = run_search(spec, source, workdir, limits=Limits())
    built.report["precision"], built.report["why"]
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskfleet.errors import (
    BadModelError,
    BuildError,
    CanceledError,
    DigestMismatchError,
    FleetError,
    GateRefusedError,
    InvalidInputError,
    UnsupportedError,
)
from maskfleet.targets import Target, mismatch, target
from model_compiler.cache import Built, Cache
from model_compiler.calibration import OWN, CalibrationSet
from model_compiler.process import (
    DEFAULT_LIMITS,
    Elsewhere,
    Limits,
    Source,
    found_before,
    nowhere,
    recipe_of,
    run_build,
)
from model_compiler.spec import AUTO, BuildSpec
from model_compiler.tools import machine

UNTIMED = ("fp16", "fp32")
"""What is tried where nothing can be timed, in this order."""

NOISE = 0.05
"""By how much two ratios may differ for no reason."""

_SHARE = {"fp32": 1.0, "fp16": 1.0, "int8": 6.0}
"""Of the whole search's progress: eight bits take the longest."""

_FATAL = (CanceledError, BadModelError, DigestMismatchError, UnsupportedError)
"""What no other precision would mend."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One precision that was tried.

    Attributes:
        precision: its number format.
        verdict: ``passed``, ``refused`` by the gate, or ``failed``.
        reason: why not; empty where it passed.
        report: of its build; empty where there is none.
        built: the engine; None where there is none.
    """

    precision: str
    verdict: str
    reason: str = ""
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    built: Built | None = None

    @property
    def ratio(self) -> float | None:
        """Its time as a share of the fp32 model's; None where it was not timed."""
        speed = self.report.get("speed")
        return float(speed["ratio"]) if speed else None

    @property
    def ms(self) -> float | None:
        """Milliseconds of a run; None where it was not timed."""
        speed = self.report.get("speed")
        return float(speed["ms"]) if speed else None

    def to_json(self, *, won: bool) -> dict[str, Any]:
        """Plain values for the report."""
        gate = self.report.get("gate") or {}
        return {
            "precision": self.precision,
            "verdict": "won" if won else self.verdict,
            "reason": self.reason,
            "size_bytes": (self.report.get("engine") or {}).get("size_bytes", 0),
            "ms": self.ms,
            "ratio": self.ratio,
            "figures": gate.get("figures"),
            "seconds": (self.report.get("seconds") or {}).get("total"),
            "details": self.report.get("details") or {},
        }


def choose(candidates: Sequence[Candidate], *, asked: str = AUTO) -> tuple[Candidate, str]:
    """The winner, and why in a sentence.

    Args:
        candidates: in the order in which they were tried.
        asked: the precision of the spec.

    Raises:
        GateRefusedError: the gate refused everything that could be built.
        BuildError: nothing could be built.
    """
    passed = [one for one in candidates if one.verdict == "passed"]
    if not passed:
        told = "; ".join(f"{one.precision} {one.verdict}: {one.reason}" for one in candidates)
        kind = GateRefusedError if any(one.verdict == "refused" for one in candidates) else BuildError
        raise kind(f"no precision passes ({told})", remedy="see the build's log, or widen the release's margins")
    if asked != AUTO:
        return passed[0], f"{asked} was asked for, and passes the gate"
    timed = sorted((one for one in passed if one.ratio is not None), key=lambda one: one.ratio or 0.0)
    out = "".join(f"; {one.precision} {one.verdict}" for one in candidates if one.verdict != "passed")
    if not timed:
        text = f"{passed[0].precision} is the first of {', '.join(UNTIMED)} that passed the gate"
        return passed[0], f"{text}, none can be timed on this builder{out}"
    listed = ", ".join(f"{one.precision} {one.ms:.1f} ms ({one.ratio:.2f} of the fp32 model's time)" for one in timed)
    least = timed[0].ratio or 0.0
    winner = next(one for one in passed if one.ratio is not None and one.ratio <= least * (1 + NOISE))
    text = f"{winner.precision} is the fastest of {len(timed)} that passed the gate"
    if winner is not timed[0]:
        text = f"{winner.precision} is as fast as {timed[0].precision} within {NOISE:.0%}, and more exact"
    return winner, f"{text}: {listed}{out}"


def run_search(
    spec: BuildSpec,
    source: Source,
    workdir: Path,
    *,
    calibration: CalibrationSet = OWN,
    cache: Cache | None = None,
    elsewhere: Elsewhere = nowhere,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[str, float], None] = lambda _phase, _fraction: None,
    cancel: threading.Event | None = None,
) -> Built:
    """Builds what a spec asks for: one precision, or the best of those that the target has.

    The arguments and errors are those of :func:`model_compiler.process.run_build`.

    Raises:
        GateRefusedError: nothing passes the gate.
    """
    if (hit := found_before(recipe := recipe_of(spec, calibration), cache, elsewhere)) is not None:
        progress("cached", 1.0)
        return hit
    entry = target(spec.target)
    wanted = _wanted(entry) if spec.precision == AUTO else (spec.precision,)
    untimed = spec.precision == AUTO and bool(mismatch(entry, machine()))
    whole, begin = sum(_SHARE[name] for name in wanted), 0.0
    tried: list[Candidate] = []
    for name in wanted:
        share = _SHARE[name] / whole

        def step(phase: str, fraction: float, name: str = name, begin: float = begin, share: float = share) -> None:
            progress(f"{name}: {phase}" if len(wanted) > 1 else phase, begin + share * fraction)

        folder = workdir / name
        folder.mkdir()
        tried.append(
            _tried(
                dataclasses.replace(spec, precision=name),
                source,
                folder,
                fatal=len(wanted) == 1,
                calibration=calibration,
                cache=cache,
                elsewhere=elsewhere,
                limits=limits,
                progress=step,
                cancel=cancel,
            )
        )
        begin += share
        if untimed and tried[-1].verdict == "passed":
            break
    return _ended(spec, recipe, tried, cache)


def _wanted(entry: Target) -> tuple[str, ...]:
    return UNTIMED if mismatch(entry, machine()) else entry.precisions


def _tried(spec: BuildSpec, source: Source, folder: Path, *, fatal: bool, **how: Any) -> Candidate:
    """One candidate.

    Args:
        fatal: whether its errors are the search's own.
    """
    try:
        built = run_build(spec, source, folder, **how)
    except GateRefusedError as error:
        if fatal:
            raise
        return Candidate(spec.precision, "refused", error.message, error.report)
    except FleetError as error:
        if fatal or isinstance(error, _FATAL) or (isinstance(error, InvalidInputError) and spec.precision != "int8"):
            raise
        return Candidate(spec.precision, "failed", str(error))
    return Candidate(spec.precision, "passed", "", built.report, built)


def _ended(spec: BuildSpec, recipe: str, tried: Sequence[Candidate], cache: Cache | None) -> Built:
    winner, why = choose(tried, asked=spec.precision)
    built = winner.built
    assert built is not None  # noqa: S101  # what passed has an engine
    more = {
        "spec": spec.to_json(),
        "recipe": recipe,
        "why": why,
        "candidates": [one.to_json(won=one is winner) for one in tried],
    }
    if cache is not None and built.engine is not None:
        cache.remember(recipe, built.key, more)
    cached = all(one.built is None or one.built.cached for one in tried)
    return dataclasses.replace(built, recipe=recipe, report={**built.report, **more}, cached=cached)
