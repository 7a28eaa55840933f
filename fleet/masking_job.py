"""A file in, a masked file out: an image or a video, through an agent.

Rules:

- Every frame of the source is in the output, at its time, masked. A frame without a masked picture (DROPPED) becomes a
  black one; the source's never takes its place.
- The output is whole or not there.
- The report has one entry for each frame.

Example::

    with MaskingClient(address) as client:
        report = mask_file(client, Path("in.mkv"), Path("out.mp4"), policy={"style": "solid"})
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from fleet.client import MaskingClient
from fleet.codec import PolicyChanges
from fleet.pictures import check_image_suffix, check_picture, is_image, read_image, write_image
from fleet.results import Encoding, Image, MaskedFrame, Mode, Outcome
from fleet.video import VideoSink, VideoSource, check_suffix
from maskfleet.errors import AlreadyExistsError, InvalidInputError, OutputError

IMAGE_TIMEOUT = timedelta(seconds=60)
_RAW_LIMIT = 48 << 20
"""Pictures above travel as PNG: a message holds 64 MiB."""

_CERTAIN = (Outcome.MASKED, Outcome.COASTED)


@dataclasses.dataclass
class Report:
    """What became of each frame.

    Attributes:
        source: the input.
        output: the output.
        kind: ``image`` or ``video``.
        width: of the output's picture, in pixels.
        height: likewise.
        frames: one entry a frame, in order.
        seconds: how long masking took.
        notes: what a person should know, in sentences.
    """

    source: Path
    output: Path
    kind: str
    width: int
    height: int
    frames: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)
    release_digests: list[str] = dataclasses.field(default_factory=list)

    def add(self, result: MaskedFrame, *, seconds: float | None = None) -> None:
        """Adds a frame.

        Args:
            result: the agent's.
            seconds: its time in the video; None for images.
        """
        entry = result.to_json()
        digest = entry.pop("release_digest")
        if digest not in self.release_digests:
            self.release_digests.append(digest)
        if seconds is not None:
            entry["time"] = round(seconds, 3)
        self.frames.append(entry)

    def summary(self) -> dict[str, Any]:
        """Totals over all frames."""
        outcomes = Counter(entry["outcome"] for entry in self.frames)
        reasons = Counter(entry["reason"] for entry in self.frames)
        totals: dict[str, list[float]] = {}
        for entry in self.frames:
            for stage, value in entry["milliseconds"].items():
                totals.setdefault(stage, []).append(value)
        return {
            "frames": len(self.frames),
            "outcomes": {outcome.value: outcomes[outcome.value] for outcome in Outcome},
            "reasons": dict(sorted(reasons.items())),
            "frames_with_regions": sum(1 for entry in self.frames if entry["regions"]),
            "most_regions": max((len(entry["regions"]) for entry in self.frames), default=0),
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(len(self.frames) / self.seconds, 2) if self.seconds else None,
            "median_milliseconds": {stage: round(float(np.median(values)), 3) for stage, values in totals.items()},
        }

    def uncertain(self) -> int:
        """How many frames were masked whole or dropped."""
        return sum(1 for entry in self.frames if entry["outcome"] not in {o.value for o in _CERTAIN})

    def to_json(self, *, model: Any, policy: Any) -> dict[str, Any]:
        """The report file."""
        return {
            "input": str(self.source),
            "output": str(self.output),
            "kind": self.kind,
            "width": self.width,
            "height": self.height,
            "model": model,
            "policy": policy,
            "release_digests": self.release_digests,
            "summary": self.summary(),
            "notes": self.notes,
            "frames": self.frames,
        }


Progress = Callable[[int, int], None]
"""Is told frames done and frames in all, 0 for unknown."""


def check_paths(source: Path, output: Path, *, force: bool) -> bool:
    """Looks at both names before any work is done; whether the source is an image.

    Raises:
        NotFoundError: there is no source.
        InvalidInputError: it cannot be read, the output is the source, or its suffix does not fit.
        BadFrameError: it is a picture without pixels, or with too many.
        AlreadyExistsError: the output is there and ``force`` is not given.
        OutputError: the output's directory does not exist, or nothing can be written there.
    """
    image = is_image(source)
    if image:
        check_picture(source)
    else:
        with VideoSource.opened(source):  # a source that nobody can read is the first thing to say
            pass
    (check_image_suffix if image else check_suffix)(output)
    if output.exists() and output.samefile(source):
        raise InvalidInputError("the output is the input", remedy="give another name with -o")
    if output.is_dir():
        raise OutputError(f"{output} is a directory", remedy="give the name of a file with -o")
    if output.exists() and not force:
        raise AlreadyExistsError(f"{output} exists already", remedy="give another name, or --force to replace it")
    if not output.parent.is_dir():
        raise OutputError(f"there is no directory {output.parent}", remedy="make it, or give another name with -o")
    check_writable(output, what=str(output), remedy="give another name with -o")
    return image


def check_writable(path: Path, *, what: str, remedy: str) -> None:
    """Makes a file beside a path and removes it: nothing else tells whether it can be written before it is.

    Raises:
        OutputError: it cannot; with the remedy.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name[:64]}."):
            pass
    except OSError as error:
        raise OutputError(f"{what} cannot be written ({error.strerror})", remedy=remedy) from None


def mask_file(
    client: MaskingClient,
    source: Path,
    output: Path,
    *,
    policy: PolicyChanges = None,
    force: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Report:
    """Masks an image or a video.

    Args:
        client: connected to an agent that has a release.
        source: the input; anything that FFmpeg or OpenCV reads.
        output: where the result goes; its suffix says the format.
        policy: differences from the release's own policy.
        force: replace an output that exists.
        progress: is told how far it is.

    Raises:
        FleetError: as :func:`check_paths`; BadFrameError for a damaged picture; OutputError where the result cannot be
            written; UnavailableError where the agent goes away. No output is left behind.
    """
    if check_paths(source, output, force=force):
        return _mask_image(client, source, output, policy, progress)
    return _mask_video(client, source, output, policy, progress)


def _mask_image(client: MaskingClient, source: Path, output: Path, policy: PolicyChanges, progress: Progress) -> Report:
    pixels = read_image(source)
    encoding = Encoding.RAW if pixels.nbytes <= _RAW_LIMIT else Encoding.PNG
    started = time.monotonic()
    result = client.mask_image(pixels, policy=policy, encoding=encoding)
    report = Report(source, output, "image", pixels.shape[1], pixels.shape[0])
    report.add(result)
    report.seconds = time.monotonic() - started
    write_image(output, picture(result, pixels.shape[1], pixels.shape[0]))
    progress(1, 1)
    return report


def _mask_video(client: MaskingClient, source: Path, output: Path, policy: PolicyChanges, progress: Progress) -> Report:
    with VideoSource.opened(source) as video:
        info = video.info
        stamps: deque[int] = deque()

        def pixels() -> Iterator[Image]:
            for image, pts in video.frames():
                stamps.append(pts)
                yield image

        report = Report(source, output, "video", info.width, info.height)
        raw = info.width * info.height * 3 <= _RAW_LIMIT
        started = time.monotonic()
        with VideoSink.opened(output, like=info, sound_of=source) as sink:
            encoding = Encoding.RAW if raw else Encoding.JPEG
            for result in client.stream(pixels(), policy=policy, mode=Mode.EVERY_FRAME, encoding=encoding):
                pts = stamps.popleft()
                report.add(result, seconds=float(pts * info.time_base))
                sink.write(picture(result, info.width, info.height), pts)
                progress(len(report.frames), info.frames)
            sink.finish()
        report.seconds = time.monotonic() - started
        if video.damaged:
            report.notes.append(
                f"{source.name} is damaged: {video.damaged} frames or parts of it cannot be read and are left out"
            )
        if info.sound and output.suffix.lower() == ".gif":
            report.notes.append("a GIF has no sound")
    return report


def picture(result: MaskedFrame, width: int, height: int) -> Image:
    """What stands in the output for a result: its masked picture, or black where it has none or one of another size."""
    image = result.image
    if image is None or image.shape[:2] != (height, width):
        return np.zeros((height, width, 3), np.uint8)
    return image
