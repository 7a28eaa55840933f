"""``fleet mask`` as a person runs it: real models, real pictures, a local agent of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

FLEET = [sys.executable, "-m", "fleet.cli"]
pytestmark = pytest.mark.xdist_group("local-agent")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache for all, so that a model is compiled once; no stack of this machine's user."""
    home = tmp_path_factory.mktemp("home")
    return {**os.environ, **{f"XDG_{kind}_HOME": str(home / kind) for kind in ("CONFIG", "CACHE", "DATA")}}


def fleet(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*FLEET, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=110)


def altered(source: np.ndarray, result: np.ndarray, box: list[float]) -> float:  # type: ignore[type-arg]
    """The share of the ellipse inscribed in a box that differs."""
    x1, y1, x2, y2 = box
    ellipse = np.zeros(source.shape[:2], np.uint8)
    centre, axes = (round((x1 + x2) / 2), round((y1 + y2) / 2)), (round((x2 - x1) / 2), round((y2 - y1) / 2))
    cv2.ellipse(ellipse, centre, axes, 0, 0, 360, 255, -1)
    differs = (cv2.absdiff(source, result).max(axis=2) > 0) & (ellipse > 0)
    return float(differs.sum() / (ellipse > 0).sum())


@pytest.mark.parametrize("name", ["Test1.jpg", "Test3.jpg", "Test7.jpg", "astronaut.png"])
@pytest.mark.parametrize("model", ["centerface", "yunet"])
def test_every_face_of_a_picture_is_covered_and_the_rest_is_not(
    environment: dict[str, str], testdata: Path, centerface_path: Path, tmp_path: Path, name: str, model: str
) -> None:
    del centerface_path  # `fleet mask` finds it by itself; this skips where it is not installed
    choice = (
        [] if model == "centerface" else ["--model", testdata / "models/yunet_n_dynamic.onnx", "--decoder", "yunet"]
    )
    output, report = tmp_path / "out.png", tmp_path / "out.json"
    done = fleet(
        environment, "mask", testdata / "images" / name, "-o", output, "--report", report, "--style", "solid", *choice
    )
    assert done.returncode == 0, done.stderr
    source, result = cv2.imread(str(testdata / "images" / name)), cv2.imread(str(output))
    assert source is not None
    assert result is not None
    boxes = json.loads((testdata / "images/faces.json").read_text())[name]
    for box in boxes:
        assert altered(source, result, box) > 0.95
    assert float((cv2.absdiff(source, result).max(axis=2) > 0).mean()) < 0.6
    entry = json.loads(report.read_text())["frames"][0]
    assert (entry["outcome"], len(entry["regions"])) == ("MASKED", len(boxes))


def test_a_clip_with_sound_is_masked_frame_by_frame(
    environment: dict[str, str], testdata: Path, centerface_path: Path, tmp_path: Path
) -> None:
    del centerface_path
    source, output, report = testdata / "clips/walk.mkv", tmp_path / "out.mp4", tmp_path / "r.json"
    with_sound = tmp_path / "sound.mkv"
    with av.open(str(source)) as clip, av.open(str(with_sound), "w") as container:
        picture = container.add_stream_from_template(clip.streams.video[0])
        voice = container.add_stream("aac", rate=48000)
        for packet in clip.demux(clip.streams.video[0]):
            if packet.size and packet.pts < 1000:
                packet.stream = picture
                container.mux(packet)
        for number in range(46):
            sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            sound.sample_rate, sound.pts = 48000, number * 1024
            container.mux(voice.encode(sound))
        container.mux(voice.encode(None))
    done = fleet(environment, "mask", with_sound, "-o", output, "--report", report)
    assert done.returncode == 0, done.stderr
    frames = json.loads(report.read_text())["frames"]
    assert {frame["outcome"] for frame in frames} <= {"MASKED", "COASTED"}
    assert all(frame["regions"] for frame in frames)
    with av.open(str(output)) as container:
        assert [s.codec_context.name for s in container.streams.audio] == ["aac"]
        assert len(list(container.decode(video=0))) == len(frames) > 20
    with av.open(str(output)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 45 * 1024


def test_a_model_that_its_decoder_cannot_read(environment: dict[str, str], testdata: Path, tmp_path: Path) -> None:
    model = testdata / "models/yunet_n_dynamic.onnx"
    picture = testdata / "images/Test1.jpg"
    done = fleet(environment, "mask", picture, "-o", tmp_path / "o.png", "--model", model, "--decoder", "centerface")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the model has 12 outputs")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_job_leaves_neither_file_nor_process(
    environment: dict[str, str], testdata: Path, centerface_path: Path, tmp_path: Path
) -> None:
    del centerface_path
    command = [*FLEET, "mask", str(testdata / "clips/book.mkv"), "-o", str(tmp_path / "out.mp4")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "frame" in line:  # it is in the middle
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        started = children.read_text().split() if children.exists() else []
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(30) == 130
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


@pytest.mark.parametrize(
    ("report", "force", "status", "said"),
    [
        pytest.param("in.png", True, 2, "is the input or the output", id="over the source, even when told to replace"),
        pytest.param("out.png", True, 2, "is the input or the output", id="over the result"),
        pytest.param("kept.json", False, 5, "exists already", id="over another file"),
        pytest.param("/proc/r.json", True, 1, "the report /proc/r.json cannot be written", id="where nothing can be"),
    ],
)
def test_a_report_replaces_nothing_by_accident(
    environment: dict[str, str], tmp_path: Path, report: str, force: bool, status: int, said: str
) -> None:
    source = tmp_path / "in.png"
    source.write_bytes(cv2.imencode(".png", np.full((64, 64, 3), 90, np.uint8))[1].tobytes())
    (tmp_path / "kept.json").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    more = ["--force"] if force else []
    done = fleet(environment, "mask", source, "-o", tmp_path / "out.png", "--report", tmp_path / report, *more)
    assert done.returncode == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damaged_frames_of_a_video_are_left_out_and_told(tmp_path: Path) -> None:
    from fleet.video import VideoSource

    path = tmp_path / "in.mkv"
    noise = np.random.default_rng(5).integers(0, 256, (60, 120, 160, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    with VideoSource.opened(path) as whole:
        assert (len(list(whole.frames())), whole.damaged) == (60, 0)
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, len(data) * 3 // 4, len(data) // 20):
        data[place : place + 60] = bytes((b * 7 + 13) % 255 for b in data[place : place + 60])
    path.write_bytes(data)
    with VideoSource.opened(path) as damaged:
        frames = len(list(damaged.frames()))
        assert damaged.damaged > 0
        assert frames < 60
