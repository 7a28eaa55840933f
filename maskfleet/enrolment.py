"""How a device joins: the join token, the proof of its key, and the credential that it gets.

- A join token is ``mfj1.<secret>.<fingerprint of the plane's key>``: the device learns from it whom to trust before it
  says anything, and refuses a plane whose key has another fingerprint.
- The proof is an Ed25519 signature by the device's key over :func:`proof_message`; nonce and token are both in it, so
  that it is good for one enrolment only.
- A credential is ``mfd1.<payload>.<signature by the plane>``, both base64url without padding: the plane reads a
  device's id from it without a look into its store.

Example::

    token = JoinToken.new(plane_fingerprint=fingerprint(plane_public_key))
    proof = device_key.sign(proof_message(nonce, str(token)))
    check_proof(device_public_key, nonce, str(token), proof)
    credential = issue_credential(plane_key, device_id(device_public_key))
    assert read_credential(credential, plane_public_key) == device_id(device_public_key)
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import re
import secrets

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from maskfleet.errors import AuthenticationError, InvalidInputError, SignatureError
from maskfleet.ids import fingerprint

_CONTEXT = b"maskfleet/v1/enrol"
_CREDENTIAL_CONTEXT = b"maskfleet/v1/credential"
_JOIN = re.compile(r"mfj1\.([A-Za-z0-9_-]{16,128})\.([0-9a-f]{32})")
_CREDENTIAL = re.compile(r"mfd1\.([A-Za-z0-9_-]{1,512})\.([A-Za-z0-9_-]{86})")
NONCE_BYTES = 32


@dataclasses.dataclass(frozen=True)
class JoinToken:
    """A join token in its parts.

    Attributes:
        secret: what the plane knows it by.
        plane_fingerprint: of the plane's public key.
    """

    secret: str = dataclasses.field(repr=False)
    plane_fingerprint: str

    @classmethod
    def new(cls, *, plane_fingerprint: str) -> JoinToken:
        """A fresh one."""
        return cls(secrets.token_urlsafe(24), plane_fingerprint)

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """What :meth:`__str__` wrote; white space around it is left out.

        Raises:
            InvalidInputError: it is no join token.
        """
        match = _JOIN.fullmatch(text.strip())
        if match is None:
            raise InvalidInputError(
                "this is no join token", remedy="take the whole line that the plane gave, which begins with mfj1."
            )
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"mfj1.{self.secret}.{self.plane_fingerprint}"

    def check_plane(self, public_key: bytes) -> None:
        """Holds a plane's public key against the fingerprint.

        Raises:
            SignatureError: it is another plane's.
        """
        if fingerprint(public_key) != self.plane_fingerprint:
            raise SignatureError(
                f"the plane's key is {fingerprint(public_key)}, the join token is for {self.plane_fingerprint}",
                remedy="check the plane's address, or get a join token from this plane",
            )


def proof_message(nonce: bytes, join_token: str) -> bytes:
    """What a device signs to show that it has its key."""
    return _CONTEXT + nonce + hashlib.sha256(join_token.encode()).digest()


def check_proof(public_key: bytes, nonce: bytes, join_token: str, proof: bytes) -> None:
    """Checks a device's proof.

    Raises:
        AuthenticationError: it does not hold, or the key is none.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(proof, proof_message(nonce, join_token))
    except (InvalidSignature, ValueError):
        raise AuthenticationError(
            "the device's proof of its key does not hold", remedy="ask for a new challenge and sign that"
        ) from None


def issue_credential(plane_key: Ed25519PrivateKey, device: str) -> str:
    """The credential of a device, signed by the plane."""
    payload = json.dumps({"device": device}, separators=(",", ":")).encode()
    return f"mfd1.{_encoded(payload)}.{_encoded(plane_key.sign(_CREDENTIAL_CONTEXT + payload))}"


def read_credential(credential: str, plane_public_key: bytes) -> str:
    """The id of the device that a credential belongs to.

    Raises:
        AuthenticationError: it is no credential, or this plane did not sign it.
    """
    match = _CREDENTIAL.fullmatch(credential)
    try:
        if match is None:
            raise ValueError("not in the form of one")
        payload = _decoded(match[1])
        Ed25519PublicKey.from_public_bytes(plane_public_key).verify(_decoded(match[2]), _CREDENTIAL_CONTEXT + payload)
        device = json.loads(payload)["device"]
        if not isinstance(device, str):
            raise TypeError("device is no text")
    except (InvalidSignature, ValueError, KeyError, TypeError):
        raise AuthenticationError(
            "this is no credential of a device of this plane", remedy="enrol the device again with a join token"
        ) from None
    return device


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(str(error)) from None
