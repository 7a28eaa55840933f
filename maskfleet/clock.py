"""Time, handed in.

Rules take ``now`` as a value; whoever calls them takes it from a :class:`Clock`. Tests use :class:`FakeClock` and move
it by hand, so that no test sleeps.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Wall-clock time, in UTC with its zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, from an unknown start."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        """Moves both times forward."""
        self._now += by
        self._monotonic += by.total_seconds()
