"""Health windows: what is counted, how it is cut, and that nothing is lost before the plane has it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from edge_agent.updates import windows as windows_module
from edge_agent.updates.codec import window_from, window_message
from edge_agent.updates.windows import CONFIDENCE_BOUNDS, LATENCY_BOUNDS_MS, Counts, Tally, WindowStore
from maskfleet.errors import OutputError


def counted() -> Counts:
    counts = Counts("boot-1", starts=4, start_ns=100)
    counts.noted("engine_load", "loaded")
    counts.noted("self_test", "passed")
    counts.noted("swap", "swapped")
    for release, outcome, reason, scores in (
        ("r-1", "MASKED", "DETECTED", [0.9, 0.4]),
        ("r-2", "MASKED", "DETECTED", [0.95]),
        ("r-2", "COASTED", "TRACK_CARRIED", []),
        ("r-2", "FULL_MASK", "ENGINE_FAILED", []),
        ("r-2", "DROPPED", "SUPERSEDED", []),
        ("r-3", "DROPPED", "SOURCE_FRAME", []),
    ):
        counts.frame(release, outcome=outcome, reason=reason, stages_ms={"TOTAL": 12.0}, scores=scores)
    return counts


def test_each_release_has_a_window_and_the_serving_one_comes_last() -> None:
    old, bad, new = counted().closed(200, serving="r-2", temperatures={"cpu": 51.5})
    assert bad.errors_by_kind == bad.guard_actions_by_reason == {"SOURCE_FRAME": 1}
    assert (old.release_id, old.frames_by_outcome, old.detections) == ("r-1", {"MASKED": 1}, 2)
    assert new.frames_by_outcome == {"MASKED": 1, "COASTED": 1, "FULL_MASK": 1, "DROPPED": 1}
    assert new.errors_by_kind == {"ENGINE_FAILED": 1}
    assert new.guard_actions_by_reason == {"ENGINE_FAILED": 1, "SUPERSEDED": 1}
    assert (old.engine_loads_by_result, new.engine_loads_by_result) == ({}, {"loaded": 1})
    assert new.self_tests_by_result == {"passed": 1}
    assert (old.sequence, new.sequence, new.starts, new.boot_id) == (1, 3, 4, "boot-1")
    assert (new.start_monotonic_ns, new.end_monotonic_ns, new.temperatures_c) == (100, 200, {"cpu": 51.5})
    assert sum(new.latency_ms_by_stage["TOTAL"].counts) == 4


def test_an_interval_in_which_nothing_happens_has_a_window_too() -> None:
    counts = counted()
    counts.closed(200, serving="r-2", temperatures={})
    (idle,) = counts.closed(300, serving="r-2", temperatures={})
    assert (idle.sequence, idle.frames_by_outcome, idle.start_monotonic_ns) == (4, {}, 200)
    (nothing,) = Counts("b", starts=1, start_ns=0).closed(1, serving="", temperatures={})
    assert nothing.release_id == ""


def test_bounds_are_inclusive_and_rise() -> None:
    tally = Tally((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.1):
        tally.add(value)
    assert (tally.buckets().counts, tally.buckets().sum) == ((2, 2, 1), pytest.approx(7.1))
    for bounds in (LATENCY_BOUNDS_MS, CONFIDENCE_BOUNDS):
        assert list(bounds) == sorted(set(bounds))


def test_a_window_is_the_same_after_wire_and_disk(tmp_path: Path) -> None:
    before = counted().closed(200, serving="r-2", temperatures={"cpu": 51.5})
    assert [window_from(window_message(window)) for window in before] == before
    store = WindowStore(tmp_path / "health.db")
    for window in before:
        store.add(window)
    store.close()
    again = WindowStore(tmp_path / "health.db")
    assert again.pending() == before
    again.forget("boot-1", 1)
    assert [window.sequence for window in again.pending()] == [2, 3]
    again.forget("boot-2", 9)
    assert len(again.pending()) == 2
    again.close()


def test_the_oldest_windows_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_module, "MAX_KEPT", 3)
    counts, store = Counts("b", starts=1, start_ns=0), WindowStore(tmp_path / "health.db")
    for now in range(1, 8):
        for window in counts.closed(now, serving="", temperatures={}):
            store.add(window)
    assert [window.sequence for window in store.pending()] == [5, 6, 7]
    store.close()


def test_a_damaged_file_is_put_aside_and_windows_begin_anew(tmp_path: Path) -> None:
    (tmp_path / "health.db").write_bytes(b"no database " * 100)
    store = WindowStore(tmp_path / "health.db")
    assert store.pending() == []
    for window in counted().closed(200, serving="r-2", temperatures={}):
        store.add(window)
    assert len(store.pending()) == 3
    store.close()
    assert (tmp_path / "health.db.damaged").read_bytes().startswith(b"no database")


def test_a_window_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    store = WindowStore(tmp_path / "health.db")
    for window in counted().closed(200, serving="r-2", temperatures={}):
        store.add(window)
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "health.db")) as db, db:
        db.execute("UPDATE windows SET body = ? WHERE sequence = 1", (b"\xff" * 9,))
    again = WindowStore(tmp_path / "health.db")
    assert [window.sequence for window in again.pending()] == [2, 3]
    again.close()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "health.db").mkdir()
    with pytest.raises(OutputError, match=r"health\.db cannot be used"):
        WindowStore(tmp_path / "health.db")
