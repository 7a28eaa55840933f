"""Health windows that make no sense are told from those that do."""

from __future__ import annotations

import dataclasses

import pytest

from control_plane.domain.health import Histogram, Window, WindowMark, backwards, fault, gap, is_news

WINDOW = Window("b1", 2, 10, 20, confidence=Histogram((0.5, 0.9), (1, 2, 3), 2.5))
NAN = float("nan")
FAULTS = {
    "a boot id with a slash": {"boot_id": "a/b"},
    "no boot id": {"boot_id": ""},
    "time that runs backwards": {"start_monotonic_ns": 30},
    "a temperature that is no number": {"temperatures_c": {"cpu": NAN}},
    "a sum that is no number": {"confidence": Histogram((0.5,), (1, 2), NAN)},
    "too few counts": {"confidence": Histogram((0.5,), (1,), 1.0)},
    "bounds that fall": {"latency_ms_by_stage": {"detect": Histogram((2.0, 1.0), (1, 1, 1), 1.0)}},
    "infinite bounds": {"confidence": Histogram((float("inf"),), (1, 2), 1.0)},
    "bounds below zero": {"confidence": Histogram((-0.5, 0.5), (1, 1, 1), 1.0)},
    "a sum below zero": {"confidence": Histogram((0.5,), (1, 1), -1.0)},
    "an infinite sum": {"confidence": Histogram((0.5,), (1, 1), float("inf"))},
    "a negative number of observations": {"confidence": Histogram((0.5,), (1, -1), 1.0)},
    "a negative number of frames": {"frames_by_outcome": {"MASKED": -1}},
    "more frames than a device can mask": {"frames_by_outcome": {"MASKED": 2**63}},
    "a negative number of guard actions": {"guard_actions_by_reason": {"NO_ENGINE": -1}},
    "a number of starts that is negative": {"starts": -1},
    "an infinite temperature": {"temperatures_c": {"cpu": float("inf")}},
    "a window of a month": {"end_monotonic_ns": 30 * 24 * 3600 * 10**9},
    "a sequence of zero": {"sequence": 0},
    "a name that is a book": {"errors_by_kind": {"E" * 500: 1}},
    "more bounds than a histogram needs": {"confidence": Histogram(tuple(map(float, range(300))), (0,) * 301, 0.0)},
    "more stages than a device has": {"errors_by_kind": {str(n): 1 for n in range(500)}},
}


def test_a_sound_window_has_no_fault() -> None:
    assert fault(WINDOW) == ""


@pytest.mark.parametrize("fields", FAULTS.values(), ids=FAULTS.keys())
def test_a_window_is_refused(fields: dict[str, object]) -> None:
    assert fault(dataclasses.replace(WINDOW, **fields))  # type: ignore[arg-type]


def test_only_what_comes_after_the_mark_is_news() -> None:
    assert is_news(WINDOW, None)
    assert is_news(WINDOW, WindowMark("d", "b1", 1))
    assert not is_news(WINDOW, WindowMark("d", "b1", 2))


MARK = WindowMark("d", "b1", 4, 100, 200)
TIMES = {
    "goes on where the last one ended": (200, 300, ""),
    "leaves a pause": (250, 300, ""),
    "has the times of the last one: another release in the same interval": (100, 200, ""),
    "is empty": (200, 200, ""),
    "ends before the last one did": (10, 90, "does not run backwards"),
    "begins before the last one ended": (150, 300, "overlaps"),
    "holds the last one": (50, 300, "overlaps"),
}


@pytest.mark.parametrize(("start", "end", "words"), TIMES.values(), ids=TIMES.keys())
def test_a_window_that(start: int, end: int, words: str) -> None:
    told = backwards(dataclasses.replace(WINDOW, sequence=5, start_monotonic_ns=start, end_monotonic_ns=end), MARK)
    assert words in told
    assert bool(told) is bool(words)


def test_the_first_window_of_a_boot_comes_after_nothing() -> None:
    assert backwards(WINDOW, None) == ""
    assert (gap(dataclasses.replace(WINDOW, sequence=1), None), gap(WINDOW, None), gap(WINDOW, MARK)) == (0, 1, 0)
    assert gap(dataclasses.replace(WINDOW, sequence=9), MARK) == 4
