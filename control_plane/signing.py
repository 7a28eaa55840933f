"""What the plane signs, with the one key of its data directory: manifests of releases, assignments of devices."""

from __future__ import annotations

import dataclasses

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.domain.device import Assignment
from maskfleet import manifest as wire
from maskfleet.errors import PreconditionError
from maskfleet.ids import fingerprint
from maskfleet.manifest import ASSIGNMENT_TYPE, MANIFEST_TYPE, Envelope, Manifest, public_bytes


@dataclasses.dataclass(frozen=True)
class Signer:
    """The plane's key."""

    key: Ed25519PrivateKey

    @property
    def public_key(self) -> bytes:
        """32 bytes; what devices pin."""
        return public_bytes(self.key)

    @property
    def fingerprint(self) -> str:
        """What join tokens name."""
        return fingerprint(self.public_key)

    def check_signed(self, envelope: bytes) -> None:
        """Whether this key made an envelope that the store holds.

        Raises:
            PreconditionError: another one did. Devices would refuse everything that this plane says.
        """
        if self.fingerprint not in Envelope.from_bytes(envelope).signatures:
            raise PreconditionError(
                "the releases in the store are signed by another key than plane.key in the data directory",
                remedy="copy plane.key and the token files from the plane that this database belongs to",
            )

    def manifest(self, manifest: Manifest) -> tuple[bytes, str]:
        """A manifest's envelope, and the digest of its payload."""
        payload = manifest.to_payload()
        return Envelope.signed(payload, MANIFEST_TYPE, [self.key]).to_bytes(), wire.release_digest(payload)

    def assignment(self, device_id: str, generation: int, release_id: str, release_digest: str) -> Assignment:
        """What is wanted of a device, signed."""
        payload = wire.Assignment(device_id, generation, release_id, release_digest).to_payload()
        envelope = Envelope.signed(payload, ASSIGNMENT_TYPE, [self.key]).to_bytes()
        return Assignment(device_id, generation, release_id, envelope)
