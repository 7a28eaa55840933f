"""The clip through several agents at once, paced as a camera would give it, with everything that came back.

Frame ``i`` is captured ``i / 10`` s after the start and handed over then, or as soon as the agent has room
(EVERY_FRAME); how late its result came is measured from its capture. The clip is played again and again for as long as
the streams are kept open, so that a rollout that takes its time is still watched by faces.

Example::

    streams = Streams({"agent-1": "127.0.0.1:7710"}, jpegs, frames_per_second=10, at_least=330, at_most=900)
    streams.start()
    …
    streams.end(after=2.0)
    for name, stream in streams.finish().items(): …
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from fleet.client import MaskingClient
from fleet.results import EncodedFrame, MaskedFrame, Mode
from maskfleet.errors import FleetError, InternalError


def source_index(sequence: int, frames: int) -> int:
    """Which frame of the clip is the ``sequence``-th of a stream: from its beginning again, with a hard cut."""
    return sequence % frames


@dataclasses.dataclass
class Stream:
    """What came back from one agent.

    Attributes:
        name: the agent's.
        results: in the order in which they came.
        lateness_s: for each of them, seconds from the capture to the result.
        sent: how many frames were handed over.
    """

    name: str
    results: list[MaskedFrame] = dataclasses.field(default_factory=list)
    lateness_s: list[float] = dataclasses.field(default_factory=list)
    sent: int = 0


class Streams:
    """Streams that begin together and end together. Safe to use from several threads.

    Args:
        agents: address by name.
        clip: the frames as JPEG files.
        frames_per_second: pace.
        at_least: frames that every stream has.
        at_most: frames after which a stream ends in any case.
        seen: is told of each result, from several threads.
    """

    def __init__(
        self,
        agents: Mapping[str, str],
        clip: Sequence[bytes],
        *,
        frames_per_second: float,
        at_least: int,
        at_most: int,
        seen: Callable[[str, MaskedFrame], None] = lambda _name, _frame: None,
    ) -> None:
        self._clip = clip
        self._pace = frames_per_second
        self._at_least = at_least
        self._seen = seen
        self._changed = threading.Condition()
        self._end = at_most
        self._stopped = False
        self._errors: dict[str, Exception] = {}
        self._streams = {name: Stream(name) for name in agents}
        self._started = 0.0
        self._threads = [
            threading.Thread(target=self._run, args=(name, address), name=f"stream-{name}", daemon=True)
            for name, address in agents.items()
        ]

    def start(self) -> None:
        """Begins all streams."""
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    def wait_for(self, frames: int) -> None:
        """Waits until every stream has had this many results.

        Raises:
            FleetError: a stream failed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._errors or all(len(stream.results) >= frames for stream in self._streams.values())
            )
        self._raise()

    def settle(self, *, late_s: float, timeout_s: float) -> bool:
        """Waits until no stream is later than this; whether that was reached in time.

        Raises:
            FleetError: a stream failed.
        """

        def punctual() -> bool:
            streams = self._streams.values()
            return all(stream.lateness_s and stream.lateness_s[-1] <= late_s for stream in streams)

        with self._changed:
            reached = self._changed.wait_for(lambda: bool(self._errors) or punctual(), timeout_s)
        self._raise()
        return reached

    def end(self, *, after: float) -> None:
        """Lets every stream end with the same frame, this many seconds from now or with ``at_least`` frames."""
        with self._changed:
            ahead = max(stream.sent for stream in self._streams.values())
            self._end = min(self._end, max(self._at_least, ahead + round(after * self._pace)))
            self._changed.notify_all()

    def finish(self) -> dict[str, Stream]:
        """Waits until all streams have ended; what came back, by agent.

        Raises:
            FleetError: a stream failed.
        """
        for thread in self._threads:
            thread.join()
        self._raise()
        return self._streams

    def stop(self) -> None:
        """Ends all streams at once and waits for their threads."""
        with self._changed:
            self._stopped = True
            self._end = 0
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _raise(self) -> None:
        with self._changed:
            for name, error in self._errors.items():
                if isinstance(error, FleetError):
                    raise error
                raise InternalError(f"the stream through {name} failed ({error!r})") from error

    def _run(self, name: str, address: str) -> None:
        stream = self._streams[name]
        try:
            with MaskingClient(address) as client:
                for result in client.stream(self._frames(stream), mode=Mode.EVERY_FRAME):
                    due = self._started + result.sequence / self._pace
                    with self._changed:
                        stream.results.append(result)
                        stream.lateness_s.append(time.monotonic() - due)
                        stopped = self._stopped
                        self._changed.notify_all()
                    if stopped:
                        return
                    self._seen(name, result)
        except Exception as error:  # noqa: BLE001  # carried to the thread that waits
            with self._changed:
                self._errors[name] = error
                self._end = 0
                self._changed.notify_all()

    def _frames(self, stream: Stream) -> Iterator[EncodedFrame]:
        while True:
            due = self._started + stream.sent / self._pace
            with self._changed:
                # An earlier end wakes it; a frame is never given before its time.
                while stream.sent < self._end and (wait := due - time.monotonic()) > 0:
                    self._changed.wait(wait)
                if stream.sent >= self._end:
                    return
                sequence = stream.sent
                stream.sent += 1
            yield EncodedFrame(self._clip[source_index(sequence, len(self._clip))])
