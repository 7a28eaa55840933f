"""One build from end to end, in this process: prepare → precision → build → verify → report.

It is run by :mod:`model_compiler.worker`, in a process of its own; everything that it imports may crash.

Example::

    result = run(spec, source, progress=print, canceled=lambda: False, log=print)
    result.report["gate"]["figures"]["recall"]
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.engines import loading
from edge_agent.engines.engine import Engine
from maskfleet.decoding import decoder_spec
from maskfleet.errors import CanceledError, DigestMismatchError
from maskfleet.ids import digest_bytes
from maskfleet.manifest import VerifiedOn
from maskfleet.targets import check_buildable, mismatch, target
from model_compiler import evaluation, quantize, verify
from model_compiler.builds import onnx_cpu, openvino, tensorrt
from model_compiler.precision import in_precision, pictures_digest
from model_compiler.prepare import Prepared, prepare
from model_compiler.reference import loaded
from model_compiler.spec import BuildSpec, cache_key, compiler_revision
from model_compiler.tools import installed_versions, machine

Progress = Callable[[str, float], None]
_SHARES = {"prepare": (0.0, 0.15), "precision": (0.15, 0.2), "build": (0.2, 0.8), "verify": (0.8, 1.0)}
_SHARES_INT8 = {"prepare": (0.0, 0.05), "precision": (0.05, 0.85), "build": (0.85, 0.95), "verify": (0.95, 1.0)}
"""Finding the nodes for eight bits takes longer than everything else."""


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
    progress: Progress,
    canceled: Callable[[], bool],
    log: Callable[[str], None],
    known: Callable[[str], bool] = lambda _key: False,
) -> Result:
    """Builds an engine and proves it.

    Args:
        spec: what to build.
        source: the ONNX file.
        progress: told the phase and how far the whole is, 0 to 1.
        canceled: asked often whether to stop.
        log: told what is worth a line.
        known: asked whether a key has its engine already.

    Raises:
        DigestMismatchError: the source is another file than the spec names.
        BadModelError: the source cannot be prepared.
        BuildError: the backend cannot build it.
        GateRefusedError: the engine is too far from the model.
        CanceledError: ``canceled`` said so.
    """
    versions = installed_versions()
    entry, decoder = check_buildable(target(spec.target), machine()), decoder_spec(spec.decoder)
    actual = digest_bytes(source)
    if actual != spec.model_digest:
        raise DigestMismatchError(
            f"the model has digest {actual}, {spec.model_digest} was asked for", remedy="download it again"
        )
    timings: dict[str, float] = {}
    shares = _SHARES_INT8 if spec.precision == "int8" else _SHARES

    def phase(name: str, fraction: float = 0.0) -> None:
        if canceled():
            raise CanceledError("the build was canceled")
        low, high = shares[name]
        progress(name, low + (high - low) * fraction)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        phase(name)
        start = time.monotonic()
        value = work()
        timings[name] = round(time.monotonic() - start, 4)
        phase(name, 1.0)
        return value

    prepared: Prepared = timed("prepare", lambda: prepare(source, decoder, spec.width, spec.height))
    for note in prepared.notes:
        log(f"prepare: {note}")
    key = cache_key(spec, prepared.digest, versions, pictures_digest(spec.precision))
    if known(key):
        return Result(key, None, {})
    converted: Converted = timed("precision", lambda: _converted(spec, prepared, entry.backend, phase, log))
    model, notes = converted.model, converted.notes
    for note in notes:
        log(f"precision: {note}")

    def built() -> bytes:
        if entry.backend == "onnxruntime":
            return onnx_cpu.build(model, progress=lambda f: phase("build", f), log=log)
        if entry.backend == "openvino":
            return openvino.build(model, precision=spec.precision, progress=lambda f: phase("build", f), log=log)
        return tensorrt.build(
            model,
            backend=entry.backend,
            sms=entry.sms,
            # called from C++: it must not raise
            progress=lambda f: progress("build", shares["build"][0] + (shares["build"][1] - shares["build"][0]) * f),
            canceled=canceled,
            log=log,
        )

    engine: bytes = timed("build", built)
    verified_on = VerifiedOn.ENGINE if not mismatch(entry, machine()) else VerifiedOn.PREPARED_ONNX
    figures: verify.Figures = timed("verify", lambda: _figures(spec, prepared, model, engine, phase))
    log(f"verify: {figures.to_json()}")
    verify.check(figures, spec.margins, about=notes if converted.details else ())
    report = {
        "spec": spec.to_json(),
        "cache_key": key,
        "model_digest": actual,
        "prepared": {
            "digest": prepared.digest,
            "size_bytes": len(prepared.model),
            "width": prepared.width,
            "height": prepared.height,
            "fixed_size": prepared.fixed_size,
            "notes": [*prepared.notes, *notes],
        },
        "precision": {"format": spec.precision, **converted.details},
        "engine": {"digest": digest_bytes(engine), "size_bytes": len(engine)},
        "backend": entry.backend,
        "runtime_version": versions[entry.distribution],
        "verified_on": verified_on.value,
        "gate": {"passed": True, "evaluation": evaluation.digest(), "figures": figures.to_json()},
        "versions": {**versions, "python": platform.python_version(), "compiler_revision": compiler_revision()},
        "platform": platform.platform(),
        "seconds": {**timings, "total": round(sum(timings.values()), 4)},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return Result(key, engine, report)


def _converted(
    spec: BuildSpec, prepared: Prepared, backend: str, phase: Callable[[str, float], None], log: Callable[[str], None]
) -> Converted:
    if spec.precision != "int8":
        return Converted(*in_precision(prepared.model, spec.precision), {})
    found = quantize.quantised(
        prepared.model,
        decoder_spec(spec.decoder),
        spec,
        backend=backend,
        log=log,
        step=lambda fraction: phase("precision", fraction),
    )
    return Converted(found.model, (found.sentence(),), found.to_json())


def _figures(
    spec: BuildSpec, prepared: Prepared, model: bytes, engine: bytes, phase: Callable[[str, float], None]
) -> verify.Figures:
    """Compares the engine, or what it was built from where it cannot run here, with the fp32 model."""
    decoder = decoder_spec(spec.decoder)
    with contextlib.ExitStack() as stack:
        reference = stack.enter_context(loaded(prepared.model, decoder))
        candidate: Engine
        if not mismatch(target(spec.target), machine()):
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskfleet-"))) / "engine"
            path.write_bytes(engine)
            candidate = loading.load(spec.target, path, decoder=decoder, threads=1)
            stack.callback(candidate.close)
        else:
            candidate = stack.enter_context(loaded(model, decoder))
        phase("verify", 0.3)
        return verify.compared(
            reference,
            candidate,
            decoder,
            evaluation.frames(),
            min_confidence=spec.min_confidence,
            nms_iou=spec.nms_iou,
            match_iou=spec.margins.match_iou,
        )
