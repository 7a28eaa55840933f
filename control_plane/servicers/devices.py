"""DevicesService."""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from control_plane.auth import caller
from control_plane.codec import device_message, facts_from, report_from, span, timestamp, to_device, window_from
from control_plane.domain.device import Assignment, Device
from control_plane.domain.health import StoredWindow, Window
from control_plane.domain.judge.figures import in_a_line
from control_plane.domain.release import Release
from control_plane.driving import Seat
from control_plane.enrolment import Enrolment
from control_plane.fleet import Fleet
from control_plane.links import Link
from control_plane.servicers.paging import page_size, text_place, token_of
from control_plane.signing import Signer
from control_plane.store.port import Store
from maskfleet import protocol
from maskfleet.errors import DeadlineError, InvalidInputError
from maskfleet.v1 import devices_pb2, devices_service_pb2_grpc
from maskfleet.v1 import devices_service_pb2 as wire

REPORT_INTERVAL_S = 10
HELLO_S = 10.0
TAKING = 32  # health windows of a device on their way into the store
FEATURES = ("health-windows",)


class DevicesServicer(devices_service_pb2_grpc.DevicesServiceServicer):
    """Devices: joining, their streams, and what operators ask about them."""

    def __init__(self, enrolment: Enrolment, fleet: Fleet, seat: Seat, signer: Signer, store: Store) -> None:
        self._enrolment = enrolment
        self._fleet = fleet
        self._seat = seat
        self._signer = signer
        self._store = store

    async def CreateJoinToken(self, request: wire.CreateJoinTokenRequest, context: Any) -> wire.CreateJoinTokenResponse:
        token, kept = await self._enrolment.create_token(span(request.ttl), request.max_uses, dict(request.labels))
        return wire.CreateJoinTokenResponse(token=token, expire_time=timestamp(kept.expires))

    async def CreateChallenge(self, request: wire.CreateChallengeRequest, context: Any) -> wire.CreateChallengeResponse:
        return wire.CreateChallengeResponse(nonce=self._enrolment.create_challenge())

    async def Enrol(self, request: wire.EnrolRequest, context: Any) -> wire.EnrolResponse:
        device, credential = await self._enrolment.enrol(
            request.join_token,
            request.public_key,
            request.nonce,
            request.proof,
            request.name,
            facts_from(request.facts),
        )
        return wire.EnrolResponse(device_id=device.id, credential=credential, plane_public_key=self._signer.public_key)

    async def Connect(
        self, request_iterator: AsyncIterator[wire.ConnectRequest], context: Any
    ) -> AsyncIterator[wire.ConnectResponse]:
        device_id = caller().id
        hello = await _hello(request_iterator)
        protocol.check_peer(hello.protocol_version, peer="the device")
        report = report_from(hello.report)
        link = await self._fleet.join(device_id, facts_from(hello.facts), report)
        reader: asyncio.Task[None] | None = None
        try:
            yield wire.ConnectResponse(
                welcome=devices_pb2.Welcome(
                    plane_version=version("maskfleet"),
                    protocol_version=protocol.VERSION,
                    features=FEATURES,
                    report_interval_s=REPORT_INTERVAL_S,
                )
            )
            desired = await self._seat.connected(device_id, report)
            if desired is not None:
                link.want(desired)
            reader = asyncio.create_task(self._read(link, request_iterator))
            while (items := await link.outgoing()) is not None:
                for item in items:
                    yield to_device(item)
        finally:
            self._fleet.leave(link)
            if reader is not None:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, link: Link, requests: AsyncIterator[wire.ConnectRequest]) -> None:
        """Takes in what a device says, until it says no more; ends the stream then.

        Several health windows are on their way into the store at a time, so that a device that was away for long hands
        its windows over in a few transactions.
        """
        taking: set[asyncio.Task[None]] = set()
        try:
            async for request in requests:
                match request.WhichOneof("kind"):
                    case "report":
                        report = report_from(request.report)
                        if await self._fleet.reported(link.device_id, report):
                            await self._seat.reported(link.device_id, report)
                    case "health":
                        while len(taking) >= TAKING:
                            await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
                        task = asyncio.create_task(self._take(link, window_from(request.health)))
                        taking.add(task)
                        task.add_done_callback(taking.discard)
                    case "hello":
                        raise InvalidInputError("a device says Hello once", remedy="open another stream")
                    case _:
                        pass  # of a newer version
            if taking:
                await asyncio.wait(taking)
            link.end()
        except Exception as error:  # noqa: BLE001  # whatever it is, the stream must end with it and not hang
            link.end(error)
        finally:
            for task in taking:
                task.cancel()

    async def _take(self, link: Link, window: Window) -> None:
        try:
            link.acknowledge(await self._fleet.health(link.device_id, window))
        except Exception as error:  # noqa: BLE001  # as above
            link.end(error)

    async def ListDevices(self, request: wire.ListDevicesRequest, context: Any) -> wire.ListDevicesResponse:
        size = page_size(request.page_size)
        found = await self._fleet.select(request.selector, after=text_place(request.page_token), limit=size + 1)
        token = token_of(found[size - 1].name) if len(found) > size else ""
        return wire.ListDevicesResponse(
            devices=[await self._message(device) for device in found[:size]], next_page_token=token
        )

    async def GetDevice(self, request: wire.GetDeviceRequest, context: Any) -> wire.GetDeviceResponse:
        return wire.GetDeviceResponse(device=await self._message(await self._fleet.find(request.device)))

    async def LabelDevice(self, request: wire.LabelDeviceRequest, context: Any) -> wire.LabelDeviceResponse:
        device = await self._fleet.relabel(request.device, dict(request.set), tuple(request.remove))
        return wire.LabelDeviceResponse(device=await self._message(device))

    async def _message(self, device: Device) -> devices_pb2.Device:
        async with self._store.reading() as look:
            assignment = await look.get(Assignment, device.id)
            release = await look.get(Release, assignment.release_id) if assignment and assignment.release_id else None
            windows = await look.select(StoredWindow, {"device_id": device.id}, descending=True, limit=1)
        return device_message(
            device,
            online=self._fleet.online(device.id),
            assignment=assignment,
            digest=release.manifest_digest if release else "",
            health=in_a_line(windows[0]) if windows else "",
        )


async def _hello(requests: AsyncIterator[wire.ConnectRequest]) -> devices_pb2.Hello:
    try:
        first = await asyncio.wait_for(anext(aiter(requests), None), HELLO_S)
    except TimeoutError:
        raise DeadlineError(f"no Hello came within {HELLO_S:.0f} s", remedy="connect again") from None
    if first is None or first.WhichOneof("kind") != "hello":
        raise InvalidInputError("a device's stream begins with Hello", remedy="send Hello first")
    return first.hello
