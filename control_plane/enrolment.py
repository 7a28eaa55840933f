"""How devices join: join tokens, challenges, and taking a device in.

- A join token is kept as its SHA-256; it is shown once.
- A challenge is a nonce in memory, good for one enrolment within a minute. After a restart a device asks for another.
- A device that enrols again (the answer was lost, its disk was restored) is the same device, for its id is the hash of
  its key; that costs no use of the token.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import timedelta

from control_plane.domain.device import Device, Facts, JoinToken, check_labels
from control_plane.events import note
from control_plane.signing import Signer
from control_plane.store.port import Reading, Store
from maskfleet import enrolment
from maskfleet.clock import Clock
from maskfleet.errors import AuthenticationError, InvalidInputError
from maskfleet.ids import check_name, device_id
from maskfleet.logs import get_logger

DEFAULT_TTL = timedelta(hours=1)
MAX_TTL = timedelta(days=30)
CHALLENGE_TTL = timedelta(seconds=60)
MAX_CHALLENGES = 10_000


class Enrolment:
    """Takes devices in."""

    def __init__(self, store: Store, signer: Signer, clock: Clock) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._challenges: dict[bytes, float] = {}

    async def create_token(self, ttl: timedelta, max_uses: int, labels: Mapping[str, str]) -> tuple[str, JoinToken]:
        """A join token, and what is kept of it.

        Args:
            ttl: how long it holds; an hour where it is 0.
            max_uses: how many devices may use it; 0 for any number.
            labels: what its devices start with.

        Raises:
            InvalidInputError: it would hold for more than 30 days, or a label is none.
        """
        if not timedelta(0) <= ttl <= MAX_TTL:
            raise InvalidInputError(f"a join token cannot hold for {ttl}", remedy=f"give at most {MAX_TTL.days} days")
        token = str(enrolment.JoinToken.new(plane_fingerprint=self._signer.fingerprint))
        kept = JoinToken(_digest(token), self._clock.now() + (ttl or DEFAULT_TTL), max_uses, 0, check_labels(labels))
        async with self._store.writing() as tx:
            old = [t.digest for t in await tx.select(JoinToken) if t.expires < self._clock.now()]
            await tx.delete(JoinToken, old)
            await tx.put(kept)
        return token, kept

    def create_challenge(self) -> bytes:
        """A nonce for the next enrolment. The oldest are dropped where there are too many."""
        now = self._clock.monotonic()
        while self._challenges and (
            len(self._challenges) >= MAX_CHALLENGES or next(iter(self._challenges.values())) < now
        ):
            del self._challenges[next(iter(self._challenges))]
        nonce = secrets.token_bytes(enrolment.NONCE_BYTES)
        self._challenges[nonce] = now + CHALLENGE_TTL.total_seconds()
        return nonce

    async def enrol(
        self, join_token: str, public_key: bytes, nonce: bytes, proof: bytes, name: str, facts: Facts
    ) -> tuple[Device, str]:
        """Takes a device in.

        Returns:
            The device, and its credential.

        Raises:
            AuthenticationError: challenge, proof or token does not hold.
            InvalidInputError: the name is none.
        """
        until = self._challenges.pop(nonce, None)
        if until is None or until < self._clock.monotonic():
            raise AuthenticationError("the challenge is used up or older than a minute", remedy="ask for a new one")
        enrolment.check_proof(public_key, nonce, join_token, proof)
        identity = device_id(public_key)
        name = check_name("device", name or identity[:10])
        async with self._store.writing() as tx:
            now = self._clock.now()
            token = await tx.get(JoinToken, _digest(join_token.strip()))
            if token is None or token.expires < now:
                raise AuthenticationError("the join token does not hold (any more)", remedy="make another one")
            device = await tx.get(Device, identity)
            if device is None:
                if token.max_uses and token.uses >= token.max_uses:
                    raise AuthenticationError(
                        f"the join token was used {token.uses} times, which is all it allows", remedy="make another one"
                    )
                await tx.put(dataclasses.replace(token, uses=token.uses + 1))
                if await _taken(tx, name):
                    name = f"{name[:52]}-{identity[2:10]}"
                device = Device(identity, name, public_key, token.labels, facts, now, now)
            elif not hmac.compare_digest(device.public_key, public_key):
                raise AuthenticationError("another key has this device's id", remedy="make the device a new key")
            else:
                device = dataclasses.replace(device, facts=facts, last_seen=now)
            await tx.put(device)
            targets = ", ".join(facts.targets) or "no target"
            await note(tx, "device.enrolled", device.id, f"{device.name} enrolled ({targets})", device.id, now=now)
        get_logger(__name__).info("device enrolled", device=device.id, name=device.name, targets=facts.targets)
        return device, enrolment.issue_credential(self._signer.key, device.id)


async def _taken(tx: Reading, name: str) -> bool:
    return await find_by_name(tx, name) is not None


async def find_by_name(look: Reading, name: str) -> Device | None:
    """The device of that name."""
    found = await look.select(Device, {"name": name})
    return found[0] if found else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
