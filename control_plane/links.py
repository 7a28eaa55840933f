"""The open streams of devices, one a device: what waits to be sent down each.

Only the newest desired state and the highest acknowledgement of a boot are worth sending, so a slow device holds one of
each and never a queue.
"""

from __future__ import annotations

import asyncio
import dataclasses

from maskfleet.errors import CanceledError


@dataclasses.dataclass(frozen=True)
class Desired:
    """What is wanted of a device: two signed envelopes.

    Attributes:
        generation: of the assignment.
        assignment: its envelope.
        release_id: what it assigns; empty for nothing but what is committed.
        release_digest: digest of that release's manifest payload.
        manifest: its envelope.
        correlation_id: of the action behind it, for the device's log.
    """

    generation: int
    assignment: bytes
    release_id: str
    release_digest: str
    manifest: bytes
    correlation_id: str = ""


@dataclasses.dataclass(frozen=True)
class Ack:
    """Health windows of a boot up to this one are in the store."""

    boot_id: str
    sequence: int


class Link:
    """A device's stream, seen from the plane."""

    def __init__(self, device_id: str) -> None:
        self.device_id = device_id
        self._ready = asyncio.Event()
        self._desired: Desired | None = None
        self._acks: dict[str, int] = {}
        self._ended = False
        self._error: Exception | None = None

    def want(self, desired: Desired) -> None:
        """Sends desired state; an older one that waits is dropped."""
        if self._desired is None or desired.generation >= self._desired.generation:
            self._desired = desired
            self._ready.set()

    def acknowledge(self, ack: Ack) -> None:
        """Sends an acknowledgement."""
        self._acks[ack.boot_id] = max(ack.sequence, self._acks.get(ack.boot_id, 0))
        self._ready.set()

    def end(self, error: Exception | None = None) -> None:
        """Ends the stream, with an error or in peace."""
        self._ended, self._error = True, error
        self._ready.set()

    async def outgoing(self) -> list[Desired | Ack] | None:
        """What is to be sent, once there is something; None at the end.

        Raises:
            Exception: that the stream was ended with.
        """
        await self._ready.wait()
        self._ready.clear()
        if self._ended:
            if self._error is not None:
                raise self._error
            return None
        acks, self._acks = [Ack(*item) for item in self._acks.items()], {}
        desired, self._desired = self._desired, None
        return [*([desired] if desired is not None else []), *acks]


class Links:
    """The open streams by device."""

    def __init__(self) -> None:
        self._open: dict[str, Link] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, device_id: str) -> bool:
        return device_id in self._open

    def open(self, device_id: str) -> Link:
        """A stream for a device; one that it had before ends."""
        former = self._open.get(device_id)
        if former is not None:
            former.end(CanceledError("another stream of this device took over", remedy="run one agent per device"))
        self._open[device_id] = link = Link(device_id)
        return link

    def close(self, link: Link) -> bool:
        """Takes a stream out; whether it was the device's last one."""
        if self._open.get(link.device_id) is not link:
            return False
        del self._open[link.device_id]
        return True

    def open_devices(self) -> set[str]:
        """Devices whose stream is open."""
        return set(self._open)

    def want(self, device_id: str, desired: Desired) -> None:
        """Sends desired state where the device is there; one that is not gets it when it returns."""
        if device_id in self._open:
            self._open[device_id].want(desired)

    def end_all(self, error: Exception) -> None:
        """Ends every stream."""
        for link in list(self._open.values()):
            link.end(error)
