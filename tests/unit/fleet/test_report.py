"""The demo's figures, its page and its sheet, made of results that never were."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fleet.demo import figures
from fleet.demo.contact_sheet import Pair, sheet, telling
from fleet.demo.outputs import write_pictures, write_report
from fleet.demo.rollout_watch import decision_figures, state_word, timeline
from fleet.demo.scene import HEIGHT, WIDTH
from fleet.demo.streams import Stream
from fleet.results import Image, MaskedFrame, Outcome, Reason
from fleet.scoring import TrueFace

FRAMES = 12
FIRST, SECOND = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def picture(index: int) -> Image:
    noise = np.random.default_rng(index).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def jpeg(image: Image) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def box(index: int) -> tuple[float, float, float, float]:
    return (100.0 + 10 * index, 100.0, 160.0 + 10 * index, 180.0)


CLIP = [jpeg(picture(i)) for i in range(FRAMES)]
TRUTH = [[TrueFace("a", box(i))] if i > 2 else [] for i in range(FRAMES)]


CHAPTERS = {
    "third": {"release": "r-2", "rollout": "ro-1", "precision": "fp32", "int8_release": "r-9", "int8_state": "FAILED",
              "int8_reason": "offset has cosine 0.96", "int8_kept_fp32": []},
    "noised": {"release": "r-4", "rollout": "ro-9"},
    "large": {"release": "r-3", "rollout": "ro-2"},
}  # fmt: skip


def stream(name: str, *, bare: tuple[int, ...] = (), swap: int = 6) -> Stream:
    """A stream in which everything is masked but the frames ``bare``."""
    results = []
    for index in range(FRAMES):
        masked = picture(index)
        if index not in bare:
            x1, y1, x2, y2 = (int(v) for v in box(index))
            masked[y1 - 10 : y2 + 10, x1 - 10 : x2 + 10] = 90
        results.append(
            MaskedFrame(
                index,
                Outcome.COASTED if index == 5 else Outcome.MASKED,
                Reason.DETECTED,
                timings={"infer": 0.02, "total": 0.03 + 0.001 * index},
                release_digest=FIRST if index < swap else SECOND,
                encoded=jpeg(masked),
            )
        )
    return Stream(name, results, [0.05] * FRAMES, FRAMES)


def canary_rollout(rollout_id: str, release_id: str, state: str, name: str) -> dict[str, Any]:
    """A rollout that was judged, as the demo keeps it."""
    point = {"at_s": 3.0, "frames": 20, "failed": 0, "p95_ms": 40.0}
    return {
        "id": rollout_id,
        "release_id": release_id,
        "state": state,
        "reason": "the release does harm",
        "seconds": 9.0,
        "waves": 2,
        "strategy": {"judge": {"kind": "THRESHOLDS", "max_p95_ratio": 2.5}},
        "moves": [{"at_s": 0.0, "state": "PENDING", "wave": -1}, {"at_s": 2.0, "state": "SOAKING", "wave": 0}],
        "series": {
            "CONTROL": [point, {**point, "at_s": 5.0}],
            "CANARY": [{**point, "p95_ms": 190.0}, {**point, "at_s": 5.0, "p95_ms": None}],
        },
        "devices": [
            {
                "name": name,
                "id": "d-1",
                "wave": 0,
                "cohort": "CANARY",
                "state": "REVERTED",
                "detail": "p95 <slow>",
                "spans": [
                    {"from_s": 0.0, "to_s": 8.0, "state": "SOAKING"},
                    {"from_s": 8.0, "to_s": 9.0, "state": "REVERTING"},
                ],
            }
        ],
        "decisions": [
            {
                "id": f"{rollout_id}/1",
                "at_s": 6.0,
                "wave": 0,
                "verdict": "FAIL",
                "action": "roll back",
                "reasons": ["p95 of the canaries is 190 ms, 4.8 times the control's 40 ms."],
                "statistical": False,
            }
        ],
        "sentences": ["Wave 1 opened.", "The <judge> said FAIL."],
        "events": [],
    }


def measured(streams: dict[str, Stream], chapters: dict[str, Any] | None = None) -> dict[str, Any]:
    build = {"target": "ort-cpu", "state": "SUCCEEDED", "engine_digest": "sha256:ab", "engine_size_bytes": 7_300_000,
             "cached": False}  # fmt: skip
    releases = [
        {"id": f"r-{n}", "model": "m/1", "digest": digest, "policy": {"style": style}, "builds": [build]}
        for n, (digest, style) in enumerate(((FIRST, "blur"), (SECOND, "<b>pixelate</b>")), 1)
    ]
    spans = [{"from_s": 0.0, "to_s": 0.5, "state": "DOWNLOADING"}, {"from_s": 0.5, "to_s": 2.0, "state": "COMMITTED"}]
    rollout = {"id": "ro-1", "release_id": "r-1", "state": "SUCCEEDED", "seconds": 2.0,
               "devices": [{"name": "agent-1", "spans": spans}]}  # fmt: skip
    canary = canary_rollout("ro-2", "r-3", "ROLLED_BACK", "agent-1")
    scores = figures.score_streams(streams, CLIP, TRUTH)
    found = figures.everything(streams, scores, TRUTH, 10, releases, [rollout, canary], chapters)
    steps = [{"title": "It begins", "command": "fleet up --data-dir 'a b'", "seconds": 1.5}]
    return {**found, "steps": steps, "seconds": 3.0}


def test_a_clean_run_holds() -> None:
    found = measured({"agent-1": stream("agent-1"), "agent-2": stream("agent-2")})
    assert found["verdict"]["held"], found["verdict"]
    assert found["score"]["all"]["face_frames"] == 2 * (FRAMES - 3)
    assert found["outcomes"] == {"MASKED DETECTED": 22, "COASTED DETECTED": 2}
    assert found["swap"]["agent-1"] == {
        "frames_by_release": {"r-1": 6, "r-2": 6},
        "path": ["r-1", "r-2"],
        "changes": [{"frame": 6, "release": "r-2", "pause_ms": pytest.approx(100)}],
    }
    assert found["latency_ms"]["infer"] == {"p50": 20.0, "p95": 20.0, "p99": 20.0, "max": 20.0}


def test_a_bare_face_is_found_and_fails() -> None:
    found = measured({"agent-1": stream("agent-1"), "agent-2": stream("agent-2", bare=(8, 9))})
    assert [(e["agent"], e["sequence"], e["face"]) for e in found["exposures"]] == [
        ("agent-2", 8, "a"),
        ("agent-2", 9, "a"),
    ]
    assert [gate["name"] for gate in found["verdict"]["gates"] if not gate["held"]] == [
        "Faces exposed",
        "Longest exposure of a face",
    ]


def test_a_release_that_comes_back_is_no_swap() -> None:
    odd = stream("agent-1")
    odd.results[3], odd.results[8] = (
        MaskedFrame(i, Outcome.MASKED, Reason.DETECTED, release_digest=d, encoded=CLIP[i])
        for i, d in ((3, SECOND), (8, FIRST))
    )
    ids = {FIRST: "r-1", SECOND: "r-2"}
    assert figures.swap_figures(odd, ids, pace=10)["path"] == ["r-1", "r-2", "r-1", "r-2", "r-1", "r-2"]
    for name, wrong in (("comes back", odd), ("never changes", stream("agent-1", swap=FRAMES))):
        gates = measured({"agent-1": wrong})["verdict"]["gates"]
        assert [gate["held"] for gate in gates if gate["name"] == "Release changed in mid-stream"] == [False], name


def test_everything_is_written_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    streams = {"agent-1": stream("agent-1"), "agent-2": stream("agent-2", bare=(8,))}
    found = measured(streams, CHAPTERS)
    write_pictures(tmp_path, streams["agent-1"].results, CLIP, TRUTH)
    write_report(tmp_path, found, streams, CLIP, TRUTH)
    assert {path.name for path in tmp_path.iterdir()} == {
        "masked.mp4",
        "contact_sheet.png",
        "report.html",
        "report.json",
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(found))
    page = (tmp_path / "report.html").read_text()
    outside = [s for s in re.findall(r'(?:src|href)="([^"]*)"', page) if not s.startswith(("data:", "#"))]
    assert outside == []
    assert page.count("<svg") == 6
    assert "A model that is too slow: rollout ro-2" in page
    assert "none of this is a statistical verdict" in page
    assert "The &lt;judge&gt; said FAIL." in page
    assert "<slow>" not in page
    assert "currentColor" in page
    assert all(gate["name"] in page for gate in found["verdict"]["gates"])
    assert "agent-2, frame 8" in page
    assert "<b>pixelate" not in page
    assert "fleet up --data-dir &#x27;a b&#x27;" in page


def test_the_video_has_every_frame(tmp_path: Path) -> None:
    import av

    write_pictures(tmp_path, stream("a").results, CLIP, TRUTH)
    with av.open(str(tmp_path / "masked.mp4")) as video:
        frames = list(video.decode(video=0))
        assert video.streams.video[0].codec_context.name == "h264"
    assert (len(frames), frames[0].width, frames[0].height) == (FRAMES, WIDTH, HEIGHT)


def test_the_sheet_shows_what_is_hard() -> None:
    truth = [
        [],
        [TrueFace("a", (-30, 100, 60, 220), 0.6)],
        [TrueFace("a", (100, 100, 160, 180)), TrueFace("b", (110, 100, 170, 180), 0.55)],
        [TrueFace("a", (100, 20, 250, 220))],
        [TrueFace("a", (100, 20, 125, 52))],
    ]
    assert dict(telling(truth, width=WIDTH, height=HEIGHT)) == {
        1: "over the left edge",
        2: "most faces",
        3: "the largest face",
        4: "the smallest face",
    }


def test_a_dropped_frame_is_grey_on_the_sheet() -> None:
    drawn = sheet([Pair(np.full((36, 64, 3), 255, np.uint8), None, "")])
    assert (drawn[20, 60] == 128).all()


def test_a_rollout_over_time() -> None:
    def at(second: float, *states: tuple[str, str]) -> tuple[float, dict[str, Any]]:
        devices = [
            {"device_name": f"agent-{n}", "state": state, "detail": detail} for n, (state, detail) in enumerate(states)
        ]
        return 1_767_225_600 + second, {
            "id": "ro-1",
            "release_id": "r-1",
            "state": "PROGRESSING",
            "create_time": "2026-01-01T00:00:00.000Z",
            "devices": devices,
        }

    found = timeline(
        [
            at(0.1, ("UPDATING", ""), ("UPDATING", "DOWNLOADING 10 %")),
            at(0.5, ("UPDATING", "DOWNLOADING 50 %"), ("UPDATING", "DOWNLOADING 90 %")),
            at(2.0, ("COMMITTED", ""), ("COMMITTED", "")),
        ]
    )
    assert found["devices"][0]["spans"] == [
        {"from_s": 0.0, "to_s": 0.5, "state": "UPDATING"},
        {"from_s": 0.5, "to_s": 2.0, "state": "DOWNLOADING"},
        {"from_s": 2.0, "to_s": 2.0, "state": "COMMITTED"},
    ]
    assert [span["state"] for span in found["devices"][1]["spans"]] == ["DOWNLOADING", "COMMITTED"]
    assert timeline([]) == {}


def test_a_judged_rollout_over_time() -> None:
    def at(second: float, state: str, wave: int, cohort: str, *points: tuple[str, int]) -> tuple[float, dict[str, Any]]:
        return 1_767_225_600 + second, {
            "id": "ro-3",
            "release_id": "r-3",
            "state": state,
            "reason": "because",
            "wave": wave,
            "waves": 2,
            "strategy": {"seed": 7},
            "create_time": "2026-01-01T00:00:00.000Z",
            "devices": [{"device_name": "a", "device_id": "d-1", "state": "COMMITTED", "detail": "", "wave": 0,
                         "cohort": cohort}],
            "series": [{"cohort": "CANARY", "devices": 1, "points": [
                {"time": f"2026-01-01T00:00:{second}.000Z", "frames": frames, "failed": 0, "p95_ms": None}
                for second, frames in points]}],
        }  # fmt: skip

    found = timeline(
        [
            at(0.0, "PENDING", -1, "UNSPECIFIED"),
            at(1.0, "SOAKING", 0, "CANARY", ("02", 5)),
            at(1.5, "SOAKING", 0, "CANARY", ("02", 7), ("04", 9)),
            at(5.0, "SUCCEEDED", 1, "CONTROL", ("04", 9)),
        ]
    )
    assert found["moves"] == [
        {"at_s": 0.0, "state": "PENDING", "wave": -1},
        {"at_s": 1.0, "state": "SOAKING", "wave": 0},
        {"at_s": 5.0, "state": "SUCCEEDED", "wave": 1},
    ]
    assert [(point["at_s"], point["frames"]) for point in found["series"]["CANARY"]] == [(2.0, 7), (4.0, 9)]
    assert found["devices"][0]["cohort"] == "CANARY"
    assert (found["waves"], found["strategy"], found["reason"]) == (2, {"seed": 7}, "because")


def test_decisions_come_oldest_first_without_their_inputs() -> None:
    decision = {"id": "ro-3/2", "time": "2026-01-01T00:00:09.500Z", "wave": 0, "verdict": "PASS", "action": "advance",
                "reasons": ["It is as fast."], "statistical": False, "inputs": {"much": 1}}  # fmt: skip
    earlier = {**decision, "id": "ro-3/1", "time": "2026-01-01T00:00:04.000Z", "verdict": "INCONCLUSIVE"}
    found = decision_figures([decision, earlier], 1_767_225_600)
    assert [(row["id"], row["at_s"]) for row in found] == [("ro-3/1", 4.0), ("ro-3/2", 9.5)]
    assert "inputs" not in found[0]


def test_the_state_of_a_device_is_one_word() -> None:
    assert state_word("UPDATING", "TESTING on golden frames") == "TESTING"
    assert state_word("UPDATING", "waits for the device") == "UPDATING"
    assert state_word("COMMITTED", "SOAKING") == "COMMITTED"
