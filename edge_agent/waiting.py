"""Frames that wait for their turn in one stream.

Rules:

- EVERY_FRAME: a client that sends more than its credits breaks the contract, and the stream ends.
- LIVE: the newest frame wins. An older one that still waits keeps its place in the order and loses its picture, so that
  at most one picture waits.
- Memory is bounded whatever the client does: by credits, or, in LIVE, by not reading on while many answers are not
  taken, which slows the client down through the connection.
- Whoever waits is woken when the client goes (:meth:`FrameQueue.abandon`) or the agent stops (:meth:`FrameQueue.stop`).

One thread puts, another takes.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque

from edge_agent.masking.frames import SourceFrame
from edge_agent.masking.outcomes import Reason
from maskfleet.errors import CapacityError, UnavailableError

MAX_UNANSWERED = 256
"""Frames of a LIVE stream that may be without an answer before no more is read."""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A frame in the queue.

    Attributes:
        sequence: the client's.
        arrived: by the clock's monotonic time.
        source: the picture; None where it is dropped.
        dropped: why it is dropped.
    """

    sequence: int
    arrived: float
    source: SourceFrame | None
    dropped: Reason | None = None


class FrameQueue:
    """The frames of one stream that have no answer yet.

    Args:
        live: the newest frame wins; otherwise every frame waits.
        credit: how many frames may be without an answer in a stream that is not LIVE.
    """

    def __init__(self, *, live: bool, credit: int) -> None:
        self._live = live
        self._credit = credit
        self._changed = threading.Condition()
        self._frames: deque[Waiting] = deque()
        self._unanswered = 0
        self._ended = False
        self._error: Exception | None = None
        self._stopping = False
        self._abandoned = False

    def put(self, sequence: int, arrived: float, source: SourceFrame) -> bool:
        """Adds a frame; False where no more is wanted.

        Raises:
            CapacityError: the client has spent its credits.
        """
        with self._changed:
            if self._live:
                self._changed.wait_for(lambda: self._unanswered < MAX_UNANSWERED or self._abandoned or self._stopping)
            if self._abandoned:
                return False
            if not self._live and self._unanswered >= self._credit:
                raise CapacityError(
                    f"frame {sequence} is more than the {self._credit} frames that may be in flight",
                    remedy="wait for a result before each further frame",
                )
            self._unanswered += 1
            if self._stopping:
                self._frames.append(Waiting(sequence, arrived, None, Reason.SHUTTING_DOWN))
            else:
                if self._live and self._frames and self._frames[-1].source is not None:
                    self._frames[-1] = _emptied(self._frames[-1], Reason.SUPERSEDED)
                self._frames.append(Waiting(sequence, arrived, source))
            self._changed.notify_all()
            return not self._stopping

    def end(self, error: Exception | None = None) -> None:
        """No more frames come; with an error, :meth:`take` raises it after the frames that came before."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> Waiting | None:
        """The next frame, once there is one; None after the last.

        Raises:
            FleetError: the one that :meth:`end` was given.
            UnavailableError: the agent stops, and the client had more to say.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._ended or self._stopping or self._abandoned)
            if self._abandoned:
                return None
            if self._frames:
                return self._frames.popleft()
            if self._error is not None:
                raise self._error
            if not self._ended:
                raise UnavailableError("the agent is stopping", remedy="open a new stream when it is back")
            return None

    def answered(self) -> None:
        """An answer leaves; its credit is the client's again."""
        with self._changed:
            self._unanswered -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """The agent stops: what waits is dropped, each frame with an answer, and nothing new is masked."""
        with self._changed:
            self._stopping = True
            self._frames = deque(
                _emptied(frame, Reason.SHUTTING_DOWN) if frame.source is not None else frame for frame in self._frames
            )
            self._changed.notify_all()

    def abandon(self) -> None:
        """The client is gone: nobody waits for anything any more."""
        with self._changed:
            self._abandoned = True
            self._frames.clear()
            self._changed.notify_all()


def _emptied(frame: Waiting, reason: Reason) -> Waiting:
    return dataclasses.replace(frame, source=None, dropped=reason)
