"""The live view of a rollout: it fits the terminal, and never passes fixed limits off as statistics."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from rich.console import Console

from fleet.cli.rollout_view import WatchView, line, scale, sparkline
from fleet.cli.times import ago, left
from fleet.waves import wave_of

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)
PASS = {
    "rollout_id": "ro-3",
    "time": "2026-01-02T11:59:58.000Z",
    "verdict": "PASS",
    "action": "wait",
    "statistical": False,
    "reasons": ["p95 of the canaries is 48 ms, of the control 47 ms: 1.02 times, at most 1.25 times is allowed"] * 5,
}


def rollout(devices: int = 10, **changes: Any) -> dict[str, Any]:
    def device(number: int) -> dict[str, Any]:
        wave = 0 if number == 0 else 1 if number < devices // 2 else 2
        state = "COMMITTED" if wave == 0 else "UPDATING" if wave == 1 else "PENDING"
        return {
            "device_id": f"d-{number}", "device_name": f"agent-with-a-name-{number}", "baseline_release_id": "r-3",
            "state": state, "detail": "DOWNLOADING 40 %" if wave == 1 else "", "wave": wave, "online": number != 3,
            "cohort": "CANARY" if wave < 2 else "CONTROL", "stratum": "site=berlin",
        }  # fmt: skip

    def series(cohort: str, p95: float) -> dict[str, Any]:
        points = [{"time": "", "frames": 100, "failed": 1, "p95_ms": p95 if n > 5 else None} for n in range(60)]
        return {"cohort": cohort, "devices": 3, "points": points}

    base = {
        "id": "ro-3", "release_id": "r-4", "selector": "site=berlin", "state": "SOAKING", "wave": 1, "waves": 3,
        "reason": "the devices of wave 2 are watched", "devices": [device(n) for n in range(devices)],
        "strategy": {"waves": [{"share": {"percent": p, "count": None}} for p in (10, 50, 100)]},
        "soak_end_time": "2026-01-02T12:00:42.000Z", "decision": PASS, "device_count": devices,
        "series": [series("CANARY", 96.0), series("CONTROL", 48.0)],
    }  # fmt: skip
    return {**base, **changes}


def drawn(shown: dict[str, Any], width: int, height: int, note: str = "") -> list[str]:
    paper = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    paper.print(WatchView(shown, NOON, note=note))
    assert isinstance(paper.file, io.StringIO)
    return paper.file.getvalue().splitlines()


@pytest.mark.parametrize("devices", [1, 3, 24, 500])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_it_fits_the_terminal_with_any_number_of_devices(devices: int, width: int, height: int) -> None:
    lines = drawn(rollout(devices), width, height, note="the control plane does not answer")
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in ("ro-3 → r-4", "SOAKING", "✓ 10 %", "▶ 50 % soaking, 42 s left", "○ 100 %", "canary", "96 ms", "1.00%",
                 "this is no statistical verdict"):  # fmt: skip
        assert word in text
    shown = sum("agent-with-a-name" in each for each in lines)
    assert shown == devices or f"… and {devices - shown} more" in text
    assert shown >= min(devices, 3)


def test_a_wave_that_proves_engines_is_wave_0() -> None:
    shares = [{"share": {"percent": p, "count": None}} for p in (50, 100)]
    proving = {"share": {"percent": None, "count": 1}, "proves": {"rtx-turing": "agent-2"}}
    shown = rollout(strategy={"waves": [proving, *shares]}, wave=0, state="PROGRESSING")
    assert "wave 0 of 2" in line(shown)
    text = "\n".join(drawn(shown, 120, 40))
    assert "▶ rtx-turing on agent-2 under way" in text
    assert "○ 50 %" in text
    assert "up to wave 0: " in text
    assert "wave 1 of 2" in line({**shown, "wave": 1})
    assert wave_of({"waves": 0, "wave": -1}) == ""
    assert wave_of(rollout()) == "2 of 3"


def test_the_columns_of_a_narrow_terminal_are_whole_but_for_the_last() -> None:
    lines = drawn(rollout(), 80, 24)
    row = next(each for each in lines if "agent-with-a-name-1" in each)
    assert "UPDATING" in row
    assert "canary" in row


def test_one_device_in_a_small_terminal_still_says_where_it_stands() -> None:
    assert drawn(rollout(3), 40, 10)[0].startswith("ro-3 → r-4  SOAKING")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"state": "HELD"}, "■ 50 % held", id="held"),
        pytest.param({"state": "HELD"}, "fleet rollouts explain ro-3, then resume, promote or", id="next"),
        pytest.param({"state": "PAUSED"}, "fleet rollouts resume ro-3", id="paused"),
        pytest.param({"state": "ROLLING_BACK"}, "↩ 50 % rolling back", id="on the way back"),
        pytest.param({"state": "SUCCEEDED", "wave": 2}, "✓ 100 %", id="through"),
        pytest.param({"decision": {**PASS, "statistical": True}}, "PASS  wait, 11:59:58 UTC\n", id="a real test"),
        pytest.param({"series": [], "decision": None, "strategy": None}, "▶ wave 2 soaking", id="an older plane"),
        pytest.param({"selector": "[bold]x"}, "[bold]x", id="nothing is markup"),
    ],
)  # fmt: skip
def test_states_look_different(changes: dict[str, Any], said: str) -> None:
    lines = drawn(rollout(**changes), 120, 40)
    assert said in "\n".join(each.rstrip() for each in lines) + "\n"


FAIL = {
    **PASS,
    "verdict": "FAIL",
    "wave": 1,
    "inputs": {"opened": "2026-01-02T11:59:00+00:00"},
    "reasons": [
        "p95 latency: 96 ms to 48 ms",
        "failed frames: as many",
        "9 frames",
        "fixed limits, no statistical verdict",
    ],
}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 36)])
def test_reasons_take_the_lines_that_devices_leave_the_deciding_one_first(width: int, height: int) -> None:
    few = drawn(rollout(2, decision=FAIL), width, height)
    at = next(n for n, each in enumerate(few) if each.startswith("FAIL"))
    assert [each.strip() for each in few[at + 1 : at + 4]] == FAIL["reasons"][:3]
    assert sum("no statistical verdict" in each for each in few) == 1, "said once"
    many = drawn(rollout(500, decision={**FAIL, "reasons": [f"reason {n}" for n in range(40)]}), width, height)
    assert any("reason 0" in each for each in many)
    assert any("more: fleet rollouts explain ro-3" in each for each in many)
    assert sum("agent-with-a-name" in each for each in many) >= 3


def test_frames_count_from_the_opening_of_the_wave_and_without_any_there_is_no_scale() -> None:
    def point(time: str, frames: int) -> dict[str, Any]:
        return {"time": f"2026-01-02T{time}.000Z", "frames": frames, "failed": 0, "p95_ms": 9.0 if frames else None}

    points = [point("11:58:00", 278), point("11:59:00", 50), point("11:59:30", 60), point("11:59:40", 72)]
    series = [{"cohort": "CANARY", "devices": 1, "points": points}]
    begun = {"create_time": "2026-01-02T11:58:30.000Z", "series": series}

    def frames(**changes: Any) -> str:
        row = next(each for each in drawn(rollout(3, **begun, **changes), 120, 40) if each.startswith("canary"))
        return row.split()[2]

    assert frames(decision=FAIL) == "132"
    assert frames(decision=None) == "182", "since the rollout began, where nothing says when the wave opened"
    assert frames(decision={**FAIL, "wave": 0}) == "182", "a decision about the wave before says nothing of this one"
    nothing = rollout(3, series=[{"cohort": "CANARY", "devices": 1, "points": [point("11:59:50", 0)]}])
    text = "\n".join(drawn(nothing, 120, 40))
    assert " MS" not in text
    assert "P95 OVER TIME" in text


def test_a_device_s_state_is_said_once_and_its_stratum_has_a_column_where_there_is_room() -> None:
    shown = rollout(3)
    shown["devices"][0]["detail"] = "COMMITTED"
    for width in (80, 120):
        lines = drawn(shown, width, 40)
        row = next(each for each in lines if "agent-with-a-name-0" in each)
        assert row.count("COMMITTED") == 1
        assert ("site=berlin" in row) is (width == 120)
        assert any("STRATUM" in each for each in lines) is (width == 120)


def test_the_bar_is_of_all_devices_and_beside_it_stands_how_far_the_wave_is() -> None:
    line_of = next(each for each in drawn(rollout(), 120, 40) if each.startswith("devices"))
    assert line_of.split("░ ")[1].strip() == (
        "1 of 10 settled (up to wave 2: 1 of 5); 1 committed, 5 pending, 4 updating"
    )


def test_a_line_has_no_figures_that_change_all_the_time() -> None:
    assert line(rollout()) == (
        "ro-3 SOAKING: 1 committed, 5 pending, 4 updating; wave 2 of 3; PASS by fixed limits, no statistical verdict"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([48.0, 48.5, 48.2], "███", id="noise stays small"),
        pytest.param([40.0, 80.0, 160.0], "▁▃█", id="four times as slow is the whole height"),
        pytest.param([None, 10.0], " █", id="no frames is a gap"),
        pytest.param([0.0, 0.0], "▁▁", id="nothing"),
        pytest.param([], "", id="none"),
    ],
)
def test_sparklines(values: list[float | None], expected: str) -> None:
    assert sparkline(values, *scale([v for v in values if v is not None])) == expected


def test_moments_are_told_from_here() -> None:
    assert ago("2026-01-02T11:59:57.000Z", NOON) == "3 s ago"
    assert ago("2026-01-02T12:00:09.000Z", NOON) == "just now"
    assert ago(None, NOON) == "never"
    assert left("2026-01-02T12:02:05.000Z", NOON) == "2 m 05 s left"
    assert left("2026-01-02T11:00:00.000Z", NOON) == "0 s left"
    assert ago((NOON - timedelta(days=3)).isoformat(), NOON) == "3 d 0 h ago"


FULL = "engine sha256:0123 needs 40 MiB on the disk, which has 2 MiB free: free some space there"


def test_a_device_that_cannot_get_on_says_why_at_any_width() -> None:
    waiting = rollout(10)
    for device in waiting["devices"][2:4]:
        device["detail"] = f"DOWNLOADING 0 %: {FULL}"
    for width, height in ((80, 24), (200, 60)):
        shown = " ".join(" ".join(drawn(waiting, width, height)).split())
        assert f"waits agent-with-a-name-2 and 1 more: {FULL}" in shown
    assert line(waiting).endswith(f"agent-with-a-name-2 and 1 more: {FULL}")


def test_a_device_that_has_failed_does_not_wait() -> None:
    failed = rollout(3)
    failed["devices"][0] |= {"state": "FAILED", "detail": f"REVERTED: {FULL}"}
    assert FULL not in line(failed)
