"""Which devices go first, and which stay behind as control."""

from __future__ import annotations

import enum


class Cohort(enum.Enum):
    """The group of devices that a device belongs to. Names are those of the wire."""

    CANARY = "CANARY"
    CONTROL = "CONTROL"
