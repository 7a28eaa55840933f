"""The release that serves now, and how another takes its place at a frame boundary.

Each frame holds the release that it began with (:meth:`Serving.held`) until it is done; a swap takes effect with
the next frame of every stream. Tracks belong to the streams, so they outlive a swap. A release that was swapped out is
closed once no frame holds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

from edge_agent.engines.engine import Engine
from maskfleet.decoding import DecoderSpec
from maskfleet.policy import MaskPolicy


@dataclasses.dataclass(frozen=True)
class LoadedRelease:
    """A release with its engine loaded.

    Attributes:
        release_id: as ``r-3``.
        release_digest: digest of its manifest's payload.
        engine: ready to run.
        decoder: how its outputs are read.
        policy: complete.
    """

    release_id: str
    release_digest: str
    engine: Engine
    decoder: DecoderSpec
    policy: MaskPolicy


class _Held:
    """A loaded release and how many frames hold it."""

    def __init__(self, release: LoadedRelease) -> None:
        self.release = release
        self.frames = 0
        self.retired = False


class Serving:
    """Which release serves. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: _Held | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[LoadedRelease | None]:
        """The release that serves now, kept open for the block; None where there is none."""
        with self._lock:
            mine = self._current
            if mine is not None:
                mine.frames += 1
        try:
            yield mine.release if mine is not None else None
        finally:
            if mine is not None:
                with self._lock:
                    mine.frames -= 1
                    done = mine.retired and mine.frames == 0
                if done:
                    mine.release.engine.close()

    def current(self) -> LoadedRelease | None:
        """The release that serves now, for display; it may be closed at any moment."""
        with self._lock:
            return self._current.release if self._current is not None else None

    def swap(self, release: LoadedRelease | None) -> None:
        """Puts another release in place, or none. The old one's engine is closed after the last frame that holds it."""
        with self._lock:
            old = self._current
            self._current = _Held(release) if release is not None else None
            idle = False
            if old is not None:
                old.retired = True
                idle = old.frames == 0
        if old is not None and idle:
            old.release.engine.close()
