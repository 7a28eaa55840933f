"""How a rollout's waves are numbered for people: from 1, and 0 for one that proves engines in front of the others.

On the wire waves are counted from 0, whatever they are for.

>>> wave_number({"strategy": {"waves": [{"proves": {"rtx-turing": "agent-2"}}, {}]}}, 1)
1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def proved(rollout: Mapping[str, Any]) -> Mapping[str, str]:
    """Targets whose engines the first wave proves, with the device that does; empty where there is no such wave."""
    waves = (rollout.get("strategy") or {}).get("waves") or [{}]
    found: Mapping[str, str] = waves[0].get("proves") or {}
    return found


def wave_number(rollout: Mapping[str, Any], wave: int) -> int:
    """The number of a wave for people.

    Args:
        rollout: as the wire says it.
        wave: counts from 0.
    """
    return wave if proved(rollout) else wave + 1


def wave_count(rollout: Mapping[str, Any]) -> int:
    """How many waves there are, without wave 0."""
    return int(rollout["waves"]) - bool(proved(rollout))


def wave_of(rollout: Mapping[str, Any]) -> str:
    """Where a rollout is, as ``2 of 3``; empty where it has no waves."""
    if not rollout["waves"]:
        return ""
    return f"{max(0, wave_number(rollout, rollout['wave']))} of {wave_count(rollout)}"
