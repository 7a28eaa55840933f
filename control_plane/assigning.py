"""What is wanted of devices: signed assignments that follow from where devices stand in their rollout."""

from __future__ import annotations

from control_plane.domain.device import Assignment
from control_plane.domain.release import Release, ReleaseState
from control_plane.domain.rollout import Member, MemberState, wanted_release
from control_plane.fleet import Fleet
from control_plane.links import Desired
from control_plane.signing import Signer
from control_plane.store.port import Reading, Store, Writing
from maskfleet.errors import NotFoundError, PreconditionError


class Assigning:
    """Makes assignments."""

    def __init__(self, store: Store, fleet: Fleet, signer: Signer) -> None:
        self._store = store
        self._fleet = fleet
        self._signer = signer
        self._ready: dict[str, Release] = {}

    async def follows(self, tx: Writing, before: Member, member: Member, release_id: str) -> Assignment | None:
        """The assignment that a device's move brings with it; None where what is wanted stays."""
        wanted = wanted_release(member, release_id)
        if member.state is MemberState.UPDATING:
            return await self.assign(tx, member.device_id, wanted)
        if before.state is MemberState.PENDING or wanted == wanted_release(before, release_id):
            return None
        if member.state is MemberState.FAILED and not wanted:
            # It refused by itself and has nothing to go back to: there is nothing to tell it.
            return Assignment(member.device_id, before.generation, "", b"")
        return await self.assign(tx, member.device_id, wanted)

    async def assign(self, tx: Writing, device_id: str, release_id: str, *, above: int = 0) -> Assignment:
        """A device's next assignment. Its generation is higher than any that plane or device has seen."""
        stored = await tx.get(Assignment, device_id)
        said = self._fleet.report(device_id)
        generation = 1 + max(stored.generation if stored else 0, said.generation if said else 0, above)
        digest = (await self.release(tx, release_id)).manifest_digest if release_id else ""
        return self._signer.assignment(device_id, generation, release_id, digest)

    async def release(self, look: Reading, release_id: str) -> Release:
        """A READY release; these never change again."""
        if release_id not in self._ready:
            self._ready[release_id] = await ready_release(look, release_id)
        return self._ready[release_id]

    async def desired(self, assignment: Assignment) -> Desired | None:
        """What goes down a device's stream; None for nothing."""
        if not assignment.envelope:
            return None
        digest, manifest = "", b""
        if assignment.release_id:
            async with self._store.reading() as look:
                release = await self.release(look, assignment.release_id)
            digest, manifest = release.manifest_digest, release.manifest
        return desired_of(assignment, digest, manifest)


def desired_of(assignment: Assignment, digest: str, manifest: bytes) -> Desired:
    """What goes down a device's stream: an assignment with its release's digest and manifest."""
    return Desired(
        assignment.generation, assignment.envelope, assignment.release_id, digest, manifest, assignment.correlation_id
    )


async def ready_release(look: Reading, release_id: str) -> Release:
    """A release that can be rolled out.

    Raises:
        NotFoundError: there is none.
        PreconditionError: it is not READY.
    """
    release = await look.get(Release, release_id)
    if release is None:
        raise NotFoundError(f"there is no release {release_id}", remedy="see fleet releases list")
    if release.state is not ReleaseState.READY:
        why = f" ({release.reason})" if release.reason else ""
        raise PreconditionError(
            f"release {release.id} is {release.state.value}{why}", remedy="roll out a release that is READY"
        )
    return release
