"""What happened in the fleet, for people: one sentence each, numbered in the order in which the plane wrote them."""

from __future__ import annotations

import dataclasses
from datetime import datetime

KEPT = 10_000
"""Events that are kept; older ones are dropped."""

PLANE = "plane"
"""The actor of what the plane does of its own accord."""


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        number: grows by one with each event of a plane.
        time: when, by the plane's clock.
        kind: as ``rollout.moved``, ``device.connected``, ``decision``.
        subject: id of the rollout, release, model or device that it is about.
        text: what happened, in a sentence.
        actor: who did it: a role, ``plane``, or a device's id.
    """

    number: int
    time: datetime
    kind: str
    subject: str
    text: str
    actor: str = PLANE
