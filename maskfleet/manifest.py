"""What the plane signs: release manifests and device assignments.

Both travel in an :class:`Envelope`: payload bytes, their type, and signatures over both. Rules:

- Nothing is read from a payload before its signature is verified (:meth:`Envelope.opened`).
- The type is signed with the payload, so that one kind never passes for another (pre-authentication encoding after the
  DSSE specification, "DSSEv1", https://github.com/secure-systems-lab/dsse/blob/master/protocol.md).
- A release is named by the SHA-256 of its manifest's payload, not by its signatures.
- An assignment names one device, and its generation never goes back: an old one that is replayed is refused, while a
  rollback is a new assignment to an older release.

Example::

    envelope = Envelope.signed(manifest.to_payload(), MANIFEST_TYPE, [plane_key])
    manifest = Manifest.from_payload(envelope.opened(MANIFEST_TYPE, trusted={fingerprint(pub): pub}))
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from maskfleet.errors import IntegrityError, SignatureError, UnsupportedError
from maskfleet.ids import check_digest, digest_bytes, fingerprint
from maskfleet.policy import MaskPolicy

MANIFEST_TYPE = "application/vnd.maskfleet.release+json;version=1"
ASSIGNMENT_TYPE = "application/vnd.maskfleet.assignment+json;version=1"
MAX_ENVELOPE_BYTES = 1 << 20


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


@dataclasses.dataclass(frozen=True)
class Envelope:
    """A signed payload.

    Attributes:
        payload: the bytes that are signed.
        payload_type: what they are.
        signatures: Ed25519 signatures by :func:`maskfleet.ids.fingerprint` of the key that made them.
    """

    payload: bytes
    payload_type: str
    signatures: Mapping[str, bytes]

    @classmethod
    def signed(cls, payload: bytes, payload_type: str, keys: Sequence[Ed25519PrivateKey]) -> Envelope:
        """Signs a payload with every key."""
        message = _authenticated(payload, payload_type)
        return cls(payload, payload_type, {fingerprint(public_bytes(key)): key.sign(message) for key in keys})

    def opened(self, payload_type: str, trusted: Mapping[str, bytes]) -> bytes:
        """The payload, once a trusted key's signature holds.

        Args:
            payload_type: what it should be.
            trusted: public keys, 32 bytes each, by fingerprint.

        Raises:
            SignatureError: no trusted key signed it, a signature is wrong, or it is something else.
        """
        if self.payload_type != payload_type:
            raise SignatureError(
                f"an envelope holds {self.payload_type!r} where {payload_type!r} is due",
                remedy="the sender is not this fleet's plane, or is of another version",
            )
        message = _authenticated(self.payload, self.payload_type)
        for name, public_key in trusted.items():
            signature = self.signatures.get(name)
            if signature is None:
                continue
            try:
                Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
            except InvalidSignature:
                raise SignatureError(
                    f"the signature by key {name} does not hold: the payload was changed on its way",
                    remedy="fetch it again; if it stays so, somebody between plane and device changes data",
                ) from None
            return self.payload
        raise SignatureError(
            f"no trusted key signed this (signed by {', '.join(self.signatures) or 'nobody'})",
            remedy="enrol the device with the plane that it should belong to",
        )

    def to_bytes(self) -> bytes:
        """JSON for the wire and the disk."""
        return json.dumps(
            {
                "payloadType": self.payload_type,
                "payload": base64.b64encode(self.payload).decode(),
                "signatures": [
                    {"keyid": name, "sig": base64.b64encode(value).decode()} for name, value in self.signatures.items()
                ],
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """What :meth:`to_bytes` wrote; nothing is verified yet.

        Raises:
            IntegrityError: it is no envelope, or too large.
        """
        if len(data) > MAX_ENVELOPE_BYTES:
            raise IntegrityError(f"an envelope has {len(data)} bytes, more than {MAX_ENVELOPE_BYTES}")
        try:
            values = json.loads(data)
            return cls(
                payload=base64.b64decode(values["payload"], validate=True),
                payload_type=str(values["payloadType"]),
                signatures={
                    str(entry["keyid"]): base64.b64decode(entry["sig"], validate=True) for entry in values["signatures"]
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"an envelope cannot be read ({error})", remedy="fetch it again") from None


class VerifiedOn(enum.Enum):
    """What passed the gate on the builder."""

    ENGINE = "engine"
    PREPARED_ONNX = "prepared-onnx"


@dataclasses.dataclass(frozen=True)
class EngineEntry:
    """An engine of a release.

    Attributes:
        target: what it runs on, as ``ort-cpu``.
        digest: its identity.
        size_bytes: its size.
        backend: the runtime, as ``onnxruntime`` or ``tensorrt-rtx``.
        runtime_version: the version that it was built with.
        precision: of the engine: ``fp32``, ``fp16`` or ``int8``, never ``auto``.
        verified_on: ``engine`` where the engine itself passed the gate, ``prepared-onnx`` where only the model that it
            is built from could be run.
    """

    target: str
    digest: str
    size_bytes: int
    backend: str
    runtime_version: str
    precision: str
    verified_on: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """An immutable release.

    Attributes:
        release_id: for people, ``r-`` and a number.
        counter: grows with each release of a plane.
        created: ISO 8601, UTC.
        model_name: in the registry.
        model_version: in the registry.
        model_digest: of the source ONNX file.
        decoder: a name of :data:`maskfleet.decoding.DECODERS`.
        input_width: of the engines, in pixels.
        input_height: of the engines, in pixels.
        policy: complete.
        engines: one a target.
    """

    release_id: str
    counter: int
    created: str
    model_name: str
    model_version: int
    model_digest: str
    decoder: str
    input_width: int
    input_height: int
    policy: MaskPolicy
    engines: tuple[EngineEntry, ...]

    def to_payload(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces."""
        values = dataclasses.asdict(self) | {"policy": self.policy.to_json()}
        return _canonical(values)

    @classmethod
    def from_payload(cls, payload: bytes) -> Manifest:
        """What :meth:`to_payload` wrote.

        Raises:
            IntegrityError: a field is missing or wrong. (Unknown fields are left alone: a newer plane may write them.)
        """
        try:
            values = json.loads(payload)
            engines = tuple(_built(EngineEntry, entry) for entry in values["engines"])
            policy = MaskPolicy.from_json(values["policy"])
            manifest: Manifest = _built(cls, {**values, "engines": engines, "policy": policy})
            for entry in engines:
                check_digest(entry.digest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"a release manifest cannot be read ({error})", remedy="build the release again"
            ) from None
        return manifest

    def engine_for(self, targets: Sequence[str]) -> EngineEntry:
        """The engine for the first of a device's targets, best first, that this release has.

        Raises:
            UnsupportedError: it has none of them.
        """
        by_target = {entry.target: entry for entry in self.engines}
        for target in targets:
            if target in by_target:
                return by_target[target]
        raise UnsupportedError(
            f"release {self.release_id} has engines for {', '.join(by_target)}; "
            f"this device runs {', '.join(targets) or 'none'}",
            remedy=f"make a release with --target {targets[0] if targets else 'ort-cpu'}",
        )


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What the plane wants of one device.

    Attributes:
        device_id: the one device that it is for.
        generation: grows with every assignment to this device.
        release_id: the release it should run.
        release_digest: digest of that release's manifest payload.
    """

    device_id: str
    generation: int
    release_id: str
    release_digest: str

    def to_payload(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces."""
        return _canonical(dataclasses.asdict(self))

    @classmethod
    def from_payload(cls, payload: bytes) -> Assignment:
        """What :meth:`to_payload` wrote.

        Raises:
            IntegrityError: a field is missing or wrong.
        """
        try:
            assignment: Assignment = _built(cls, json.loads(payload))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"an assignment cannot be read ({error})") from None
        return assignment


def release_digest(manifest_payload: bytes) -> str:
    """The name of a release: the digest of its manifest's payload."""
    return digest_bytes(manifest_payload)


def _authenticated(payload: bytes, payload_type: str) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _built(cls: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass from plain values, each checked against the annotation where it is str or int."""
    fields = {}
    for field in dataclasses.fields(cls):
        value = values[field.name]
        kind = {"str": str, "int": int}.get(str(field.type))
        if kind is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise TypeError(f"{field.name} is {value!r}")
        fields[field.name] = value
    return cls(**fields)
