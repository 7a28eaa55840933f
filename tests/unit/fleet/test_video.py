"""Video files in and out, made here: sizes, times, sound, rotation, damage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fleet.video import VideoSink, VideoSource
from maskfleet.errors import InvalidInputError, NotFoundError, OutputError


def make_clip(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    frames: int = 12,
    sound: str = "",
    rotation: int = 0,
    codec: str = "libx264",
    tags: dict[str, str] | None = None,
) -> Path:
    """A clip whose left half is bright, whose brightness counts the frames, and whose time stamps have a gap."""
    with av.open(str(path), "w") as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        voice = container.add_stream(sound, rate=48000) if sound else None
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 10 + 10 * number % 180, np.uint8)
            pixels[:, : size[0] // 2] += 60
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            frame = frame.reformat(format=stream.pix_fmt, interpolation=2 | 0x40000)  # accurate rounding
            frame.pts, frame.time_base = number * 40 + (400 if number > 5 else 0), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None:
            for number in range(20):
                tone = np.full((1, 2048), number, np.int16)
                frame_of_sound = av.AudioFrame.from_ndarray(tone, format="s16", layout="stereo")
                frame_of_sound.sample_rate, frame_of_sound.pts = 48000, number * 1024
                container.mux(voice.encode(frame_of_sound))
            container.mux(voice.encode(None))
    return path


def copy(source: Path, output: Path) -> list[float]:
    """Copies pictures through; their times in the source."""
    with VideoSource.opened(source) as video, VideoSink.opened(output, like=video.info, sound_of=source) as sink:
        times = []
        for pixels, pts in video.frames():
            sink.write(pixels, pts)
            times.append(float(pts * video.info.time_base))
        sink.finish()
    return times


def read(path: Path) -> tuple[list[float], list[np.ndarray[Any, Any]]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.time for frame in frames], [np.asarray(frame.to_ndarray(format="bgr24")) for frame in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_pictures_and_their_times_come_through(tmp_path: Path, suffix: str) -> None:
    times = copy(make_clip(tmp_path / "in.mkv"), tmp_path / f"out{suffix}")
    got, pictures = read(tmp_path / f"out{suffix}")
    assert got == pytest.approx(times, abs=0.001)
    assert times[6] - times[5] == pytest.approx(0.44)
    for number, picture in enumerate(pictures):
        assert abs(float(picture[24, 48].mean()) - (10 + 10 * number)) < 4
    assert (tmp_path / f"out{suffix}").stat().st_mode & 0o777 == 0o600


def test_an_avi_counts_frames_and_a_gif_hundredths(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    for name in ("out.avi", "out.gif"):
        copy(source, tmp_path / name)
        assert len(read(tmp_path / name)[0]) == 12


@pytest.mark.parametrize(
    ("sound", "source", "output", "codec"),
    [
        pytest.param("aac", "in.mp4", "out.mkv", "aac", id="copied"),
        pytest.param("aac", "in.mkv", "out.mp4", "aac", id="copied into mp4"),
        pytest.param("pcm_s16le", "in.mkv", "out.mp4", "aac", id="encoded again where the container cannot take it"),
        pytest.param("", "in.mkv", "out.mp4", "", id="no sound stays none"),
    ],
)
def test_sound_is_carried_over(tmp_path: Path, sound: str, source: str, output: str, codec: str) -> None:
    copy(make_clip(tmp_path / source, sound=sound), tmp_path / output)
    with av.open(str(tmp_path / output)) as container:
        assert [s.codec_context.name for s in container.streams.audio] == ([codec] if codec else [])
        if codec:
            samples = sum(frame.samples for frame in container.decode(audio=0))
            assert samples == pytest.approx(20 * 1024, abs=2100)


def test_an_odd_size_grows_by_a_pixel_at_right_and_bottom(tmp_path: Path) -> None:
    copy(make_clip(tmp_path / "in.mkv", size=(63, 47)), tmp_path / "out.mp4")
    _, pictures = read(tmp_path / "out.mp4")
    assert pictures[0].shape == (48, 64, 3)
    assert abs(int(pictures[0][47, 63, 0]) - int(pictures[0][46, 62, 0])) < 6


@pytest.mark.parametrize(("rotation", "bright"), [(90, "bottom"), (180, "right"), (-90, "top")])
def test_pictures_come_out_upright(tmp_path: Path, rotation: int, bright: str) -> None:
    source = make_clip(tmp_path / "in.mp4", rotation=rotation)
    with VideoSource.opened(source) as video:
        pixels = next(video.frames())[0]
        assert video.info.rotation == rotation or abs(rotation) == 180
        assert pixels.shape[:2] == (video.info.height, video.info.width)
    assert pixels.shape[:2] == ((48, 64) if rotation == 180 else (64, 48))
    half = {"top": pixels[:8], "bottom": pixels[-8:], "right": pixels[:, -8:]}[bright]
    assert half.mean() > pixels.mean() + 15
    copy(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_no_tag_is_carried_over(tmp_path: Path) -> None:
    tags = {"location": "+52.5200+013.4050/", "title": "at home", "artist": "me"}
    source = make_clip(tmp_path / "in.mp4", sound="aac", tags=tags)
    assert b"at home" in source.read_bytes()
    for name in ("out.mp4", "out.mkv"):
        copy(source, tmp_path / name)
        written = (tmp_path / name).read_bytes()
        assert not any(value.encode() in written for value in tags.values() if len(value) > 3)


def test_a_file_cut_short_gives_what_it_has(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "in.mkv", frames=40, size=(320, 240)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    times = copy(tmp_path / "cut.mkv", tmp_path / "out.mp4")
    assert 1 <= len(times) < 40
    assert len(read(tmp_path / "out.mp4")[0]) == len(times)


def _only_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        voice = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(voice.encode(frame))
        container.mux(voice.encode(None))


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda p: p.write_text("no video"), "cannot be read as a picture or video", id="a text"),
        pytest.param(_only_sound, "only sound", id="only sound"),
        pytest.param(_no_frames, "no frames", id="no frames"),
    ],
)
def test_what_is_no_video_is_refused_in_a_sentence(tmp_path: Path, make: Any, said: str) -> None:
    path = tmp_path / "in.mkv"
    make(path)
    with pytest.raises(InvalidInputError, match=said), VideoSource.opened(path):
        pass


def test_a_video_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError), VideoSource.opened(tmp_path / "none.mkv"):
        pass


def fail_after(sink: VideoSink, frame: tuple[Any, int]) -> None:
    sink.write(*frame)
    raise LookupError


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    with VideoSource.opened(source) as video:
        with pytest.raises(LookupError), VideoSink.opened(tmp_path / "out.mp4", like=video.info) as sink:
            fail_after(sink, next(video.frames()))
        with pytest.raises(OutputError), VideoSink.opened(tmp_path / "nowhere" / "out.mp4", like=video.info):
            pass
        with pytest.raises(InvalidInputError), VideoSink.opened(tmp_path / "out.xyz", like=video.info):
            pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv"]


@pytest.mark.parametrize("rate", [44_100, 22_050, 48_000])
def test_sound_of_any_rate_goes_into_webm(tmp_path: Path, rate: int) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for number in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number, np.uint8), format="bgr24")
            container.mux(video.encode(picture))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, rate // 25), np.int16), format="s16", layout="mono")
            samples.rate, samples.pts = rate, number * (rate // 25)
            container.mux(sound.encode(samples))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    output = tmp_path / "out.webm"
    with VideoSource.opened(source) as video_source:
        with VideoSink.opened(output, like=video_source.info, sound_of=source) as sink:
            for pixels, pts in video_source.frames():
                sink.write(pixels, pts)
            sink.finish()
    with av.open(str(output)) as container:
        assert container.streams.audio[0].rate == 48_000
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0


def test_pictures_of_an_avi_come_in_their_order(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    random = np.random.default_rng(2)
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            pixels = (random.integers(0, 40, (48, 64, 3)) + 15 * number).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode(None))
    output = tmp_path / "out.avi"
    with VideoSource.opened(source) as video_source:
        with VideoSink.opened(output, like=video_source.info) as sink:
            for pixels, pts in video_source.frames():
                sink.write(pixels, pts)
            sink.finish()
    with av.open(str(output)) as container:
        stamps = [packet.dts for packet in container.demux(video=0) if packet.size]
        assert stamps == list(range(stamps[0], stamps[0] + 12))
    with av.open(str(output)) as container:
        light = [float(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    assert light == sorted(light)
