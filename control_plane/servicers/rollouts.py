"""RolloutsService."""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from control_plane.changes import Changes
from control_plane.codec import content, rollout_message
from control_plane.controller import Controller
from control_plane.domain.rollout import Rollout
from control_plane.fleet import Fleet
from control_plane.requests import Asked
from control_plane.servicers.paging import number_place, page_size, token_of
from control_plane.store.port import Store
from maskfleet.errors import UnsupportedError
from maskfleet.v1 import rollouts_service_pb2 as wire
from maskfleet.v1 import rollouts_service_pb2_grpc

WATCH_EVERY_S = 0.1
"""A watcher gets at most this many pictures a second's part: a wave of a thousand devices is no thousand messages."""


class RolloutsServicer(rollouts_service_pb2_grpc.RolloutsServiceServicer):
    """Rollouts."""

    def __init__(self, controller: Controller, fleet: Fleet, store: Store, changes: Changes) -> None:
        self._controller = controller
        self._fleet = fleet
        self._store = store
        self._changes = changes

    async def _message(self, rollout_id: str) -> tuple[Rollout, wire.Rollout]:
        rollout, members = await self._controller.get(rollout_id)
        return rollout, rollout_message(rollout, members, [self._fleet.online(m.device_id) for m in members])

    async def CreateRollout(self, request: wire.CreateRolloutRequest, context: Any) -> wire.CreateRolloutResponse:
        if request.HasField("strategy"):
            raise _later("roll out by a strategy")
        asked = Asked.of(request.request_id, "CreateRollout", content(request))
        made = await self._controller.create(asked, request.release_id, request.selector)
        return wire.CreateRolloutResponse(rollout=(await self._message(made))[1])

    async def ListRollouts(self, request: wire.ListRolloutsRequest, context: Any) -> wire.ListRolloutsResponse:
        size = page_size(request.page_size)
        async with self._store.reading() as look:
            after = number_place(request.page_token)
            found = await look.select(Rollout, after=after, limit=size + 1, descending=True)
        token = token_of(found[size - 1].number) if len(found) > size else ""
        messages = [(await self._message(rollout.id))[1] for rollout in found[:size]]
        return wire.ListRolloutsResponse(rollouts=messages, next_page_token=token)

    async def GetRollout(self, request: wire.GetRolloutRequest, context: Any) -> wire.GetRolloutResponse:
        return wire.GetRolloutResponse(rollout=(await self._message(request.rollout_id))[1])

    async def WatchRollout(
        self, request: wire.WatchRolloutRequest, context: Any
    ) -> AsyncIterator[wire.WatchRolloutResponse]:
        with self._changes.following(request.rollout_id) as change:
            while True:
                rollout, message = await self._message(request.rollout_id)
                yield wire.WatchRolloutResponse(rollout=message)
                if not rollout.active:
                    return
                await asyncio.sleep(WATCH_EVERY_S)
                await change.wait()

    async def AbortRollout(self, request: wire.AbortRolloutRequest, context: Any) -> wire.AbortRolloutResponse:
        await self._controller.abort(request.rollout_id)
        return wire.AbortRolloutResponse(rollout=(await self._message(request.rollout_id))[1])

    async def PauseRollout(self, request: wire.PauseRolloutRequest, context: Any) -> wire.PauseRolloutResponse:
        raise _later("pause a rollout")

    async def ResumeRollout(self, request: wire.ResumeRolloutRequest, context: Any) -> wire.ResumeRolloutResponse:
        raise _later("resume a rollout")

    async def PromoteRollout(self, request: wire.PromoteRolloutRequest, context: Any) -> wire.PromoteRolloutResponse:
        raise _later("promote a rollout")

    async def ListDecisions(self, request: wire.ListDecisionsRequest, context: Any) -> wire.ListDecisionsResponse:
        raise _later("list decisions")

    async def ExplainRollout(self, request: wire.ExplainRolloutRequest, context: Any) -> wire.ExplainRolloutResponse:
        raise _later("explain a rollout")


def _later(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"this plane cannot {what} yet: its rollouts have one wave and no judge",
        remedy="see fleet rollouts show, and fleet rollouts abort to stop it",
    )
