"""Video files, through PyAV (which only :mod:`fleet.sound` imports).

Rules:

- Pictures come out upright: the rotation that a file asks for is applied to the pixels (a detector finds no face that
  lies on its side), so the output asks for none.
- Time stamps are the source's. Where a file has none (a raw stream), they follow from its frame rate.
- Sound is copied as it is where the output's container takes it, and encoded again where it does not.
- Nothing else is carried over: no tags, no place, no subtitles, no attached pictures.
- H.264 wants even sizes: an odd side grows by one pixel, copied from the masked picture's edge.
- The output is written beside its destination under another name, mode 0600, and renamed once it is whole.

Example::

    with VideoSource.opened(path) as source, VideoSink.opened(out, like=source.info, sound_of=path) as sink:
        for pixels, pts in source.frames():
            sink.write(pixels, pts)
        sink.finish()
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fleet.results import Image
from fleet.sound import Sound, library
from maskfleet.errors import InvalidInputError, NotFoundError, OutputError, PreconditionError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")
_H264 = ("libx264", "libopenh264", "mpeg4")
_ENCODERS = {".webm": ("libvpx-vp9", "libvpx"), ".gif": ("gif",)}
_OPTIONS = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libvpx-vp9": {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    "mpeg4": {"q:v": "3"},
}
_UNSPECIFIED = 2  # of AVColorSpace
_MPEG_RANGE = 1
_ACCURATE = 2 | 0x40000
"""Bilinear with accurate rounding (SWS_BILINEAR | SWS_ACCURATE_RND): the fast path darkens a picture by four levels."""

_FALLBACK_RATE = Fraction(25)


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video is.

    Attributes:
        width: of the upright picture, in pixels.
        height: likewise.
        rate: frames a second.
        time_base: seconds that a time stamp counts.
        frames: how many, where the file says so or its duration tells; 0 for unknown.
        seconds: its duration; 0.0 for unknown.
        rotation: degrees counter-clockwise by which the pixels were turned.
        colorspace: FFmpeg's number of the matrix between RGB and YUV.
        sample_aspect_ratio: width of a pixel by its height.
        sound: names of the codecs of its sound.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frames: int
    seconds: float
    rotation: int
    colorspace: int
    sample_aspect_ratio: Fraction
    sound: tuple[str, ...]


class VideoSource:
    """An open video; :meth:`frames` reads it once."""

    def __init__(self, path: Path, container: Any) -> None:
        self._path = path
        self._container = container
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        # What a decoder would conceal (grey blocks, a face of the frame before) nobody can be sure to have masked.
        self._stream.codec_context.options = {"err_detect": "explode"}
        self.damaged = 0
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            raise InvalidInputError(f"{path} has no frames that can be decoded", remedy="check that it plays")
        self._first = first
        self.info = self._describe(first)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[VideoSource]:
        """Opens a video and decodes its first frame.

        Raises:
            NotFoundError: there is no such file.
            InvalidInputError: it is no video, or has no frames.
        """
        with _container(path) as container:
            if not container.streams.video and not container.streams.audio:
                raise InvalidInputError(f"{path} has no frames", remedy="check that it plays")
            if not container.streams.video:
                raise InvalidInputError(f"{path} has no pictures, only sound", remedy="give a video or an image")
            yield cls(path, container)

    def frames(self) -> Iterator[tuple[Image, int]]:
        """Upright pictures (uint8 H×W×3 BGR) with their time stamps, which rise."""
        last: int | None = None
        step = max(1, round(1 / (self.info.rate * self.info.time_base)))
        for frame in self._from_the_first():
            pts = frame.pts
            if pts is None or (last is not None and pts <= last):
                pts = 0 if last is None else last + (step if frame.pts is None else 1)
            last = pts
            yield self._upright(frame), pts

    def _from_the_first(self) -> Iterator[Any]:
        yield self._first
        yield from self._decoded

    def _decode(self) -> Iterator[Any]:
        """Frames; damaged ones are left out and counted."""
        av = library()
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError):
                self.damaged += 1  # the file ends in the middle of something
                return
            if packet is None:
                return
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                self.damaged += 1
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    self.damaged += 1
                else:
                    yield frame

    def _describe(self, first: Any) -> VideoInfo:
        stream = self._stream
        rate = stream.average_rate or stream.guessed_rate or _FALLBACK_RATE
        if not 0 < rate <= 1000:
            rate = _FALLBACK_RATE
        seconds = 0.0
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / 1e6
        turned = first.rotation % 180 != 0
        ratio = stream.sample_aspect_ratio or Fraction(1)
        return VideoInfo(
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            rate=Fraction(rate),
            time_base=first.time_base if first.pts is not None else 1 / Fraction(rate),
            frames=stream.frames or round(seconds * rate),
            seconds=seconds,
            rotation=first.rotation,
            colorspace=first.colorspace,
            sample_aspect_ratio=1 / ratio if turned else ratio,
            sound=tuple(audio.codec_context.name for audio in self._container.streams.audio),
        )

    def _upright(self, frame: Any) -> Image:
        pixels = frame.to_ndarray(format="bgr24", src_color_range=frame.color_range, interpolation=_ACCURATE)
        turns = round(self.info.rotation / 90)
        upright = np.ascontiguousarray(np.rot90(pixels, turns)) if turns % 4 else pixels
        if upright.shape[:2] != (self.info.height, self.info.width):  # a stream may change its size
            import cv2

            return np.asarray(cv2.resize(upright, (self.info.width, self.info.height)), np.uint8)
        return np.asarray(upright, np.uint8)


class VideoSink:
    """A video being written; nothing is at its destination before :meth:`finish`."""

    def __init__(self, container: Any, temporary: Path, path: Path, info: VideoInfo, sounds: list[Sound]) -> None:
        self._container = container
        self._temporary = temporary
        self._path = path
        self._info = info
        self._sounds = sounds
        self._last_pts = -(1 << 62)
        self.encoder = _encoder(path.suffix.lower())
        options = dict(_OPTIONS.get(self.encoder, {}))
        if path.suffix.lower() == ".avi":
            options["bf"] = "0"  # an AVI has no time stamps: pictures that are coded ahead would be shown ahead
        self._stream = container.add_stream(self.encoder, rate=info.rate, options=options)
        gif = self.encoder == "gif"
        self._stream.width, self._stream.height = (
            (info.width, info.height) if gif else (info.width + info.width % 2, info.height + info.height % 2)
        )
        self._stream.pix_fmt = "rgb8" if gif else "yuv420p"
        if not gif:
            self._stream.sample_aspect_ratio = info.sample_aspect_ratio
            self._stream.color_range = _MPEG_RANGE
            self._stream.colorspace = info.colorspace
        context = self._stream.codec_context
        # A GIF counts hundredths of a second, an AVI counts frames.
        fine = _encodable(info.time_base, info.rate) if path.suffix.lower() != ".avi" else 1 / info.rate
        context.time_base = Fraction(1, 100) if gif else fine
        for sound in sounds:
            sound.add_to(container, mp4=path.suffix.lower() in (".mp4", ".m4v"))

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, *, like: VideoInfo, sound_of: Path | None = None) -> Iterator[VideoSink]:
        """Begins a video of the size and rate of another.

        Args:
            path: where it goes; its suffix says which container.
            like: what it should be like.
            sound_of: a file whose sound it gets; None for silence.

        Raises:
            InvalidInputError: no such container.
            OutputError: it cannot be written there.
        """
        av = library()
        check_suffix(path)
        temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
        with contextlib.ExitStack() as stack:
            try:
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                stack.callback(lambda: temporary.unlink(missing_ok=True))
                container = stack.enter_context(av.open(str(temporary), "w"))
                sounds = []
                if sound_of is not None and like.sound and path.suffix.lower() != ".gif":
                    source = stack.enter_context(av.open(str(sound_of)))
                    sounds = [Sound(source, index) for index in range(len(source.streams.audio))]
                yield cls(container, temporary, path, like, sounds)
            except (av.error.FFmpegError, OSError) as error:
                raise _output_error(path, error) from None

    def write(self, pixels: Image, pts: int) -> None:
        """Adds a masked picture.

        Args:
            pixels: uint8 H×W×3 BGR of the size that the video has.
            pts: its time stamp, in the time base of the source; higher than the one before.

        Raises:
            OutputError: it cannot be written.
        """
        av = library()
        picture = av.VideoFrame.from_ndarray(self._padded(pixels), format="bgr24")
        if self._stream.pix_fmt == "yuv420p":
            space = self._info.colorspace
            picture = picture.reformat(
                format="yuv420p",
                interpolation=_ACCURATE,
                dst_colorspace=space if space != _UNSPECIFIED else None,
                dst_color_range=_MPEG_RANGE,
            )
        else:
            picture = picture.reformat(format=self._stream.pix_fmt)
        coarse = round(pts * self._info.time_base / self._stream.codec_context.time_base)
        picture.pts = self._last_pts = max(coarse, self._last_pts + 1)
        picture.time_base = self._stream.codec_context.time_base
        try:
            for sound in self._sounds:
                sound.until(float(pts * self._info.time_base), self._container)
            self._container.mux(self._stream.encode(picture))
        except (av.error.FFmpegError, OSError) as error:
            raise _output_error(self._path, error) from None

    def finish(self) -> None:
        """Writes what is left and puts the file in place.

        Raises:
            OutputError: it cannot be written.
        """
        av = library()
        try:
            self._container.mux(self._stream.encode(None))
            for sound in self._sounds:
                sound.until(float("inf"), self._container)
            self._container.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self._path)
        except (av.error.FFmpegError, OSError) as error:
            raise _output_error(self._path, error) from None

    def _padded(self, pixels: Image) -> Image:
        height, width = self._stream.height, self._stream.width
        down, right = height - pixels.shape[0], width - pixels.shape[1]
        if not down and not right:
            return np.ascontiguousarray(pixels)
        return np.pad(pixels, ((0, down), (0, right), (0, 0)), mode="edge")


def check_suffix(path: Path) -> None:
    """Raises InvalidInputError where an output's suffix is none of a video."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InvalidInputError(
            f"{path.name} is no name for a video", remedy=f"let it end in one of {' '.join(VIDEO_SUFFIXES)}"
        )


@contextlib.contextmanager
def _container(path: Path) -> Iterator[Any]:
    av = library()
    try:
        container = av.open(str(path))
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}", remedy="check the path") from None
    except av.error.EOFError:
        raise InvalidInputError(f"{path} has no frames", remedy="check that it plays") from None
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInputError(
            f"{path} cannot be read as a picture or video ({reason})", remedy="check that it plays"
        ) from None
    with container:
        yield container


def _encoder(suffix: str) -> str:
    av = library()
    names = _ENCODERS.get(suffix, _H264)
    for name in names:
        with contextlib.suppress(Exception):  # a codec that this build of FFmpeg lacks
            av.codec.Codec(name, "w")
            return str(name)
    raise PreconditionError(f"the installed av cannot encode {suffix}", remedy="install another release of av")


def _encodable(time_base: Fraction, rate: Fraction) -> Fraction:
    """The time base for the encoder: the source's where it is fine enough and not absurd."""
    return time_base if 0 < time_base <= 1 / rate and time_base.denominator <= 1 << 30 else 1 / rate


def _output_error(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error)
    return OutputError(f"{path} cannot be written ({reason})", remedy="check the directory and the room on the disk")
