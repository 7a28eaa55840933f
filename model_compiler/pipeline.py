"""One build of one precision from end to end, in this process: prepare → precision → build → verify → time → report.

Where the engine runs on this machine, the gate looks at the engine itself and it is timed. Where it does not, the gate
looks at the model that the engine is made of, before anything is built.

It is run by :mod:`model_compiler.worker`, in a process of its own; everything that it imports may crash.

Example::

    result = run(spec, source, calibration=OWN, progress=print, canceled=lambda: False, log=print)
    result.report["gate"]["figures"]["recall"]
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from edge_agent.engines import loading
from edge_agent.engines.engine import Engine
from maskfleet.decoding import DecoderSpec, decoder_spec
from maskfleet.errors import CanceledError, DigestMismatchError, GateRefusedError
from maskfleet.ids import digest_bytes
from maskfleet.manifest import VerifiedOn
from maskfleet.targets import Target, check_buildable, mismatch, target
from model_compiler import evaluation, quantize, timing, verify
from model_compiler.builds import onnx_cpu, openvino, tensorrt
from model_compiler.calibration import CalibrationSet
from model_compiler.precision import in_precision, pictures_digest
from model_compiler.prepare import Prepared, prepare
from model_compiler.reference import loaded
from model_compiler.spec import BuildSpec, cache_key, compiler_revision
from model_compiler.tools import facts, machine, versions_for

Progress = Callable[[str, float], None]
T = TypeVar("T")
_WEIGHTS = {"prepare": 3.0, "precision": 1.0, "build": 6.0, "verify": 4.0, "time": 4.0}
_WEIGHT_OF_INT8 = 60.0
"""Of the phase ``precision``: finding the nodes for eight bits takes longer than everything else."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a build gave.

    Attributes:
        key: over what went in; see :mod:`model_compiler.spec`.
        engine: its bytes; None where ``key`` was known already.
        report: plain values: what went in, what came out, figures, versions, timings.
    """

    key: str
    engine: bytes | None
    report: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Converted:
    """A prepared model in its final number format.

    Attributes:
        model: the ONNX file.
        notes: what had to be changed, for people.
        details: likewise, for the report.
    """

    model: bytes
    notes: tuple[str, ...]
    details: dict[str, Any]


def run(
    spec: BuildSpec,
    source: bytes,
    *,
    calibration: CalibrationSet,
    progress: Progress,
    canceled: Callable[[], bool],
    log: Callable[[str], None],
    known: Callable[[str], bool] = lambda _key: False,
) -> Result:
    """Builds an engine and proves it.

    Args:
        spec: what to build, at one precision.
        source: the ONNX file.
        calibration: what ranges for eight bits are learnt from.
        progress: told the phase and how far the whole is, 0 to 1.
        canceled: asked often whether to stop.
        log: told what is worth a line.
        known: asked whether a key has its engine already.

    Raises:
        DigestMismatchError: the source is another file than the spec names.
        BadModelError: the source cannot be prepared.
        InvalidInputError: the calibration set cannot be used.
        BuildError: the backend cannot build it.
        GateRefusedError: the engine is too far from the model; its report says by how much.
        CanceledError: ``canceled`` said so.
    """
    entry, decoder = check_buildable(target(spec.target), machine()), decoder_spec(spec.decoder)
    versions, runs_here = versions_for(entry), not mismatch(entry, machine())
    actual = digest_bytes(source)
    if actual != spec.model_digest:
        raise DigestMismatchError(
            f"the model has digest {actual}, {spec.model_digest} was asked for", remedy="download it again"
        )
    steps = _Steps(spec.precision, runs_here, progress, canceled)
    prepared = steps.timed("prepare", lambda: prepare(source, decoder, spec.width, spec.height))
    for note in prepared.notes:
        log(f"prepare: {note}")
    key = cache_key(spec, prepared.digest, versions, pictures_digest(spec.precision, calibration))
    if known(key):
        return Result(key, None, {})
    converted = steps.timed(
        "precision", lambda: _converted(spec, prepared, entry.backend, calibration, steps.within("precision"), log)
    )
    for note in converted.notes:
        log(f"precision: {note}")
    report: dict[str, Any] = {
        "spec": spec.to_json(),
        "cache_key": key,
        "model_digest": actual,
        "prepared": {
            "digest": prepared.digest,
            "size_bytes": len(prepared.model),
            "width": prepared.width,
            "height": prepared.height,
            "fixed_size": prepared.fixed_size,
            "notes": [*prepared.notes, *converted.notes],
        },
        "precision": spec.precision,
        "details": converted.details,
        "calibration": calibration.to_json() if spec.precision == "int8" else None,
        "backend": entry.backend,
        "runtime_version": versions[entry.distribution],
        "versions": {**versions, "python": platform.python_version(), "compiler_revision": compiler_revision()},
        "platform": platform.platform(),
        "machine": dataclasses.asdict(facts()),
    }

    def built() -> bytes:
        return _built(spec, entry, converted.model, steps.within("build"), canceled, log)

    def judged(candidate: Engine, reference: Engine) -> None:
        figures = steps.timed("verify", lambda: _compared(spec, decoder, reference, candidate))
        log(f"verify: {figures.to_json()}")
        verified = VerifiedOn.ENGINE if runs_here else VerifiedOn.PREPARED_ONNX
        gate = {"passed": False, "evaluation": evaluation.digest(), "margins": dataclasses.asdict(spec.margins)}
        report.update(verified_on=verified.value, gate={**gate, "figures": figures.to_json()})
        try:
            verify.check(figures, spec.margins, about=converted.notes if converted.details else ())
        except GateRefusedError as error:
            error.report = steps.ended(report)
            raise
        report["gate"]["passed"] = True

    if runs_here:
        engine = steps.timed("build", built)
        report["engine"] = {"digest": digest_bytes(engine), "size_bytes": len(engine)}  # also of one that is refused
        with loaded(prepared.model, decoder) as reference, _opened(engine, spec, decoder) as candidate:
            judged(candidate, reference)
            speed = steps.timed("time", lambda: timing.timed(candidate, reference))
        log(f"time: {speed.ms:.1f} ms, the fp32 model {speed.reference_ms:.1f} ms")
        report["speed"] = speed.to_json()
    else:
        with contextlib.ExitStack() as stack:
            reference = stack.enter_context(loaded(prepared.model, decoder))
            same = converted.model == prepared.model
            judged(reference if same else stack.enter_context(loaded(converted.model, decoder)), reference)
        engine = steps.timed("build", built)
        report["engine"] = {"digest": digest_bytes(engine), "size_bytes": len(engine)}
    return Result(key, engine, steps.ended(report))


class _Steps:
    """The phases of a build: how long each took, and how far the whole is."""

    def __init__(self, precision: str, runs_here: bool, progress: Progress, canceled: Callable[[], bool]) -> None:
        names = ["prepare", "precision", *(("build", "verify", "time") if runs_here else ("verify", "build"))]
        weights = _WEIGHTS | ({"precision": _WEIGHT_OF_INT8} if precision == "int8" else {})
        whole, begin = sum(weights[name] for name in names), 0.0
        self._shares: dict[str, tuple[float, float]] = {}
        for name in names:
            self._shares[name] = (begin / whole, weights[name] / whole)
            begin += weights[name]
        self._progress, self._canceled = progress, canceled
        self._seconds: dict[str, float] = {}
        self._shown = 0.0

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """Does a phase's work.

        Raises:
            CanceledError: the build is to stop.
        """
        step = self.within(name)
        step(0.0)
        begun = time.monotonic()
        try:
            return work()
        finally:
            self._seconds[name] = round(time.monotonic() - begun, 4)
            self._say(name, 1.0)

    def within(self, name: str) -> Callable[[float], None]:
        """What a phase tells how far it is, 0 to 1; raises CanceledError once the build is to stop."""

        def step(fraction: float) -> None:
            if self._canceled():
                raise CanceledError("the build was canceled")
            self._say(name, fraction)

        return step

    def ended(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report with how long it all took."""
        seconds = {**self._seconds, "total": round(sum(self._seconds.values()), 4)}
        return {**report, "seconds": seconds, "peak_rss_bytes": _peak_rss_bytes()}

    def _say(self, name: str, fraction: float) -> None:
        begin, share = self._shares[name]
        self._shown = max(self._shown, begin + share * min(fraction, 1.0))  # sums of fractions round
        self._progress(name, min(self._shown, 1.0))


def _peak_rss_bytes() -> int:
    """The most memory that this program has had. What getrusage says begins with that of whoever started it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _built(
    spec: BuildSpec,
    entry: Target,
    model: bytes,
    step: Callable[[float], None],
    canceled: Callable[[], bool],
    log: Callable[[str], None],
) -> bytes:
    if entry.backend == "onnxruntime":
        return onnx_cpu.build(model, progress=step, log=log)
    if entry.backend == "openvino":
        return openvino.build(model, precision=spec.precision, progress=step, log=log)

    def told(fraction: float) -> None:
        with contextlib.suppress(CanceledError):  # called from C++: it must not raise, and asks ``canceled`` itself
            step(fraction)

    return tensorrt.build(
        model,
        backend=entry.backend,
        sms=entry.sms,
        workspace_mb=spec.workspace_mb,
        progress=told,
        canceled=canceled,
        log=log,
    )


def _converted(
    spec: BuildSpec,
    prepared: Prepared,
    backend: str,
    calibration: CalibrationSet,
    step: Callable[[float], None],
    log: Callable[[str], None],
) -> Converted:
    if spec.precision != "int8":
        return Converted(*in_precision(prepared.model, spec.precision), {})
    decoder = decoder_spec(spec.decoder)
    found = quantize.quantised(
        prepared.model, decoder, spec, backend=backend, calibration=calibration, log=log, step=step
    )
    return Converted(found.model, (found.sentence(),), found.to_json())


@contextlib.contextmanager
def _opened(engine: bytes, spec: BuildSpec, decoder: DecoderSpec) -> Iterator[Engine]:
    """An engine as the agent runs it, on one thread."""
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        path = Path(folder) / "engine"
        path.write_bytes(engine)
        opened = loading.load(spec.target, path, decoder=decoder, threads=1)
        try:
            yield opened
        finally:
            opened.close()


def _compared(spec: BuildSpec, decoder: DecoderSpec, reference: Engine, candidate: Engine) -> verify.Figures:
    return verify.compared(
        reference,
        candidate,
        decoder,
        evaluation.frames(),
        min_confidence=spec.min_confidence,
        nms_iou=spec.nms_iou,
        match_iou=spec.margins.match_iou,
    )
