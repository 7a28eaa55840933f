"""The builders that this plane has heard of of late. In memory: a builder that is there asks again within seconds."""

from __future__ import annotations

from datetime import timedelta

from control_plane.domain.builder import Builder, missing
from maskfleet.clock import Clock

HEARD_WITHIN = timedelta(seconds=60)
"""A builder that was not heard of for this long is not there."""

SETTLING = timedelta(seconds=20)
"""After a start: builders come back within this time."""

MAX_BUILDERS = 1000


class Builders:
    """Who was heard of, and when."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.monotonic()
        self._heard: dict[str, tuple[float, Builder]] = {}

    def heard(self, builder: Builder) -> None:
        """A builder asks for work."""
        self._heard.pop(builder.id, None)  # the order is that of the last word
        self._heard[builder.id] = (self._clock.monotonic(), builder)
        while len(self._heard) > MAX_BUILDERS:
            del self._heard[next(iter(self._heard))]

    def heard_again(self, builder_id: str) -> None:
        """A builder is at work: whoever does a build does not ask for one."""
        if builder_id in self._heard:
            self.heard(self._heard[builder_id][1])

    def there(self) -> list[Builder]:
        """Builders that were heard of within the last minute."""
        since = self._clock.monotonic() - HEARD_WITHIN.total_seconds()
        return [builder for when, builder in self._heard.values() if when >= since]

    def missing(self, target: str, calibration: str) -> str:
        """Which builder a build waits for in vain, in a sentence; empty where one is there, or may come back yet."""
        if self._clock.monotonic() - self._started < SETTLING.total_seconds():
            return ""
        return missing(target, calibration, self.there())
