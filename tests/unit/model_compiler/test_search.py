"""Which precision wins: the rule as a table, and whole searches on real models."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from maskfleet.errors import BuildError, CanceledError, FleetError, GateRefusedError
from maskfleet.gate import Margins
from maskfleet.ids import digest_file
from model_compiler import evaluation
from model_compiler.cache import Built, Cache
from model_compiler.calibration import named
from model_compiler.process import log_tail, nowhere
from model_compiler.search import Candidate, choose, run_search
from model_compiler.spec import BuildSpec


def passed(precision: str, ms: float | None = None, ratio: float | None = None) -> Candidate:
    report = {"speed": {"ms": ms, "ratio": ratio}} if ms is not None else {}
    return Candidate(precision, "passed", report=report)


REFUSED = Candidate("int8", "refused", "offset has cosine 0.96")
CHOICES = {
    "the fastest wins": ([passed("fp32", 30, 1.0), passed("fp16", 20, 0.7), passed("int8", 12, 0.4)], "int8", "3"),
    "what the gate refused does not, however fast": (
        [passed("fp32", 30, 1.0), passed("fp16", 20, 0.7), REFUSED],
        "fp16",
        "int8 refused",
    ),
    "what does not build does not": (
        [passed("fp32", 30, 1.0), Candidate("fp16", "failed", "no memory"), REFUSED],
        "fp32",
        "fp16 failed; int8 refused",
    ),
    "the ratio decides, not the milliseconds of a noisy minute": (
        [passed("fp32", 30, 1.0), passed("fp16", 28, 1.2)],
        "fp32",
        "fastest of 2",
    ),
    "a difference within the noise is none, and the more exact one is taken": (
        [passed("fp32", 30, 1.0), passed("fp16", 29, 0.97), passed("int8", 29, 0.96)],
        "fp32",
        "as fast as int8 within 5%, and more exact",
    ),
    "where nothing can be timed the first that passed is taken, and said so": (
        [passed("fp16")],
        "fp16",
        "none can be timed on this builder",
    ),
    "where sixteen bits are refused there, it is the next": (
        [Candidate("fp16", "refused", "x"), passed("fp32")],
        "fp32",
        "fp16 refused",
    ),
}


@pytest.mark.parametrize(("candidates", "winner", "why"), CHOICES.values(), ids=CHOICES.keys())
def test_the_choice(candidates: list[Candidate], winner: str, why: str) -> None:
    chosen, sentence = choose(candidates)
    assert chosen.precision == winner
    assert why in sentence


def test_nothing_that_passes_is_an_error_that_names_each_reason() -> None:
    with pytest.raises(GateRefusedError, match=r"fp16 failed: no memory; int8 refused: offset"):
        choose([Candidate("fp16", "failed", "no memory"), REFUSED])
    with pytest.raises(BuildError, match="fp16 failed"):
        choose([Candidate("fp16", "failed", "no memory")])


def search(
    path: Path,
    decoder: str,
    workdir: Path,
    target: str = "ort-cpu",
    *,
    cache: Cache | None = None,
    elsewhere: Callable[..., Built | None] = nowhere,
    cancel: threading.Event | None = None,
    progress: Callable[[str, float], None] = lambda _phase, _fraction: None,
    source: Callable[[], Path] | None = None,
    **fields: object,
) -> Built:
    spec = BuildSpec(digest_file(path), decoder, target, "auto", **fields)  # type: ignore[arg-type]  # a table of fields
    workdir.mkdir(exist_ok=True)
    return run_search(
        spec, source or (lambda: path), workdir, cache=cache, elsewhere=elsewhere, cancel=cancel, progress=progress
    )


@pytest.mark.slow
def test_every_precision_is_proved_and_timed_and_the_fastest_wins(
    detector_path: Callable[[str], Path], tmp_path: Path
) -> None:
    seen: list[tuple[str, float]] = []
    cache = Cache(tmp_path / "cache")
    path = detector_path("yunet")
    built = search(path, "yunet", tmp_path / "one", cache=cache, progress=lambda *at: seen.append(at))
    report = built.report
    json.dumps(report)
    assert [one["precision"] for one in report["candidates"]] == ["fp32", "fp16", "int8"]
    for one in report["candidates"]:
        assert one["verdict"] in ("won", "passed")
        assert one["ms"] > 0
        assert one["ratio"] > 0
        assert one["figures"]["recall"] == 1.0
        assert one["size_bytes"] > 0
    (winner,) = (one for one in report["candidates"] if one["verdict"] == "won")
    assert winner["precision"] == report["precision"]
    assert winner["ratio"] <= min(one["ratio"] for one in report["candidates"]) * 1.05
    assert winner["size_bytes"] == built.size_bytes
    assert report["spec"]["precision"] == "auto"
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert {phase.split(":")[0] for phase, _ in seen} == {"fp32", "fp16", "int8"}
    assert all(f"== {name}" in log_tail(tmp_path / "one") for name in ("fp32", "fp16", "int8"))

    def never() -> Path:
        raise AssertionError("nothing is fetched for what was built before")

    again = search(path, "yunet", tmp_path / "two", cache=cache, source=never)
    assert again.cached
    assert (again.engine_digest, again.report) == (built.engine_digest, report)


def test_on_a_target_that_cannot_be_timed_sixteen_bits_are_taken_if_they_pass(
    detector_path: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    report = search(detector_path("yunet"), "yunet", tmp_path / "work", "rtx-turing").report
    assert report["precision"] == "fp16"
    assert report["verified_on"] == "prepared-onnx"
    assert [(one["precision"], one["ms"]) for one in report["candidates"]] == [("fp16", None)]
    strict = search(
        detector_path("yunet"), "yunet", tmp_path / "strict", "rtx-turing", margins=Margins(max_error=1e-6)
    ).report
    assert strict["precision"] == "fp32"
    assert [(one["precision"], one["verdict"]) for one in strict["candidates"]] == [
        ("fp16", "refused"),
        ("fp32", "won"),
    ]
    assert strict["candidates"][0]["figures"]["outputs"]


def test_margins_that_nothing_keeps_within_refuse_everything(
    detector_path: Callable[[str], Path], tmp_path: Path
) -> None:
    impossible = Margins(min_mean_iou=1.0, max_error=0.0, min_cosine=1.0)
    with pytest.raises(GateRefusedError, match="no precision passes"):
        search(
            detector_path("yunet"), "yunet", tmp_path / "work", "rtx-turing", margins=impossible, min_confidence=0.99
        )


def test_what_the_fleet_has_built_is_not_built_again(detector_path: Callable[[str], Path], tmp_path: Path) -> None:
    asked: list[str] = []
    theirs = Built("sha256:" + "0" * 64, None, "sha256:" + "1" * 64, 7, {"precision": "fp16"}, cached=True)

    def elsewhere(*, recipe: str = "", key: str = "") -> Built | None:
        asked.append(recipe)
        return theirs

    def never() -> Path:
        raise AssertionError("nothing is fetched")

    assert search(detector_path("yunet"), "yunet", tmp_path / "w", elsewhere=elsewhere, source=never) is theirs
    assert asked[0].startswith("sha256:")


def test_a_search_that_is_canceled_tries_nothing_more(detector_path: Callable[[str], Path], tmp_path: Path) -> None:
    cancel = threading.Event()
    phases: list[str] = []

    def progress(phase: str, _fraction: float) -> None:
        phases.append(phase)
        if phase.endswith("build"):
            cancel.set()

    with pytest.raises(CanceledError):
        search(detector_path("yunet"), "yunet", tmp_path / "work", cancel=cancel, progress=progress)
    assert not [phase for phase in phases if phase.startswith("int8")]


def test_a_wrong_model_is_an_error_at_once(detector_path: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="outputs where"):
        search(detector_path("yunet"), "centerface", tmp_path / "work")
    assert not (tmp_path / "work/fp16").exists()


@pytest.mark.slow
def test_ranges_are_learnt_from_the_set_that_is_asked_for(detector_path: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "sets/night/1"
    folder.mkdir(parents=True)
    for i, frame in enumerate(evaluation.frames(variants=False)):
        cv2.imwrite(str(folder / f"{i}.png"), (frame.image * 0.6).astype("uint8"))
    path, cache = detector_path("yunet"), Cache(tmp_path / "cache")
    chosen = named("night/1", tmp_path / "sets")
    # Ranges of the night alone are too small for the day: that is for the gate to say, and not what is asked here.
    margins = Margins(0.0, 100.0, 0.0, 100.0, 0.5, 0.0)
    spec = BuildSpec(digest_file(path), "yunet", "ort-cpu", "int8", calibration="night/1", margins=margins)

    def run(name: str) -> Built:
        (tmp_path / name).mkdir()
        return run_search(spec, lambda: path, tmp_path / name, calibration=chosen, cache=cache)

    first = run("first")
    assert first.report["calibration"] == chosen.to_json()
    assert run("again").cached
    cv2.imwrite(str(folder / "more.png"), evaluation.frames()[0].image)
    changed = run("changed")
    assert not changed.cached
    assert changed.key != first.key
