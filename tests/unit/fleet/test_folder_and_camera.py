"""A folder and a camera through a masking service."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from fleet import MaskingClient
from fleet.camera import Camera, mask_camera
from fleet.cli.main import main
from fleet.folder_job import mask_folder
from maskfleet.errors import FleetError, InvalidInputError, OutputError, PreconditionError
from maskfleet.v1 import masking_pb2

PATTERN = "testsrc=size=64x48:rate=25"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three pictures, one of them damaged, and files that are none."""
    root = tmp_path / "in"
    for name in ("a.png", "deep/er/b.jpg", "deep/c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((48, 64, 3), 200, np.uint8))
    (root / "deep/c.png").write_bytes((root / "deep/c.png").read_bytes()[:40])
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "thumb.png").write_bytes(b"x")
    return root


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_tree_is_mirrored_and_a_file_that_fails_stops_nothing(
    tree: Path, client: MaskingClient, tmp_path: Path
) -> None:
    told: list[str] = []
    report = mask_folder(client, tree, tmp_path / "out", told=told.append)
    assert below(tmp_path / "out") == ["a.png", "deep/er/b.jpg"]
    assert cv2.imread(str(tmp_path / "out/a.png")).mean() == 55
    assert [path.name for path, _ in report.failed] == ["c.png"]
    assert len(told) == 1
    assert report.summary() == {
        "masked": 2, "failed": 1, "kept": 0, "skipped": 1, "frames": 2, "seconds": report.summary()["seconds"],
        "outcomes": {"MASKED": 2, "COASTED": 0, "FULL_MASK": 0, "DROPPED": 0},
    }  # fmt: skip


def test_a_second_run_goes_on_where_the_first_one_stopped(tree: Path, client: MaskingClient, tmp_path: Path) -> None:
    # The output lies in the input: what was masked is not masked again.
    output = tree / "masked"
    mask_folder(client, tree, output)
    (output / "a.png").unlink()
    again = mask_folder(client, tree, output)
    assert (len(again.done), again.kept, len(again.failed)) == (1, 1, 1)
    forced = mask_folder(client, tree, output, force=True)
    assert (len(forced.done), forced.kept) == (2, 0)
    assert below(output) == ["a.png", "deep/er/b.jpg"]


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        pytest.param("in", InvalidInputError, id="the input itself"),
        pytest.param(".", InvalidInputError, id="the folder that holds the input"),
        pytest.param("in/a.png", OutputError, id="a file"),
        pytest.param("no/where", OutputError, id="below a folder that is not there"),
    ],
)
def test_outputs_that_would_harm_are_refused(
    tree: Path, client: MaskingClient, tmp_path: Path, output: str, kind: type[FleetError]
) -> None:
    before = {path: (tree / path).read_bytes() for path in below(tree)}
    with pytest.raises(kind):
        mask_folder(client, tree, tmp_path / output)
    assert {path: (tree / path).read_bytes() for path in below(tree)} == before


def test_an_agent_that_goes_away_ends_the_run_and_what_was_not_tried_has_failed(
    agent: Any, server: Any, tree: Path, client: MaskingClient, tmp_path: Path
) -> None:
    server[0].stop(0).wait()
    told: list[str] = []
    report = mask_folder(client, tree, tmp_path / "out", told=told.append)
    assert [path.name for path, _ in report.failed] == ["a.png", "c.png", "b.jpg"]
    assert told[-1] == "2 files were not tried, because the agent is gone"
    assert below(tmp_path / "out") == []


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def test_a_camera_becomes_a_video_that_keeps_the_time_of_its_frames(client: MaskingClient, tmp_path: Path) -> None:
    clock = iter([0.0, *(0.1 * n for n in range(1, 50))])
    with Camera.read("camera:0", PATTERN + ",realtime", "lavfi") as camera:
        done = mask_camera(
            client, camera, tmp_path / "out.mp4", stop=threading.Event(), seconds=0.65, clock=lambda: next(clock)
        )
    kept = [f["time"] for f in done.frames if f["reason"] != "SUPERSEDED"]
    assert len(done.frames) == 6
    assert times(tmp_path / "out.mp4") == pytest.approx(kept, abs=0.02)


def test_a_frame_that_a_newer_one_replaced_is_left_out_and_one_that_failed_is_black(
    agent: Any, client: MaskingClient, tmp_path: Path
) -> None:
    def spoil(result: masking_pb2.FrameResult) -> masking_pb2.FrameResult:
        if result.sequence in (1, 2):
            result.outcome = masking_pb2.OUTCOME_DROPPED
            result.ClearField("payload")
            result.reason = getattr(
                masking_pb2, f"OUTCOME_REASON_{'SUPERSEDED' if result.sequence == 1 else 'ENGINE_FAILED'}"
            )
        return result

    agent.change = spoil
    agent.credits = 100
    with Camera.read("camera:0", PATTERN + ":duration=0.2,realtime", "lavfi") as camera:
        done = mask_camera(client, camera, tmp_path / "out.mkv", stop=threading.Event())
    left_out = sum(f["reason"] == "SUPERSEDED" for f in done.frames)
    assert left_out >= 1
    assert len(times(tmp_path / "out.mkv")) == len(done.frames) - left_out
    assert done.notes == [
        f"{left_out} frames were left out because newer ones came before they were masked",
        "camera:0 went away",
    ]


def test_a_stop_finishes_the_file(client: MaskingClient, tmp_path: Path) -> None:
    stop = threading.Event()
    with Camera.read("camera:0", PATTERN + ",realtime", "lavfi") as camera:
        done = mask_camera(client, camera, tmp_path / "out.mp4", stop=stop, progress=lambda *_: stop.set())
    assert 1 <= len(done.frames) <= 4
    assert times(tmp_path / "out.mp4")
    assert below(tmp_path) == ["out.mp4"]


def test_nothing_is_kept_without_an_output(client: MaskingClient, tmp_path: Path) -> None:
    with Camera.read("camera:0", PATTERN + ":duration=0.2,realtime", "lavfi") as camera:
        done = mask_camera(client, camera, None, stop=threading.Event())
    assert len(done.frames) == 5
    assert below(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param("camera:77 -o {d}/o.mp4", 4, "there is no camera /dev/video77", id="no such camera"),
        pytest.param("camera:x", 2, "names no camera", id="no number"),
        pytest.param("camera:77 -o {d}/o.txt", 2, "is no name for a video", id="no video to write"),
        pytest.param("{d} -o {d}/no/where", 1, "there is no folder", id="nowhere for a folder"),
        pytest.param("{d}", 2, "add -o", id="a folder without an output"),
        pytest.param("{d} -o {d}/o --seconds 3", 2, "--seconds belongs to a camera", id="seconds of a folder"),
    ],
)
def test_what_cannot_be_masked_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, said: str
) -> None:
    assert main(["mask", *arguments.format(d=tmp_path).split()]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_camera_that_is_in_use_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(av, "open", busy)
    with pytest.raises(PreconditionError, match="close the program that uses it"):
        with Camera.read("camera:0", "/dev/video0", "v4l2"):
            pass
