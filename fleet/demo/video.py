"""Frames to a video file: H.264 in MP4, by PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from fleet.results import Image
from maskfleet.errors import OutputError

CONSTANT_RATE_FACTOR = "20"


def write_video(path: Path, frames: Iterable[Image], *, width: int, height: int, frames_per_second: int) -> int:
    """Writes a video, mode 0600; how many frames it has.

    Args:
        path: of the MP4 file; one that is there is replaced.
        frames: uint8, H×W×3, BGR, all of the size given.
        width: in pixels, even.
        height: in pixels, even.
        frames_per_second: pace.

    Raises:
        OutputError: the file cannot be written.
    """
    import av

    count = 0
    try:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("h264", rate=frames_per_second)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": CONSTANT_RATE_FACTOR, "preset": "veryfast"}
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
                picture.pts, picture.time_base = count, Fraction(1, frames_per_second)
                container.mux(stream.encode(picture))
                count += 1
            container.mux(stream.encode(None))
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"the video {path} cannot be written ({error})", remedy="check the folder") from None
    return count
