"""Files through a masking service: every frame in the output, none of the source's where there is no mask."""

from __future__ import annotations

import json
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from fleet import MaskingClient
from fleet.masking_job import check_paths, mask_file
from fleet.pictures import read_image
from maskfleet.errors import (
    AlreadyExistsError,
    BadFrameError,
    FleetError,
    InvalidInputError,
    NotFoundError,
    OutputError,
    UnavailableError,
)
from maskfleet.v1 import masking_pb2


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 200, np.uint8), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def brightness(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [round(float(f.to_ndarray(format="bgr24").mean())) for f in container.decode(video=0)]


def test_a_video_goes_through_frame_by_frame(clip: Path, client: MaskingClient, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = mask_file(client, clip, tmp_path / "out.mp4", progress=lambda *at: told.append(at))
    assert brightness(tmp_path / "out.mp4") == pytest.approx([55] * 10, abs=3)
    assert told[-1] == (10, 10)
    report = json.loads(json.dumps(done.to_json(model="m", policy={})))
    assert [entry["sequence"] for entry in report["frames"]] == list(range(10))
    assert report["frames"][3] == {
        "sequence": 3,
        "outcome": "MASKED",
        "reason": "DETECTED",
        "detail": "",
        "regions": [{"box": [1.0, 2.0, 3.0, 4.0], "score": 0.5, "track_id": 7, "coasted": False}],
        "milliseconds": {"total": 1.5},
        "time": 0.12,
    }
    assert report["summary"]["outcomes"] == {"MASKED": 10, "COASTED": 0, "FULL_MASK": 0, "DROPPED": 0}
    assert report["summary"]["median_milliseconds"] == {"total": 1.5}
    assert (report["kind"], report["width"], report["height"]) == ("video", 64, 48)
    assert report["release_digests"] == ["sha256:00"]


def test_a_dropped_frame_becomes_black(agent: Any, clip: Path, client: MaskingClient, tmp_path: Path) -> None:
    def drop(result: masking_pb2.FrameResult) -> masking_pb2.FrameResult:
        if result.sequence == 4:
            result.outcome, result.reason = masking_pb2.OUTCOME_DROPPED, masking_pb2.OUTCOME_REASON_ENGINE_FAILED
        return result

    agent.change = drop
    done = mask_file(client, clip, tmp_path / "out.mkv")
    seen = brightness(tmp_path / "out.mkv")
    assert seen[4] <= 2
    assert seen[3] == pytest.approx(55, abs=4)
    assert len(seen) == 10
    assert done.uncertain() == 1


def test_an_agent_that_goes_away_leaves_nothing(agent: Any, clip: Path, client: MaskingClient, tmp_path: Path) -> None:
    agent.last = 3
    with pytest.raises(UnavailableError):
        mask_file(client, clip, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_an_image(client: MaskingClient, tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), np.full((20, 30, 3), 200, np.uint8))
    done = mask_file(client, tmp_path / "in.png", tmp_path / f"out{suffix}")
    image = cv2.imread(str(tmp_path / f"out{suffix}"))
    assert image is not None
    assert image.shape == (20, 30, 3)
    assert abs(int(image[5, 5, 0]) - 55) <= 2
    assert (done.kind, len(done.frames)) == ("image", 1)


def test_an_image_comes_out_upright_and_without_its_tags(client: MaskingClient, tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :10] = 255
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    # TIFF header, one entry: orientation 6, "turn clockwise by a quarter"; and a secret place in a comment.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    app1 = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    comment = b"\xff\xfe" + (12).to_bytes(2, "big") + b"at home 52"
    (tmp_path / "in.jpg").write_bytes(jpeg[:2] + app1 + comment + jpeg[2:])
    mask_file(client, tmp_path / "in.jpg", tmp_path / "out.jpg")
    image = cv2.imread(str(tmp_path / "out.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert image is not None
    assert image.shape == (30, 20, 3)
    assert image[2].mean() < 20 < 200 < image[28].mean()
    assert b"Exif" not in (tmp_path / "out.jpg").read_bytes()
    assert b"at home" not in (tmp_path / "out.jpg").read_bytes()


@pytest.mark.parametrize(
    ("source", "output", "kind"),
    [
        pytest.param("none.png", "out.png", NotFoundError, id="no source"),
        pytest.param("text.txt", "out.mp4", InvalidInputError, id="a text"),
        pytest.param("empty.png", "out.png", InvalidInputError, id="an empty file"),
        pytest.param("in.png", "in.png", InvalidInputError, id="output is input"),
        pytest.param("in.png", "link.png", InvalidInputError, id="output is a link to the input"),
        pytest.param("in.png", "out.mp4", InvalidInputError, id="an image into a video"),
        pytest.param("in.mkv", "out.png", InvalidInputError, id="a video into an image"),
        pytest.param("in.mkv", "out", InvalidInputError, id="no suffix"),
        pytest.param("in.png", "there.png", AlreadyExistsError, id="output exists"),
        pytest.param("in.png", "nowhere/out.png", OutputError, id="no such directory"),
        pytest.param("in.png", "folder.png", OutputError, id="output is a directory"),
        pytest.param("cut.jpg", "out.png", BadFrameError, id="a damaged picture"),
    ],
)
def test_wrong_names_and_files(
    clip: Path, client: MaskingClient, tmp_path: Path, source: str, output: str, kind: type[FleetError]
) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "there.png").write_text("precious")
    (tmp_path / "link.png").symlink_to(tmp_path / "in.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(kind):
        mask_file(client, tmp_path / source, tmp_path / output)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "there.png").read_text() == "precious"
    assert clip.exists()


def test_an_output_is_replaced_when_asked_for(client: MaskingClient, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "out.png").write_text("old")
    mask_file(client, tmp_path / "in.png", tmp_path / "out.png", force=True)
    assert cv2.imread(str(tmp_path / "out.png")) is not None


def test_a_damaged_jpeg_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "damaged.jpg"
    noise = np.random.default_rng(3).integers(0, 256, (240, 320, 3), np.uint8)
    data = bytearray(cv2.imencode(".jpg", noise)[1].tobytes())
    for place in range(len(data) // 2, len(data) // 2 + 2000):
        data[place] = (data[place] * 7 + 13) % 255
    path.write_bytes(data)
    with pytest.raises(BadFrameError, match=r"damaged\.jpg: the JPEG is damaged"):
        read_image(path)


def png(width: int, height: int) -> bytes:
    """A PNG that says a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def said_to_be(suffix: str, width: int, height: int) -> bytes:
    """A picture whose header says a size."""
    if suffix == ".png":
        return png(width, height)
    data = bytearray(cv2.imencode(suffix, np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    if suffix == ".jpg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    else:  # a BMP, whose height is negative where its rows go down
        struct.pack_into("<ii", data, 18, width, -height)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize(
    ("width", "height", "message"), [(0, 0, "0x0 has no pixels"), (20_000, 20_000, "20000x20000 is too large")]
)
def test_a_picture_of_a_refused_size_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, width: int, height: int, message: str
) -> None:
    monkeypatch.setattr("fleet.masking_job.read_image", lambda _path: pytest.fail("it was decoded"))
    source = tmp_path / f"in{suffix}"
    source.write_bytes(said_to_be(suffix, width, height))
    with pytest.raises(BadFrameError, match=f"in{suffix}: a frame of {message}"):
        check_paths(source, tmp_path / "out.png", force=False)


@pytest.mark.parametrize(("suffix", "options"), [(".webp", [cv2.IMWRITE_WEBP_QUALITY, q]) for q in (80, 101)])
def test_the_size_of_a_webp_is_read_from_its_header(tmp_path: Path, suffix: str, options: list[int]) -> None:
    (tmp_path / f"in{suffix}").write_bytes(cv2.imencode(suffix, np.zeros((5001, 8000, 3), np.uint8), options)[1])
    with pytest.raises(BadFrameError, match="8000x5001 is too large"):
        check_paths(tmp_path / f"in{suffix}", tmp_path / "out.png", force=False)


def test_an_output_that_cannot_be_made_is_told_before_anything_is_masked(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"/proc/out\.mp4 cannot be written .*: give another name with -o"):
        check_paths(clip, Path("/proc/out.mp4"), force=False)
    check_paths(clip, tmp_path / "out.mp4", force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv"]
