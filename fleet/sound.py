"""PyAV, and the sound of a video on its way into another container."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskfleet.errors import PreconditionError


def library() -> Any:
    """PyAV.

    Raises:
        PreconditionError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise PreconditionError(
            "videos need the package av, which is not installed", remedy="pip install 'maskfleet[cli]'"
        ) from None
    # With any level but None FFmpeg's threads wait for the GIL in PyAV's log callback, while the thread that
    # frees their codec holds the GIL and waits for them. What matters comes as an exception.
    av.logging.set_level(None)
    return av


class Sound:
    """One sound stream on its way from the source to the output."""

    def __init__(self, source: Any, index: int) -> None:
        self._stream = source.streams.audio[index]
        self._packets = source.demux(self._stream)
        self._waiting: Any = None
        self._target: Any = None
        self._encode = False
        self._resampler: Any = None
        self._ended = False
        self.damaged = 0

    def add_to(self, container: Any, *, mp4: bool) -> None:
        """Adds a stream to the output. MP4 may hold PCM since lately; few players know."""
        name = self._stream.codec_context.name
        try:
            self._encode = name not in container.supported_codecs or (mp4 and name.startswith("pcm_"))
            if not self._encode:
                self._target = container.add_stream_from_template(self._stream)
        except ValueError:
            self._encode = True
        if self._encode:
            encoder = library().codec.Codec(container.default_audio_codec, "w")
            self._target = container.add_stream(
                container.default_audio_codec, rate=_fitting_rate(self._stream.rate, encoder.audio_rates)
            )
            self._target.layout = {1: "mono", 2: "stereo"}.get(self._stream.channels, self._stream.layout)
            context = self._target.codec_context
            self._resampler = library().AudioResampler(context.format, context.layout, context.rate, context.frame_size)

    def until(self, seconds: float, container: Any) -> None:
        """Copies what is heard up to a moment."""
        av = library()
        while not self._ended:
            if self._waiting is None:
                try:
                    self._waiting = next(self._packets, None)
                except av.error.FFmpegError:
                    self._waiting = None
                if self._waiting is None:
                    self._ended = True
                    if self._encode:
                        container.mux(self._target.encode(None))
                    return
            packet = self._waiting
            if packet.dts is not None and float(packet.dts * packet.time_base) > seconds:
                return
            self._waiting = None
            if self._encode:
                try:
                    heard = packet.decode()
                except av.error.FFmpegError:
                    self.damaged += 1  # a click is no reason to throw the pictures away
                    continue
                for frame in heard:
                    for fitting in self._resampler.resample(frame):
                        container.mux(self._target.encode(fitting))
            elif packet.size:  # the last packet of a stream is empty
                if packet.dts is None:
                    packet.dts = packet.pts
                packet.stream = self._target
                container.mux(packet)


def _fitting_rate(rate: int, allowed: Sequence[int] | None) -> int:
    """The encoder's nearest rate that loses nothing, in samples a second. (Opus knows five rates, not 44,100.)"""
    if not allowed or rate in allowed:
        return rate
    return min((r for r in allowed if r > rate), default=max(allowed))
