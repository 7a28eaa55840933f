"""Health windows that make no sense are told from those that do."""

from __future__ import annotations

import dataclasses

import pytest

from control_plane.domain.health import Histogram, Window, WindowMark, fault, is_news

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
