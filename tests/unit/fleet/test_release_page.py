"""The page of a release: what is in it, that nothing in it is more than text, that its plots can be read."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from fleet.cli.plain import plain
from fleet.release_page import render
from fleet.release_plot import HEIGHT, WIDTH, Box, Point, nice_step, place, speed_accuracy
from maskfleet.v1 import releases_service_pb2
from tests.unit.fleet.sample_release import CPU, candidate, digest, figures, message, report, sample

EVIL = '<script>alert("x")</script><img src=x onerror=y>&"\''
VOID = {"meta", "br", "img", "line", "circle"}


class Tags(HTMLParser):
    """Reads a page: every tag, what opens and what closes, every address."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.attributes: dict[str, set[str]] = {}
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def spoilt(value: Any) -> Any:
    """The same report with a hostile text in every place that holds one, names included."""
    if isinstance(value, dict):
        return {**{key: spoilt(entry) for key, entry in value.items()}, EVIL: EVIL}
    if isinstance(value, list):
        return [spoilt(entry) for entry in value]
    return EVIL if isinstance(value, str) else value


def test_a_page_has_the_matrix_the_plot_and_where_everything_comes_from() -> None:
    page = render(sample())
    tags = Tags(page)
    assert tags.seen.count("svg") == 1  # the CPU alone was timed
    for word in (
        "Release r-3: centerface/2", "int8, 2 nodes fp32", "recall 93.1% &lt; 98%",
        "rtx-ampere-plus: its builder could not run its engines, so none was timed.",
        "jp6-orin waits for a builder: a Jetson Orin with JetPack 6 and TensorRT 10.3",
        digest("a"), digest("b"), digest("c"), digest("d"), digest("e"), digest("f"), "street/2, 25 pictures",
        "UNVERIFIED ON HARDWARE", "builder-1, from the cache", "Linux-6.1-x86_64", "40.66", "offset: cosine", "0.99670",
        "at least 0.995", "at most 25%", "25 pictures; the fp32 model finds 130 faces in them, the engine 129.",
        "prepare: opset 9 became 17",
    ):  # fmt: skip
        assert word in page, word


def test_nothing_is_fetched_from_anywhere() -> None:
    page = render(sample())
    assert not {"src", "href", "srcset", "action", "data"} & Tags(page).attributes.keys()
    assert not re.search(r"url\(|@import|https?:", page)


def test_hostile_texts_stay_texts_wherever_they_stand() -> None:
    release = message(extra_builds=False)
    build = release.builds[0]
    build.report_json = json.dumps(spoilt(report("int8", "why", CPU)))
    release.id = release.model_name = release.reason = release.calibration = release.manifest_digest = EVIL
    for field in ("reason", "builder_id", "engine_digest", "log_tail", "verified_by", "missing_builder"):
        setattr(build, field, EVIL)
    build.spec.target = EVIL
    build.verification = 3
    for state in (releases_service_pb2.RELEASE_STATE_READY, releases_service_pb2.RELEASE_STATE_FAILED):
        release.state = state
        tags = Tags(render(plain(release)))
        assert not {"script", "img"} & set(tags.seen)
        assert not any(name.startswith("on") for name in tags.attributes)


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"gate": 1, "candidates": [7], "seconds": [], "machine": "x"}'])
def test_a_report_that_cannot_be_read_leaves_a_page_without_it(text: str) -> None:
    release = message(extra_builds=False)
    release.builds[0].report_json = text
    page = render(plain(release))
    Tags(page)
    assert "none was timed" in page


def test_points_that_are_refused_are_hollow_and_the_winner_has_a_ring() -> None:
    points = [
        Point("int8", 12.0, 0.99, won=True, passed=True),
        Point("fp32", 21.0, 1.0, won=False, passed=True),
        Point("fp16", 20.0, 0.93, won=False, passed=False),
    ]
    svg = speed_accuracy(points, measure="recall", limit=0.98)
    dots: dict[str, str] = dict(re.findall(r"<g><title>(\w+): [^<]*</title>(.*?)</g>", svg))
    assert {label: drawing.count("<circle") for label, drawing in dots.items()} == {"int8": 2, "fp32": 1, "fp16": 1}
    assert 'fill="var(--card)"' in dots["fp16"]
    assert 'fill="var(--accent)"' in dots["fp32"]
    for word in ("recall, %", "milliseconds a picture, on its builder", "gate: at least 98%"):
        assert f">{word}</text>" in svg
    x = {label: float(re.search(r'cx="([\d.]+)"', drawing)[1]) for label, drawing in dots.items()}  # type: ignore[index]
    y = {label: float(re.search(r'cy="([\d.]+)"', drawing)[1]) for label, drawing in dots.items()}  # type: ignore[index]
    assert x["int8"] < x["fp16"] < x["fp32"]  # to the left is faster
    assert y["fp32"] < y["int8"] < y["fp16"]  # up is better


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([(12.0 + 0.1 * n, 0.99 + 0.001 * n) for n in range(8)], id="close together"),
        pytest.param([(5.0, 1.0)] * 6, id="one on the other"),
        pytest.param([(0.2, 1.0), (90.0, 1.0), (45.0, 0.0)], id="in the corners"),
        pytest.param([(0.0, 0.0)], id="nothing at all"),
    ],
)
def test_labels_lie_within_the_plot_and_on_nothing(points: list[tuple[float, float]]) -> None:
    made = [Point(f"int8 {n}", ms, value, won=n == 0, passed=True) for n, (ms, value) in enumerate(points)]
    svg = speed_accuracy(made, measure="mean IoU", limit=0.9)
    found = re.findall(
        r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)" fill="currentColor"[^>]*>(int8 \d)</text>', svg
    )
    assert len(found) == len(points)
    boxes = []
    for x, y, anchor, label in found:
        width = 6.0 * len(label)
        left = float(x) - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        boxes.append(Box(left, float(y) - 10, left + width, float(y) + 2))
    assert all(box.within(Box(0, 0, WIDTH, HEIGHT)) for box in boxes)
    assert not any(a.meets(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_a_label_takes_the_nearest_free_place_and_a_line_where_it_is_far() -> None:
    free, line = place(200, 100, 40, [])
    assert (free.x1, line) == (215, False)
    left, line = place(200, 100, 40, [Box(205, 0, 480, 290)])
    assert (left.x2, line) == (185, False)
    _far, line = place(200, 100, 40, [Box(160, 80, 260, 120)])
    assert line


@pytest.mark.parametrize(("span", "step"), [(25.0, 5.0), (1.0, 0.2), (0.013, 0.005), (9.9, 2.0), (0.0, 2e-10)])
def test_ticks_have_round_steps(span: float, step: float) -> None:
    assert nice_step(span, 5) == pytest.approx(step)


def test_where_recall_is_the_same_for_all_the_boxes_are_compared() -> None:
    release = message(extra_builds=False)
    tried = [candidate("fp32", "passed", 2.0, figures=figures(1.0, 1.0)), candidate("fp16", "won", 1.0)]
    release.builds[0].report_json = json.dumps(report("fp16", "", tried))
    page = render(plain(release))
    assert ">mean IoU</text>" in page
    assert ">gate: at least 0.9</text>" in page
