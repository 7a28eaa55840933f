"""Who did what and when in a rollout: follows the next one that is created.

Example::

    with RolloutWatch(address, token, known=["ro-1"]) as watch:
        …  # create a rollout and wait for its end
    print(watch.figures())
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from fleet.cli.plain import plain
from fleet.plane import Plane
from maskfleet.errors import FleetError
from maskfleet.v1 import rollouts_service_pb2

_POLL_S = 0.05


class RolloutWatch:
    """Follows the next rollout in a thread of its own, from entering to leaving the block.

    Args:
        address: the control plane's.
        token: the operator's.
        known: rollouts that are not it.
    """

    def __init__(self, address: str, token: str, *, known: Collection[str]) -> None:
        self._address = address
        self._token = token
        self._known = known
        self._over = threading.Event()
        self._seen: list[tuple[float, Mapping[str, Any]]] = []
        self._thread = threading.Thread(target=self._run, name="rollout-watch", daemon=True)

    def __enter__(self) -> RolloutWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def figures(self) -> dict[str, Any]:
        """What was seen; empty where no rollout was."""
        return timeline(self._seen)

    def _run(self) -> None:
        try:
            with Plane(self._address, token=self._token) as plane:
                while (rollout_id := self._next(plane)) is None:
                    if self._over.wait(_POLL_S):
                        return
                request = rollouts_service_pb2.WatchRolloutRequest(rollout_id=rollout_id)
                for response in plane.watch(plane.rollouts.WatchRollout, request):
                    self._seen.append((time.time(), plain(response.rollout)))
        except FleetError:
            return  # the command that runs the rollout tells what is wrong

    def _next(self, plane: Plane) -> str | None:
        response = plane.call(plane.rollouts.ListRollouts, rollouts_service_pb2.ListRolloutsRequest())
        return next((rollout.id for rollout in response.rollouts if rollout.id not in self._known), None)


def timeline(seen: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    """A rollout over time.

    Args:
        seen: moments (seconds since the epoch, on the plane's host) with the rollout as it was then.
    """
    if not seen:
        return {}
    last = seen[-1][1]
    created = _seconds(last["create_time"])
    spans: dict[str, list[dict[str, Any]]] = {}
    moves: list[dict[str, Any]] = []
    for moment, rollout in seen:
        at = round(max(0.0, moment - created), 3)
        move = {"state": rollout["state"], "wave": rollout.get("wave", 0)}
        if not moves or {key: moves[-1][key] for key in move} != move:
            moves.append({"at_s": at, **move})
        for device in rollout["devices"]:
            mine = spans.setdefault(device["device_name"], [])
            state = state_word(device["state"], device["detail"])
            if not mine:
                mine.append({"from_s": 0.0, "to_s": at, "state": state})
            mine[-1]["to_s"] = at
            if mine[-1]["state"] != state:
                mine.append({"from_s": at, "to_s": at, "state": state})
    devices = {device["device_name"]: device for device in last["devices"]}
    return {
        "id": last["id"],
        "release_id": last["release_id"],
        "state": last["state"],
        "reason": last.get("reason", ""),
        "seconds": round(max(0.0, seen[-1][0] - created), 3),
        "waves": last.get("waves", 0),
        "strategy": last.get("strategy"),
        "moves": moves,
        "series": series([rollout for _moment, rollout in seen], created),
        "devices": [
            {
                "name": name,
                "id": devices[name].get("device_id", "") if name in devices else "",
                "wave": devices[name].get("wave", 0) if name in devices else 0,
                "cohort": first_cohort(name, seen),
                "state": devices[name]["state"] if name in devices else mine[-1]["state"],
                "detail": devices[name]["detail"] if name in devices else "",
                "spans": mine,
            }
            for name, mine in sorted(spans.items())
        ],
    }


def series(rollouts: Sequence[Mapping[str, Any]], created: float) -> dict[str, list[dict[str, Any]]]:
    """What the cohorts looked like, oldest first, by cohort.

    Args:
        rollouts: the same one over time; each holds newest points only, cut at other moments than the one before. What
            a later one says goes before what an earlier one said of the same time.
        created: seconds since the epoch from which is counted.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for rollout in rollouts:
        for cohort in rollout.get("series") or ():
            points = [
                {
                    "at_s": round(_seconds(point["time"]) - created, 3),
                    "frames": point["frames"],
                    "failed": point["failed"],
                    "p95_ms": point.get("p95_ms"),
                }
                for point in cohort["points"]
            ]
            if points:
                before = found.get(str(cohort["cohort"]), [])
                found[str(cohort["cohort"])] = [p for p in before if p["at_s"] < points[0]["at_s"]] + points
    return found


def first_cohort(name: str, seen: Sequence[tuple[float, Mapping[str, Any]]]) -> str:
    """The first cohort that a device was said to be in; empty where none was."""
    for _moment, rollout in seen:
        for device in rollout["devices"]:
            if device["device_name"] == name and (cohort := str(device.get("cohort") or "")) not in ("", "UNSPECIFIED"):
                return cohort
    return ""


def decision_figures(decisions: Sequence[Mapping[str, Any]], created: float) -> list[dict[str, Any]]:
    """Decision records, oldest first, without what went into them.

    Args:
        decisions: as plain values, in any order.
        created: seconds since the epoch from which is counted.
    """
    rows = [
        {
            "id": decision["id"],
            "at_s": round(_seconds(decision["time"]) - created, 3),
            "wave": decision["wave"],
            "verdict": decision["verdict"],
            "action": decision["action"],
            "reasons": list(decision["reasons"]),
            "statistical": decision["statistical"],
        }
        for decision in decisions
    ]
    return sorted(rows, key=lambda row: row["at_s"])


def state_word(state: str, detail: str) -> str:
    """What a device does, in a word: ``DOWNLOADING`` of ``UPDATING`` and ``DOWNLOADING 40 %``."""
    word = detail.split(maxsplit=1)[0].rstrip(":") if detail else ""
    return word if state == "UPDATING" and word.isupper() else state


def _seconds(time_text: object) -> float:
    return datetime.fromisoformat(str(time_text)).timestamp()
