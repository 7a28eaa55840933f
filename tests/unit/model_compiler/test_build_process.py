"""A build in a process of its own ends as a value or as a typed error, whatever happens to the process."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from maskfleet.errors import (
    BadModelError,
    BuildCrashError,
    BuildError,
    CanceledError,
    DigestMismatchError,
    FleetError,
    GateRefusedError,
)
from maskfleet.ids import digest_bytes, digest_file
from model_compiler.cache import Built, Cache
from model_compiler.process import Limits, log_tail, run_build
from model_compiler.spec import BuildSpec, Margins

DEFAULT_LIMITS = Limits()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def spec_of(path: Path, decoder: str = "centerface", target: str = "ort-cpu", **fields: object) -> BuildSpec:
    return BuildSpec(digest_file(path), decoder, target, **fields)  # type: ignore[arg-type]  # a table of fields


def build(
    path: Path,
    workdir: Path,
    spec: BuildSpec,
    *,
    limits: Limits = DEFAULT_LIMITS,
    cache: Cache | None = None,
    progress: Callable[[str, float], None] = lambda _phase, _fraction: None,
    cancel: threading.Event | None = None,
) -> Built:
    return run_build(spec, lambda: path, workdir, limits=limits, cache=cache, progress=progress, cancel=cancel)


@pytest.mark.parametrize("target", ["ort-cpu", "rtx-ampere-plus", "rtx-turing"])
def test_centerface_becomes_a_proven_engine(centerface_path: Path, workdir: Path, target: str) -> None:
    if target != "ort-cpu":
        pytest.importorskip("tensorrt_rtx")
    seen: list[tuple[str, float]] = []
    built = build(
        centerface_path, workdir, spec_of(centerface_path, target=target), progress=lambda *at: seen.append(at)
    )
    assert digest_file(built.engine) == built.engine_digest
    assert built.engine.stat().st_size == built.size_bytes
    report = built.report
    assert report["verified_on"] == ("engine" if target == "ort-cpu" else "prepared-onnx")
    assert report["gate"]["passed"]
    assert report["gate"]["figures"]["recall"] == 1.0
    assert report["model_digest"] == digest_file(centerface_path)
    assert report["engine"] == {"digest": built.engine_digest, "size_bytes": built.size_bytes}
    assert {"onnx", "onnxruntime", "python", "compiler_revision"} <= set(report["versions"])
    runs_here = target == "ort-cpu"
    # What cannot run here is judged by its model, before anything is built.
    phases = ["prepare", "precision", *(["build", "verify", "time"] if runs_here else ["verify", "build"])]
    assert set(report["seconds"]) == {*phases, "total"}
    assert ("speed" in report) == runs_here
    assert 0 < report["peak_rss_bytes"] < 1 << 30
    json.dumps(report)
    assert list(dict.fromkeys(phase for phase, _ in seen)) == phases
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert "recall" in log_tail(workdir)


@pytest.mark.parametrize(("decoder", "precision"), [("yunet", "fp32"), ("ultraface", "fp16"), ("centerface", "fp16")])
def test_other_detectors_and_half_precision_pass_the_gate(
    detector_path: Callable[[str], Path], workdir: Path, decoder: str, precision: str
) -> None:
    path = detector_path(decoder)
    built = build(path, workdir, spec_of(path, decoder, precision=precision))
    assert built.report["gate"]["figures"]["recall"] == 1.0
    assert built.report["spec"]["precision"] == precision


def _flipped(path: Path, tmp_path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    broken = tmp_path / "flipped.onnx"
    broken.write_bytes(data)
    return broken


def test_a_flipped_bit_is_found_before_anything_is_built(centerface_path: Path, tmp_path: Path, workdir: Path) -> None:
    with pytest.raises(DigestMismatchError):
        build(_flipped(centerface_path, tmp_path), workdir, spec_of(centerface_path))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, workdir: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(BadModelError, match="no ONNX"):
        build(path, workdir, spec_of(path))


def test_an_unsupported_operator_keeps_its_name_through_the_process(unsupported_path: Path, workdir: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(BuildError, match="node 'toss', operator Bernoulli"):
        build(unsupported_path, workdir, spec_of(unsupported_path, target="rtx-turing"))
    assert not (workdir / "engine").exists()
    assert "Bernoulli" in log_tail(workdir)


def test_the_gate_refuses_with_figures_in_error_and_log(centerface_path: Path, workdir: Path) -> None:
    spec = spec_of(centerface_path, precision="fp16", margins=Margins(min_mean_iou=1.1))
    with pytest.raises(GateRefusedError, match=r"its boxes overlap by 0\.99"):
        build(centerface_path, workdir, spec)
    assert "mean_iou" in log_tail(workdir)
    assert not (workdir / "engine").exists()


MEMORY = {"hardly enough for Python": 100 << 20, "not enough for the runtimes": 400 << 20}


@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY.keys())
def test_too_little_memory_is_said_to_be_that(centerface_path: Path, workdir: Path, memory: int) -> None:
    with pytest.raises(BuildCrashError, match=f"needs more than {memory >> 20} MiB") as raised:
        build(centerface_path, workdir, spec_of(centerface_path), limits=Limits(memory_bytes=memory))
    assert "--build-memory-mb" in raised.value.remedy


def test_too_little_time_is_said_to_be_that(centerface_path: Path, workdir: Path) -> None:
    with pytest.raises(BuildCrashError, match=r"longer than 0\.01 s"):
        build(centerface_path, workdir, spec_of(centerface_path), limits=Limits(seconds=0.01))


@pytest.mark.parametrize("phase", ["prepare", "build", "verify"])
def test_a_build_is_canceled_wherever_it_is(centerface_path: Path, workdir: Path, phase: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    cancel = threading.Event()

    def at(name: str, _fraction: float) -> None:
        if name == phase:
            cancel.set()

    with pytest.raises(CanceledError):
        build(centerface_path, workdir, spec_of(centerface_path, target="rtx-turing"), progress=at, cancel=cancel)


def worker_of(workdir: Path) -> int:
    """Process id of the worker that works in a folder."""
    wanted = str(workdir / "job.json").encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in arguments:
                return int(entry.name)
    raise AssertionError("no worker")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_is_a_typed_error(centerface_path: Path, workdir: Path, number: signal.Signals) -> None:
    def at(phase: str, _fraction: float) -> None:
        if phase == "build":
            os.kill(worker_of(workdir), number)

    with pytest.raises(BuildCrashError, match=f"ended by {number.name}") as raised:
        build(centerface_path, workdir, spec_of(centerface_path, target="ort-cpu"), progress=at)
    assert isinstance(raised.value, FleetError)
    assert raised.value.remedy


def test_the_same_inputs_are_built_once(centerface_path: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    works = [tmp_path / name for name in "abcd"]
    for work in works:
        work.mkdir()
    first = build(centerface_path, works[0], spec_of(centerface_path), cache=cache)
    again = build(centerface_path, works[1], spec_of(centerface_path), cache=cache)
    assert (first.cached, again.cached) == (False, True)
    assert again.engine_digest == first.engine_digest
    assert again.report == first.report
    assert log_tail(works[1]) == ""  # no process was started

    # Another file that is the same model: a byte after the graph that no reader looks at.
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(centerface_path.read_bytes() + b"\x3a\x00")
    same = build(copy, works[2], spec_of(copy), cache=cache)
    assert digest_bytes(copy.read_bytes()) != digest_file(centerface_path)
    assert (same.cached, same.key) == (True, first.key)

    other = build(centerface_path, works[3], spec_of(centerface_path, min_confidence=0.5), cache=cache)
    assert not other.cached
