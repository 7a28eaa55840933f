"""What the operator does in the demo: makes releases, rolls them out, asks why. All of it by ``fleet`` commands.

Example::

    operator = Operator(fleet, screen, address, token)
    first = operator.release("--model", "centerface", "--target", "ort-cpu")
    operator.roll_out(first["id"])
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fleet.cli.plain import plain
from fleet.demo.commands import Commands, Ran
from fleet.demo.rollout_watch import RolloutWatch, decision_figures
from fleet.demo.screen import Screen
from fleet.plane import Plane
from fleet.release_matrix import candidates, precision_of
from maskfleet.errors import InternalError
from maskfleet.v1 import rollouts_service_pb2

FP32 = ("--precision", "fp32")
"""The demo's first engines: quick to build, and eight bits come as news later."""

EVENTS = 200
"""How many of the newest events the report keeps."""


class Operator:
    """Runs commands one after the other and keeps what came of them.

    Args:
        fleet: the commands.
        screen: shows what happens.
        address: the control plane's.
        token: the operator's.

    Attributes:
        releases: those that are READY, as they were made.
        rollouts: over time, as they were made.
    """

    def __init__(self, fleet: Commands, screen: Screen, address: str, token: str) -> None:
        self.fleet = fleet
        self.screen = screen
        self.releases: list[dict[str, Any]] = []
        self.rollouts: list[dict[str, Any]] = []
        self._plane = (address, token)

    def release(self, model: str, targets: Sequence[str], *more: str) -> dict[str, Any]:
        """Makes a release and waits until it is READY.

        Raises:
            InternalError: it is not.
        """
        release = made(self.fleet, model, targets, *more)
        if release["state"] != "READY":
            raise InternalError(f"release {release['id']} is {release['state']} ({release['reason']})")
        return self.took(release)

    def took(self, release: dict[str, Any]) -> dict[str, Any]:
        """Notes a release that is READY."""
        sizes = ", ".join(
            f"{b['target']} {b['engine_size_bytes'] / 1e6:.1f} MB{' (cached)' if b['cached'] else ''}"
            for b in release["builds"]
        )
        self.screen.done(f"{release['id']} is {release['state']}: {sizes}")
        self.releases.append(release)
        return release

    def roll_out(self, release_id: str) -> dict[str, Any]:
        """Moves all devices at once and waits for the end.

        Raises:
            InternalError: it did not succeed.
        """
        with self._watch() as watch:
            ran = self.fleet.run("rollouts", "create", "--release", release_id, "--watch", "-o", "json")
        return self._followed(ran, watch)

    def canary(self, release_id: str, file: Path) -> dict[str, Any]:
        """Rolls a release out as a file says, waits for the end, whatever it is, and asks why.

        Raises:
            InternalError: a command failed.
        """
        with self._watch() as watch:
            created = self.fleet.run(
                "rollouts", "create", "-f", str(file), "--release", release_id, "-o", "json"
            ).result
            # 1 says that the rollout did not succeed, which may be what is due.
            ran = self.fleet.run("rollouts", "watch", created["id"], "-o", "json", codes=(0, 1))
        rollout = self._followed(ran, watch)
        began = datetime.fromisoformat(str(created["create_time"])).timestamp()
        rollout["decisions"] = decision_figures(self._decisions(rollout["id"]), began)
        explained = self.fleet.run("rollouts", "explain", rollout["id"], "-o", "json").result
        rollout["sentences"] = list(explained["sentences"])
        for sentence in rollout["sentences"]:
            self.screen.line(sentence)
        return rollout

    def events(self) -> list[dict[str, Any]]:
        """The newest events of the fleet, oldest first.

        Raises:
            InternalError: the command failed.
        """
        found = self.fleet.run("events", "-n", str(EVENTS), "-o", "json").result
        return [{key: event[key] for key in ("number", "time", "kind", "subject", "text")} for event in found]

    def _decisions(self, rollout_id: str) -> list[dict[str, Any]]:
        # Not by the command: it would show what `explain` says in fewer words.
        address, token = self._plane
        request = rollouts_service_pb2.ListDecisionsRequest(rollout_id=rollout_id, page_size=100)
        with Plane(address, token=token) as plane:
            return [plain(record) for record in plane.call(plane.rollouts.ListDecisions, request).decisions]

    def _watch(self) -> RolloutWatch:
        return RolloutWatch(*self._plane, known=[rollout["id"] for rollout in self.rollouts])

    def _followed(self, ran: Ran, watch: RolloutWatch) -> dict[str, Any]:
        last = ran.result
        states = ", ".join(f"{device['device_name']} {device['state']}" for device in last["devices"])
        self.screen.done(f"{last['id']} {last['state']}: {states}")
        seen = watch.figures()
        if seen.get("id") != last["id"]:
            raise InternalError(f"rollout {last['id']} was not seen by the demo's own watch")
        self.rollouts.append(seen)
        return seen


def made(fleet: Commands, model: str, targets: Sequence[str], *more: str) -> dict[str, Any]:
    """Makes a release and waits for its end, whatever it is: what a report holds of it.

    Raises:
        InternalError: the command failed.
    """
    chosen = [word for target in targets for word in ("--target", target)]
    # 1 says that a build failed: the gate may have refused it.
    ran = fleet.run("releases", "create", "--model", model, *chosen, *more, "--watch", "-o", "json", codes=(0, 1))
    release = ran.result
    return {
        "id": release["id"],
        "state": release["state"],
        "reason": release["reason"],
        "model": f"{release['model_name']}/{release['model_version']}",
        "digest": release["manifest_digest"],
        "policy": release["policy"],
        "seconds": round(ran.seconds, 2),
        "builds": [
            {
                "target": build["spec"]["target"],
                "state": build["state"],
                "reason": build["reason"],
                "precision": precision_of(build),
                "kept_fp32": list(candidates(build)[0].kept_fp32),
                "engine_digest": build["engine_digest"],
                "engine_size_bytes": build["engine_size_bytes"],
                "cached": build["cached"],
            }
            for build in release["builds"]
        ],
    }
