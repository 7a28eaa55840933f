"""What must hold of the rollouts that are judged. Pure: rollouts over time and who masked which frame in, gates out.

Example::

    gates = canary_gates(chapters, rollouts, paths)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.demo.verdict import Gate

Rollout = Mapping[str, Any]
_SELF_TEST = re.compile(r"self-test|finds \d+ (of \d+ )?faces on ")
"""What a device says that refused a release for what it found on the golden frames."""


def canary_gates(
    chapters: Mapping[str, Mapping[str, Any]], rollouts: Sequence[Rollout], paths: Mapping[str, Sequence[str]]
) -> list[Gate]:
    """Every gate of the judged rollouts; none where there were no such chapters.

    Args:
        chapters: which release and rollout played which part, as :func:`fleet.demo.canaries.tell` says it.
        rollouts: over time, with their decisions and sentences.
        paths: by stream, the releases that masked its frames, each run of frames once.
    """
    if not chapters:
        return []
    by_id = {rollout["id"]: rollout for rollout in rollouts}
    return [
        _promoted(chapters["third"]["release"], by_id.get(chapters["third"]["rollout"], {}), paths),
        _refused(chapters["noised"]["release"], by_id.get(chapters["noised"]["rollout"], {}), paths),
        _rolled_back(
            chapters["large"]["release"],
            by_id.get(chapters["large"]["rollout"], {}),
            paths,
            chapters["third"]["release"],
        ),
    ]


def deciding(rollout: Rollout) -> str:
    """What settled a rollout: verdict, action and first reason of the decision that sent it back, or else on.

    Empty where nothing was decided.
    """
    decisions = [d for d in rollout.get("decisions") or () if d["action"] in ("roll back", "advance", "succeed")]
    if not decisions:
        return ""
    last = next((decision for decision in decisions if decision["action"] == "roll back"), decisions[0])
    reasons = last["reasons"] or [""]
    # Of a PASS, what was closest to its limit is worth telling.
    told = (
        next((reason for reason in reasons if "p95" in reason), reasons[0]) if last["verdict"] == "PASS" else reasons[0]
    )
    return f"{last['verdict']}, {last['action']}: {told}"


def _promoted(release: str, rollout: Rollout, paths: Mapping[str, Sequence[str]]) -> Gate:
    reached = [name for name, path in paths.items() if path and path[-1] == release]
    passes = sum(decision["verdict"] == "PASS" for decision in rollout.get("decisions") or ())
    return Gate(
        "The next release reached every device",
        f"{rollout.get('state', 'no rollout')}, {len(reached)} of {len(paths)} devices, {passes} PASS; "
        f"{deciding(rollout)}",
        "SUCCEEDED, by PASS",
        bool(paths) and rollout.get("state") == "SUCCEEDED" and len(reached) == len(paths) and passes > 0,
    )


def _refused(release: str, rollout: Rollout, paths: Mapping[str, Sequence[str]]) -> Gate:
    served = sum(release in path for path in paths.values())
    said = " ".join(
        [
            *(sentence for sentence in rollout.get("sentences") or ()),
            *(device["detail"] for device in rollout.get("devices") or ()),
            deciding(rollout),
        ]
    ).lower()
    because = _SELF_TEST.search(said) is not None
    ended = rollout.get("state") in ("ROLLED_BACK", "FAILED")
    return Gate(
        "The damaged model never served",
        f"{rollout.get('state', 'no rollout')}, served on {served} devices; {deciding(rollout)}",
        "refused by its self-test, 0 frames",
        bool(paths) and ended and because and served == 0,
    )


def _rolled_back(release: str, rollout: Rollout, paths: Mapping[str, Sequence[str]], before: str) -> Gate:
    served = [name for name, path in paths.items() if release in path]
    back = [name for name, path in paths.items() if path and path[-1] == before]
    p95 = "p95" in deciding(rollout)
    return Gate(
        "The slow model was rolled back by itself",
        f"{rollout.get('state', 'no rollout')}, served on {len(served)} of {len(paths)} devices, "
        f"{len(back)} back on {before}; {deciding(rollout)}",
        "ROLLED_BACK for its p95, one canary",
        bool(paths) and rollout.get("state") == "ROLLED_BACK" and len(served) == 1 and len(back) == len(paths) and p95,
    )
