"""Who this device is: a key that it makes itself, and what the plane gave it for that.

``device.key`` and ``credential.json`` lie in the data directory, mode 0600. The plane's public key is pinned with the
credential: from then on only what that key signed is believed.

Example::

    identity = Identity.opened(data.path)
    if identity.credential is None:
        identity.accept(response.credential, response.plane_public_key, JoinToken.parse(text))
"""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from maskfleet.datadir import write_atomic
from maskfleet.enrolment import JoinToken, read_credential
from maskfleet.errors import AuthenticationError, PreconditionError
from maskfleet.ids import device_id, fingerprint
from maskfleet.keys import load_or_make
from maskfleet.manifest import public_bytes

_PUBLIC_KEY_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Credential:
    """What enrolment gave.

    Attributes:
        token: the bearer credential.
        plane_public_key: 32 bytes, pinned.
    """

    token: str = dataclasses.field(repr=False)
    plane_public_key: bytes


class Identity:
    """A device's key and, once it is enrolled, its credential."""

    def __init__(self, path: Path, key: Ed25519PrivateKey, credential: Credential | None) -> None:
        self._path = path
        self.key = key
        self.credential = credential

    @classmethod
    def opened(cls, path: Path) -> Identity:
        """The identity in a data directory; the key is made where there is none.

        Raises:
            PreconditionError: key or credential cannot be read.
        """
        return cls(path, load_or_make(path / "device.key"), _read(path / "credential.json"))

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return public_bytes(self.key)

    @property
    def device_id(self) -> str:
        """Hash of the public key."""
        return device_id(self.public_key)

    def trusted(self) -> dict[str, bytes]:
        """The plane's key by its fingerprint; empty before enrolment."""
        if self.credential is None:
            return {}
        return {fingerprint(self.credential.plane_public_key): self.credential.plane_public_key}

    def accept(self, token: str, plane_public_key: bytes, join_token: JoinToken) -> Credential:
        """Keeps what enrolment gave.

        Raises:
            SignatureError: it comes from another plane than the join token's.
            AuthenticationError: the credential is none of that plane, or another device's.
        """
        join_token.check_plane(plane_public_key)
        named = read_credential(token, plane_public_key)
        if named != self.device_id:
            raise AuthenticationError(
                f"the plane gave a credential of device {named} to {self.device_id}", remedy="enrol the device again"
            )
        credential = Credential(token, plane_public_key)
        values = {"credential": token, "plane_public_key": base64.b64encode(plane_public_key).decode()}
        write_atomic(self._path / "credential.json", json.dumps(values).encode())
        self.credential = credential
        return credential


def _read(path: Path) -> Credential | None:
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_bytes())
        key = base64.b64decode(values["plane_public_key"], validate=True)
        if len(key) != _PUBLIC_KEY_BYTES:
            raise ValueError("the plane's key is none")
        return Credential(str(values["credential"]), key)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PreconditionError(
            f"{path} cannot be read ({error})", remedy="delete it and enrol the device again with a join token"
        ) from None
