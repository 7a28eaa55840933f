"""Who did what and when in a rollout: follows the next one that is created.

Example::

    with RolloutWatch(address, token, known=["ro-1"]) as watch:
        …  # create a rollout and wait for its end
    print(watch.figures())
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from fleet.cli.plain import plain
from fleet.plane import Plane
from maskfleet.errors import FleetError
from maskfleet.v1 import rollouts_service_pb2

_POLL_S = 0.05
_ENDED = ("SUCCEEDED", "FAILED", "ABORTED")


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


def timeline(seen: list[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    """A rollout over time.

    Args:
        seen: moments (seconds since the epoch, on the plane's host) with the rollout as it was then.
    """
    if not seen:
        return {}
    last = seen[-1][1]
    created = datetime.fromisoformat(str(last["create_time"])).timestamp()
    spans: dict[str, list[dict[str, Any]]] = {}
    for moment, rollout in seen:
        at = round(max(0.0, moment - created), 3)
        for device in rollout["devices"]:
            mine = spans.setdefault(device["device_name"], [])
            state = state_word(device["state"], device["detail"])
            if not mine:
                mine.append({"from_s": 0.0, "to_s": at, "state": state})
            mine[-1]["to_s"] = at
            if mine[-1]["state"] != state:
                mine.append({"from_s": at, "to_s": at, "state": state})
    return {
        "id": last["id"],
        "release_id": last["release_id"],
        "state": last["state"],
        "seconds": round(max(0.0, seen[-1][0] - created), 3),
        "devices": [{"name": name, "spans": mine} for name, mine in sorted(spans.items())],
    }


def state_word(state: str, detail: str) -> str:
    """What a device does, in a word: ``DOWNLOADING`` of ``UPDATING`` and ``DOWNLOADING 40 %``."""
    word = detail.split(maxsplit=1)[0] if detail else ""
    return word if state == "UPDATING" and word.isupper() else state
