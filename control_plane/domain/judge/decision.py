"""What the judge says, and how it is kept.

A record holds everything that its verdict rests on, as plain JSON: :func:`control_plane.domain.judge.judgement.replay`
recomputes the verdict from the record alone.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any

NO_STATISTICS = "fixed limits, no statistical verdict"
"""Stands on every screen and record of a verdict that is not a test's."""


class Verdict(enum.Enum):
    """What the judge says. Names are those of the wire."""

    PASS = "PASS"  # noqa: S105  # no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


@dataclasses.dataclass(frozen=True)
class Decision:
    """One evaluation.

    Attributes:
        verdict: PASS only at the end of the soak.
        reasons: why, in sentences with their figures; the first one decided.
        statistical: whether a test with a known error rate said so.
        inputs: everything that went in; plain JSON.
        hard: a FAIL that does not wait for the end of the soak.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    statistical: bool = False
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hard: bool = False


@dataclasses.dataclass(frozen=True)
class DecisionRecord:
    """A decision, and what was done about it.

    Attributes:
        id: the rollout's id and the number: ``ro-3/12``.
        rollout_id: which rollout.
        number: from 1 within the rollout.
        time: when, by the plane's clock.
        wave: that was judged, from 0.
        verdict: what the judge said.
        action: what followed: ``wait``, ``advance``, ``hold``, ``roll back`` or ``succeed``; ``stay held`` and ``stay
            paused`` where it was judged in these states.
        reasons: as in the decision.
        statistical: as in the decision.
        inputs: as in the decision, and under ``looks`` how many evaluations it stands for: this one, and those since
            the record before it that said nothing new.
    """

    id: str
    rollout_id: str
    number: int
    time: datetime
    wave: int
    verdict: Verdict
    action: str
    reasons: tuple[str, ...]
    statistical: bool
    inputs: Mapping[str, Any]
