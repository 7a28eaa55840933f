"""EventsService."""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from control_plane.codec import event_message
from control_plane.events import Events
from control_plane.servicers.paging import number_place, page_size, token_of
from maskfleet.v1 import events_service_pb2 as wire
from maskfleet.v1 import events_service_pb2_grpc


class EventsServicer(events_service_pb2_grpc.EventsServiceServicer):
    """What happens in the fleet."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def ListEvents(self, request: wire.ListEventsRequest, context: Any) -> wire.ListEventsResponse:
        size = page_size(request.page_size)
        before = number_place(request.page_token)
        found = await self._events.newest(request.subject, before=before, limit=size + 1)
        token = token_of(found[size - 1].number) if len(found) > size else ""
        return wire.ListEventsResponse(events=[event_message(e) for e in found[:size]], next_page_token=token)

    async def WatchEvents(
        self, request: wire.WatchEventsRequest, context: Any
    ) -> AsyncIterator[wire.WatchEventsResponse]:
        async for event in self._events.follow(request.subject, request.after):
            yield wire.WatchEventsResponse(event=event_message(event))
