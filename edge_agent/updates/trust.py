"""From two envelopes to a goal: what is verified before a device acts on what it is told.

Signatures first, by the plane's key that was pinned when the device joined; then device and generation; then that the
manifest is the one that the assignment names. Nothing is read from a payload before its signature holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_agent.updates.reconcile import Goal
from maskfleet.decoding import decoder_spec
from maskfleet.errors import IntegrityError
from maskfleet.manifest import ASSIGNMENT_TYPE, MANIFEST_TYPE, Assignment, Envelope, Manifest, release_digest


def read_assignment(envelope: bytes, trusted: Mapping[str, bytes]) -> Assignment:
    """The assignment in an envelope.

    Raises:
        IntegrityError: it cannot be read, or no trusted key signed it.
    """
    return Assignment.from_payload(Envelope.from_bytes(envelope).opened(ASSIGNMENT_TYPE, trusted))


def read_manifest(envelope: bytes, trusted: Mapping[str, bytes], digest: str) -> Manifest:
    """The manifest in an envelope, if it is the one of that release digest.

    Raises:
        IntegrityError: it cannot be read, no trusted key signed it, or it is another release.
    """
    payload = Envelope.from_bytes(envelope).opened(MANIFEST_TYPE, trusted)
    if release_digest(payload) != digest:
        raise IntegrityError(
            f"the manifest has digest {release_digest(payload)[:19]}, the assignment names {digest[:19]}",
            remedy="assign the release again",
        )
    return Manifest.from_payload(payload)


def goal_of(assignment: Assignment, manifest: Manifest, targets: Sequence[str]) -> Goal:
    """What an assignment comes to on a device that runs these targets, best first.

    Raises:
        UnsupportedError: the release has an engine for none of them.
        InvalidInputError: this version does not know the release's decoder.
    """
    decoder_spec(manifest.decoder)
    entry = manifest.engine_for(targets)
    return Goal(
        generation=assignment.generation,
        release_id=manifest.release_id,
        release_digest=assignment.release_digest,
        target=entry.target,
        engine_digest=entry.digest,
        engine_bytes=entry.size_bytes,
    )
