"""Names for the shell: rollouts, releases, models and devices of the plane that commands speak to; targets.

A shell waits for this between two keys: half a second, and silence where anything goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.plane import Plane

_TIMEOUT_S = 0.5
Found = list[tuple[str, str]]


def complete_rollout(incomplete: str) -> Found:
    """Ids of rollouts with what they do."""
    from maskfleet.v1 import rollouts_service_pb2

    def found(plane: Plane) -> Iterable[tuple[str, str]]:
        from fleet.cli.plain import plain

        request = rollouts_service_pb2.ListRolloutsRequest(page_size=50)
        for message in plane.call(plane.rollouts.ListRollouts, request, timeout=_TIMEOUT_S).rollouts:
            rollout = plain(message)
            yield rollout["id"], f"{rollout['release_id']} {rollout['state']}"

    return _asked(found, incomplete)


def complete_release(incomplete: str) -> Found:
    """Ids of releases with what they are made of."""
    from maskfleet.v1 import releases_service_pb2

    def found(plane: Plane) -> Iterable[tuple[str, str]]:
        request = releases_service_pb2.ListReleasesRequest(page_size=50)
        for release in plane.call(plane.releases.ListReleases, request, timeout=_TIMEOUT_S).releases:
            yield release.id, f"{release.model_name}/{release.model_version}"

    return _asked(found, incomplete)


def complete_device(incomplete: str) -> Found:
    """Names of devices."""
    from maskfleet.v1 import devices_service_pb2

    def found(plane: Plane) -> Iterable[tuple[str, str]]:
        request = devices_service_pb2.ListDevicesRequest(page_size=100)
        for device in plane.call(plane.devices.ListDevices, request, timeout=_TIMEOUT_S).devices:
            yield device.name or device.id, "online" if device.online else "offline"

    return _asked(found, incomplete)


def complete_model(incomplete: str) -> Found:
    """Model versions with how their outputs are read."""
    from maskfleet.v1 import models_service_pb2

    def found(plane: Plane) -> Iterable[tuple[str, str]]:
        request = models_service_pb2.ListModelsRequest(page_size=100)
        for model in plane.call(plane.models.ListModels, request, timeout=_TIMEOUT_S).models:
            yield f"{model.name}/{model.version}", model.decoder

    return _asked(found, incomplete)


def complete_target(incomplete: str) -> Found:
    """Targets with what runs their engines; no plane is asked."""
    from maskfleet.targets import TARGETS

    return [(entry.name, entry.backend) for entry in TARGETS.values() if entry.name.startswith(incomplete)]


def _asked(found: Callable[[Plane], Iterable[tuple[str, str]]], incomplete: str) -> Found:
    import os
    from pathlib import Path

    from fleet.cli.context import PLANE_VARIABLE, TOKEN_FILE_VARIABLE, connected

    try:
        file = os.environ.get(TOKEN_FILE_VARIABLE)
        with connected(os.environ.get(PLANE_VARIABLE), Path(file) if file else None) as plane:
            return [pair for pair in found(plane) if pair[0].startswith(incomplete)]
    except Exception:  # noqa: BLE001  # whatever it is, a shell that waits for a key has no use for it
        return []
