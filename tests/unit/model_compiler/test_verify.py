"""The gate passes what is close, refuses what is far, and never passes what was not compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engines.engine import Engine, EngineInfo, FloatArray
from maskfleet.decoding import decoder_spec
from maskfleet.errors import GateRefusedError
from model_compiler import evaluation
from model_compiler.prepare import prepare
from model_compiler.reference import loaded
from model_compiler.spec import Margins
from model_compiler.verify import Figures, OutputFigures, check, compared, matched

GOOD = Figures(
    outputs={"heatmap": OutputFigures(cosine=0.9999, max_error=0.01, relative_error=0.01)},
    frames=12,
    reference_detections=12,
    engine_detections=12,
    recall=1.0,
    extra=0.0,
    mean_iou=0.99,
    min_iou=0.97,
)
NAN = float("nan")
FAR: dict[str, tuple[dict[str, object], str]] = {
    "an output that points elsewhere": ({"outputs": {"offset": OutputFigures(0.75, 0.01, 0.01)}}, "offset has cosine"),
    "one value far off": ({"outputs": {"offset": OutputFigures(1.0, 9.0, 0.4)}}, "off by 40.0% of its range"),
    "faces that are lost": ({"recall": 0.9}, "finds 90.0% of the faces"),
    "faces that are none": ({"extra": 0.2}, "20.0% more boxes"),
    "boxes in other places": ({"mean_iou": 0.7}, "overlap by 0.700"),
    "a cosine that is no number": ({"outputs": {"offset": OutputFigures(NAN, 0.0, 0.0)}}, "offset has cosine"),
    "an error that is no number": ({"outputs": {"offset": OutputFigures(1.0, NAN, NAN)}}, "offset is off"),
    "a model that finds nothing": ({"recall": None, "extra": None, "mean_iou": None}, "cannot be judged"),
    "an engine that finds nothing": ({"recall": 0.0, "mean_iou": None}, "finds 0.0% of the faces"),
}


def test_what_is_close_passes() -> None:
    check(GOOD, Margins())


@pytest.mark.parametrize(("change", "message"), FAR.values(), ids=FAR.keys())
def test_what_is_far_is_refused_with_its_figure(change: dict[str, object], message: str) -> None:
    with pytest.raises(GateRefusedError, match=message) as raised:
        check(dataclasses.replace(GOOD, **change), Margins())  # type: ignore[arg-type]  # a table of fields
    assert raised.value.remedy


def test_each_box_is_matched_once_the_best_pair_first() -> None:
    truth = np.asarray([[0, 0, 10, 10, 1], [100, 0, 110, 10, 1]], np.float32)
    found = np.asarray([[0, 0, 10, 8, 1], [0, 0, 10, 10, 1], [101, 0, 111, 10, 1]], np.float32)
    assert matched(truth, found, 0.5) == pytest.approx([1.0, 9 / 11])
    assert matched(truth, np.zeros((0, 5), np.float32), 0.5) == []


class Changed:
    """An engine whose outputs pass through a function."""

    def __init__(self, engine: Engine, change: Callable[[dict[str, FloatArray]], Mapping[str, FloatArray]]) -> None:
        self._engine, self._change = engine, change

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        return self._change({role: value.copy() for role, value in self._engine.infer(blob).items()})

    def close(self) -> None:
        self._engine.close()


def _shifted(outputs: dict[str, FloatArray]) -> dict[str, FloatArray]:
    return outputs | {"heatmap": np.roll(outputs["heatmap"], 8, axis=3)}


def _blind(outputs: dict[str, FloatArray]) -> dict[str, FloatArray]:
    return outputs | {"heatmap": outputs["heatmap"] * np.float32(0.2)}


def _not_finite(outputs: dict[str, FloatArray]) -> dict[str, FloatArray]:
    outputs["landmarks"][0, 0, 0, 0] = np.nan
    return outputs


BROKEN: dict[str, tuple[Callable[[dict[str, FloatArray]], dict[str, FloatArray]], str]] = {
    "its faces are eight cells away": (_shifted, "heatmap has cosine"),
    "it is never sure": (_blind, "finds 0.0% of the faces"),
    "it gives values that are no numbers": (_not_finite, "landmarks' holds values that are no numbers"),
}


@pytest.fixture(scope="module")
def centerface(centerface_path: Path) -> bytes:
    return prepare(centerface_path.read_bytes(), decoder_spec("centerface"), 320, 256).model


def run_gate(model: bytes, change: Callable[[dict[str, FloatArray]], Mapping[str, FloatArray]]) -> Figures:
    decoder = decoder_spec("centerface")
    with loaded(model, decoder) as reference, loaded(model, decoder) as engine:
        figures = compared(
            reference,
            Changed(engine, change),
            decoder,
            evaluation.frames(),
            min_confidence=0.35,
            nms_iou=0.3,
            match_iou=0.5,
        )
    check(figures, Margins())
    return figures


def test_an_engine_that_is_its_model_passes_and_finds_faces(centerface: bytes) -> None:
    figures = run_gate(centerface, dict)
    assert figures.reference_detections >= 9  # three faces, four variants; the smallest may be missed
    assert figures.to_json()["recall"] == 1.0


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_engine_is_refused(
    centerface: bytes, change: Callable[[dict[str, FloatArray]], dict[str, FloatArray]], message: str
) -> None:
    with pytest.raises(GateRefusedError, match=message):
        run_gate(centerface, change)


def test_the_evaluation_set_is_the_same_each_time() -> None:
    first, second = evaluation.frames(), evaluation.frames()
    assert [frame.name for frame in first] == [frame.name for frame in second]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second))
    assert evaluation.digest().startswith("sha256:")
    assert any("no-face" in frame.name for frame in first)
