"""A camera in, masked frames out as they come: to a video file, or nowhere but into the counts.

Rules:

- Live: the newest frame wins. A frame that a newer one replaced (SUPERSEDED) is not in the file; one that could not be
  masked is in it, black.
- Frames keep the time at which they were taken, so the file plays at the speed of life whatever was left out.
- The end (a time, a signal, a camera that is unplugged) finishes the file; it plays.

Example::

    with Camera.opened("camera:0") as camera:
        report = mask_camera(client, camera, Path("out.mp4"), stop=threading.Event(), seconds=10)
"""

from __future__ import annotations

import contextlib
import errno
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fleet.client import MaskingClient
from fleet.codec import PolicyChanges
from fleet.masking_job import Report, check_writable, picture
from fleet.results import Encoding, Image, Mode, Reason
from fleet.sound import library
from fleet.video import VideoInfo, VideoSink, check_suffix
from maskfleet.errors import AlreadyExistsError, InvalidInputError, NotFoundError, OutputError, PreconditionError

PREFIX = "camera:"
_MILLISECOND = Fraction(1, 1000)
_RATE = Fraction(30)
_DEVICES = Path("/dev")


class Camera:
    """An open camera.

    Attributes:
        name: as ``camera:0``.
        info: size and rate, as a video's.
    """

    def __init__(self, name: str, container: Any) -> None:
        av = library()
        self.name = name
        self.lost = False
        self._decoded = container.decode(video=0)
        try:
            first = next(self._decoded, None)
        except (av.error.FFmpegError, OSError) as error:
            raise _refused(name, error) from None
        if first is None:
            raise PreconditionError(f"{name} gives no frames", remedy="check that it works in another program")
        rate = container.streams.video[0].average_rate or _RATE
        self._first = first
        self.info = VideoInfo(
            width=first.width,
            height=first.height,
            rate=Fraction(rate) if 0 < rate <= 1000 else _RATE,
            time_base=_MILLISECOND,
            frames=0,
            seconds=0.0,
            rotation=0,
            colorspace=first.colorspace,
            sample_aspect_ratio=Fraction(1),
            sound=(),
        )

    @classmethod
    @contextlib.contextmanager
    def opened(cls, name: str) -> Iterator[Camera]:
        """Opens a camera.

        Args:
            name: ``camera:0`` for ``/dev/video0``, or ``camera:/dev/video2``.

        Raises:
            NotFoundError: there is no such camera; the message names those that there are.
            InvalidInputError: the name is none.
            PreconditionError: it is in use, not allowed, or gives no frames; or this system is not Linux.
        """
        with cls.read(name, str(camera_device(name)), "v4l2") as camera:
            yield camera

    @classmethod
    @contextlib.contextmanager
    def read(cls, name: str, file: str, format_: str) -> Iterator[Camera]:
        """Opens what FFmpeg reads as a device, as the pattern ``testsrc`` of ``lavfi``.

        Raises:
            PreconditionError: it cannot be opened.
        """
        av = library()
        try:
            container = av.open(file, format=format_)
        except (av.error.FFmpegError, OSError) as error:
            raise _refused(name, error) from None
        with container:
            yield cls(name, container)

    def frames(self) -> Iterator[Image]:
        """Pictures (uint8 H×W×3 BGR) as they come, until the camera goes away; then ``lost`` is set."""
        av = library()
        frame = self._first
        while frame is not None:
            yield np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
            try:
                frame = next(self._decoded, None)
            except (av.error.FFmpegError, OSError):
                frame = None
        self.lost = True


def check_output(output: Path | None, *, force: bool) -> None:
    """Looks at an output's name before a camera is opened.

    Raises:
        InvalidInputError: it is no name for a video.
        AlreadyExistsError: it is there and ``force`` is not given.
        OutputError: its folder does not exist, or nothing can be written there.
    """
    if output is None:
        return
    check_suffix(output)
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise OutputError(f"{output} cannot be written", remedy="give the name of a video file with -o")
    if output.exists() and not force:
        raise AlreadyExistsError(f"{output} exists already", remedy="give another name, or --force to replace it")
    check_writable(output, what=str(output), remedy="give another name with -o")


def mask_camera(
    client: MaskingClient,
    camera: Camera,
    output: Path | None,
    *,
    stop: threading.Event,
    seconds: float | None = None,
    policy: PolicyChanges = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Masks what a camera sees until it is enough.

    Args:
        client: connected to an agent that has a release.
        camera: open.
        output: the video; None to keep nothing.
        stop: set it to end.
        seconds: how long; None for until ``stop``.
        policy: differences from the release's own policy.
        progress: is told frames done, and 0.
        clock: seconds, for the frames' times.

    Raises:
        UnavailableError: the agent went away. No output is left behind.
        OutputError: the result cannot be written.
    """
    info = camera.info
    stamps: deque[int] = deque()
    started = clock()

    def pixels() -> Iterator[Image]:
        for image in camera.frames():
            at = clock() - started
            if stop.is_set() or (seconds is not None and at >= seconds):
                return
            stamps.append(round(at * 1000))
            yield image

    report = Report(Path(camera.name), output or Path("nowhere"), "video", info.width, info.height)
    superseded = 0
    with VideoSink.opened(output, like=info) if output is not None else contextlib.nullcontext() as sink:
        for result in client.stream(pixels(), policy=policy, mode=Mode.LIVE, encoding=Encoding.RAW):
            stamp = stamps.popleft()
            report.add(result, seconds=stamp / 1000)
            progress(len(report.frames), 0)
            if result.reason is Reason.SUPERSEDED:
                superseded += 1
            elif sink is not None:
                sink.write(picture(result, info.width, info.height), stamp)
        if sink is not None:
            if len(report.frames) == superseded:
                raise OutputError(f"{camera.name} gave no frame in that time", remedy="give more --seconds")
            sink.finish()
    report.seconds = clock() - started
    if superseded:
        report.notes.append(f"{superseded} frames were left out because newer ones came before they were masked")
    if camera.lost:
        report.notes.append(f"{camera.name} went away")
    return report


def camera_device(name: str) -> Path:
    """The device of a camera's name.

    Raises:
        NotFoundError, InvalidInputError, PreconditionError: as :meth:`Camera.opened`.
    """
    word = name.removeprefix(PREFIX)
    if sys.platform != "linux":
        raise PreconditionError("cameras are read on Linux only", remedy="record a file and mask that")
    if not word or not (word.isascii() and (word.isdigit() or word.startswith("/dev/"))):
        raise InvalidInputError(f"{name!r} names no camera", remedy="give camera:0 or camera:/dev/video0")
    device = _DEVICES / f"video{int(word)}" if word.isdigit() else Path(word)
    if not device.exists():
        there = ", ".join(sorted(str(found) for found in _DEVICES.glob("video*")))
        raise NotFoundError(
            f"there is no camera {device}", remedy=f"connect one; there is {there}" if there else "connect one"
        )
    return device


def _refused(name: str, error: Exception) -> PreconditionError:
    number = getattr(error, "errno", None)
    remedy = {
        errno.EBUSY: "close the program that uses it",
        errno.EACCES: "let your user read it (group video)",
        errno.EPERM: "let your user read it (group video)",
    }.get(number or 0, "check that it works in another program")
    reason = getattr(error, "strerror", None) or str(error)
    return PreconditionError(f"{name} cannot be read ({reason})", remedy=remedy)
