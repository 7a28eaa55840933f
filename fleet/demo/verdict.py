"""What must hold for the demo to succeed. Pure: scores in, gates out.

Example::

    gates = judge(score, orders, swapped={"agent-1": True, …})
    held = all(gate.held for gate in gates)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fleet.scoring import ClipScore, Order

MOST_EXPOSED_PER_THOUSAND = 2.0
LONGEST_EXPOSURE = 1
LEAST_SETTLED = 0.97
MOST_BACKGROUND = 0.03


@dataclasses.dataclass(frozen=True)
class Gate:
    """One thing that must hold.

    Attributes:
        name: a short phrase.
        figure: what was measured, for people.
        limit: what is asked, for people.
        held: whether it holds.
    """

    name: str
    figure: str
    limit: str
    held: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def judge(score: ClipScore, orders: Mapping[str, Order], swapped: Mapping[str, bool]) -> list[Gate]:
    """Every gate. Nothing measured is never a pass: no frames or no faces fail.

    Args:
        score: of all streams together.
        orders: what became of each stream's frames.
        swapped: by stream, whether its frames were masked by the first release first and by the second one then.
    """
    lost = sum(len(order.lost) for order in orders.values())
    reordered = sum(len(order.reordered) for order in orders.values())
    sent = sum(order.sent for order in orders.values())
    measured = score.face_frames > 0
    return [
        Gate(
            "Faces exposed",
            f"{score.exposed} of {score.face_frames:,} ({score.exposed_per_thousand:.2f} of 1,000)",
            f"at most {MOST_EXPOSED_PER_THOUSAND:g} of 1,000",
            measured and score.exposed_per_thousand <= MOST_EXPOSED_PER_THOUSAND,
        ),
        Gate(
            "Longest exposure of a face",
            f"{score.longest_exposure} {'frame' if score.longest_exposure == 1 else 'frames'} in a row",
            "never two in a row",
            measured and score.longest_exposure <= LONGEST_EXPOSURE,
        ),
        Gate(
            "Frames MASKED or COASTED",
            f"{score.settled_share:.2%} of {score.frames:,}",
            f"at least {LEAST_SETTLED:.0%}",
            score.frames > 0 and score.settled_share >= LEAST_SETTLED,
        ),
        Gate(
            "Background masked",
            f"{score.background_share:.2%}",
            f"at most {MOST_BACKGROUND:.0%}",
            score.background > 0 and score.background_share <= MOST_BACKGROUND,
        ),
        Gate("Frames lost", f"{lost} of {sent:,}", "0", sent > 0 and lost == 0),
        Gate("Frames out of order", f"{reordered} of {sent:,}", "0", sent > 0 and reordered == 0),
        Gate(
            "Release changed in mid-stream",
            f"{sum(swapped.values())} of {len(swapped)} streams",
            "every stream, once",
            bool(swapped) and all(swapped.values()),
        ),
    ]
