"""Who waits for what: a word to everyone that follows a topic, without polling.

Topics are ids (``ro-3``, ``r-7``) or names (``builds``). A follower that was slow misses nothing: it learns that
something changed and looks again.

Example::

    with changes.following("ro-3") as change:
        while True:
            yield snapshot()
            await change.wait()
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Change:
    """Something to wait for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def mark(self) -> None:
        """It changed."""
        self._event.set()

    async def wait(self, timeout: float | None = None) -> bool:  # a wait that ends is no failure
        """Until it has changed since the last wait, or the time (in seconds) is over; whether it changed."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout)
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Changes:
    """Followers by topic. For one event loop."""

    def __init__(self) -> None:
        self._followers: dict[str, set[Change]] = {}

    def touch(self, topic: str) -> None:
        """Says that something about a topic changed; after it is in the store."""
        for change in self._followers.get(topic, ()):
            change.mark()

    def hear(self, topic: str | None) -> None:
        """What the store tells (:meth:`control_plane.store.port.Store.follow`): a topic, or None for all of them."""
        for name in [topic] if topic is not None else list(self._followers):
            self.touch(name)

    @contextlib.contextmanager
    def following(self, topic: str) -> Iterator[Change]:
        """Follows a topic for the block."""
        change = Change()
        self._followers.setdefault(topic, set()).add(change)
        try:
            yield change
        finally:
            followers = self._followers[topic]
            followers.discard(change)
            if not followers:
                del self._followers[topic]
