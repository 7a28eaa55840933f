"""Makes rollouts: which devices, in which wave, and why not."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime

from control_plane.assigning import ready_release
from control_plane.domain.cohort import draw, prove_first
from control_plane.domain.device import Assignment, Device
from control_plane.domain.release import Release
from control_plane.domain.rollout import Member, Rollout, RolloutState
from control_plane.domain.selector import Selector
from control_plane.domain.strategy import MAX_SEED, Strategy
from control_plane.proving import unproven
from control_plane.store.port import Writing
from maskfleet.errors import NoEngineError, NoMatchError, RolloutConflictError
from maskfleet.logs import correlation_id

_NAMED = 5  # devices that an error names


async def make(
    tx: Writing,
    release_id: str,
    selector: str,
    strategy: Strategy,
    *,
    rollout_of: Mapping[str, str],
    online: Callable[[str], bool],
    now: datetime,
) -> tuple[Rollout, list[Member]]:
    """A new rollout with its devices, written down.

    Args:
        tx: the transaction.
        release_id: what it brings.
        selector: which devices, as it was written.
        strategy: how to go about it, checked; a seed is drawn where it has none.
        rollout_of: rollouts that have not ended, by device.
        online: whether a device is there.
        now: by the plane's clock.

    Raises:
        NotFoundError: no such release.
        PreconditionError: the release is not READY.
        BadSelectorError: the selector does not parse.
        NoMatchError: it matches no device.
        RolloutConflictError: a device is in another rollout.
        NoEngineError: the release has no engine for a device.
        InvalidInputError: the strategy does not fit the devices.
    """
    matching = Selector.parse(selector)
    release = await ready_release(tx, release_id)
    found = [(d, d.attributes()) for d in await tx.select(Device)]
    devices = {d.id: (d, attributes) for d, attributes in found if matching.matches(attributes)}
    _check([d for d, _ in devices.values()], release, selector, rollout_of)
    if not strategy.seed:
        strategy = dataclasses.replace(strategy, seed=1 + secrets.randbelow(MAX_SEED))
    places = draw(strategy, {device_id: attributes for device_id, (_, attributes) in devices.items()})
    named = {device_id: device.name for device_id, (device, _) in devices.items()}
    runs = await unproven(tx, release, [device for device, _ in devices.values()])
    strategy, places = prove_first(strategy, places, runs, named, {d for d in devices if online(d)})
    number = await tx.next_number("rollout")
    rollout = Rollout(
        f"ro-{number}", number, release.id, release.manifest_digest, selector, RolloutState.PENDING, now, strategy,
        correlation_id=correlation_id(),
    )  # fmt: skip
    members = []
    for device, _ in devices.values():
        before, place = await tx.get(Assignment, device.id), places[device.id]
        members.append(
            Member(
                rollout.id,
                device.id,
                device.name,
                before.release_id if before else "",
                wave=place.wave,
                cohort=place.cohort,
                stratum=place.stratum,
            )
        )
    await tx.put(rollout)
    await tx.put(*members)
    return rollout, members


def _check(devices: list[Device], release: Release, selector: str, rollout_of: Mapping[str, str]) -> None:
    if not devices:
        raise NoMatchError(
            f"the selector {selector!r} matches no device" if selector else "there is no device",
            remedy="see fleet devices list" if selector else "enrol one with a join token",
        )
    busy = [d for d in devices if d.id in rollout_of]
    if busy:
        others = sorted({rollout_of[d.id] for d in busy})
        raise RolloutConflictError(
            f"{_named(busy)} already in {', '.join(others)}",
            remedy="wait until that ends, or abort it, or choose other devices",
        )
    without = [d for d in devices if not set(d.facts.targets) & set(release.targets)]
    if without:
        needed = sorted({t for d in without for t in d.facts.targets[:1]}) or ["that they can run"]
        raise NoEngineError(
            f"release {release.id} has engines for {', '.join(release.targets)}, none for {_named(without)}",
            remedy=f"make a release with a target {' and '.join(needed)}, or choose other devices",
        )


def _named(devices: list[Device]) -> str:
    names = ", ".join(d.name for d in devices[:_NAMED])
    more = f" and {len(devices) - _NAMED} more" if len(devices) > _NAMED else ""
    return f"{names}{more}"
