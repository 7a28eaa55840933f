"""RolloutsService."""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from control_plane import evidence
from control_plane.changes import Changes
from control_plane.codec import content
from control_plane.controller import ONE_WAVE, Controller
from control_plane.domain.device import Device
from control_plane.domain.judge import DecisionRecord
from control_plane.domain.judge.explain import explain
from control_plane.domain.rollout import Member, Rollout
from control_plane.domain.selector import Selector
from control_plane.fleet import Fleet
from control_plane.requests import Asked
from control_plane.rollout_codec import decision_message, rollout_message, strategy_from
from control_plane.servicers.paging import number_place, page_size, text_place, token_of
from control_plane.store.port import Reading, Store
from control_plane.store.records import KINDS
from maskfleet.clock import Clock
from maskfleet.v1 import rollouts_service_pb2 as wire
from maskfleet.v1 import rollouts_service_pb2_grpc

WATCH_EVERY_S = 0.1
"""A watcher gets at most this many pictures a second's part: a wave of a thousand devices is no thousand messages."""

LISTED_DEVICES = 100
"""Of each rollout in a list; a rollout that is asked for by itself has all."""


class RolloutsServicer(rollouts_service_pb2_grpc.RolloutsServiceServicer):
    """Rollouts."""

    def __init__(self, controller: Controller, fleet: Fleet, store: Store, changes: Changes, clock: Clock) -> None:
        self._controller = controller
        self._fleet = fleet
        self._store = store
        self._changes = changes
        self._clock = clock

    async def _message(self, rollout_id: str, *, listed: bool = False) -> wire.Rollout:
        rollout, members = await self._controller.get(rollout_id)
        online, now = [self._fleet.online(m.device_id) for m in members], self._clock.now()
        if listed:
            return rollout_message(rollout, members, online, now=now, limit=LISTED_DEVICES)
        async with self._store.reading() as look:
            newest = await look.select(DecisionRecord, {"rollout_id": rollout_id}, descending=True, limit=1)
            series = await evidence.series(look, self._fleet, rollout, members, now)
        decision = newest[0] if newest else None
        return rollout_message(rollout, members, online, now=now, decision=decision, series=series)

    async def CreateRollout(self, request: wire.CreateRolloutRequest, context: Any) -> wire.CreateRolloutResponse:
        strategy = strategy_from(request.strategy) if request.HasField("strategy") else ONE_WAVE
        asked = Asked.of(request.request_id, "CreateRollout", content(request))
        made = await self._controller.create(asked, request.release_id, request.selector, strategy)
        return wire.CreateRolloutResponse(rollout=await self._message(made))

    async def ListRollouts(self, request: wire.ListRolloutsRequest, context: Any) -> wire.ListRolloutsResponse:
        size = page_size(request.page_size)
        async with self._store.reading() as look:
            after = number_place(request.page_token)
            found = await look.select(Rollout, after=after, limit=size + 1, descending=True)
        token = token_of(found[size - 1].number) if len(found) > size else ""
        messages = [await self._message(rollout.id, listed=True) for rollout in found[:size]]
        return wire.ListRolloutsResponse(rollouts=messages, next_page_token=token)

    async def GetRollout(self, request: wire.GetRolloutRequest, context: Any) -> wire.GetRolloutResponse:
        return wire.GetRolloutResponse(rollout=await self._message(request.rollout_id))

    async def WatchRollout(
        self, request: wire.WatchRolloutRequest, context: Any
    ) -> AsyncIterator[wire.WatchRolloutResponse]:
        with self._changes.following(request.rollout_id) as change:
            while True:
                message = await self._message(request.rollout_id)
                yield wire.WatchRolloutResponse(rollout=message)
                if message.HasField("end_time"):
                    return
                await asyncio.sleep(WATCH_EVERY_S)
                await change.wait()

    async def AbortRollout(self, request: wire.AbortRolloutRequest, context: Any) -> wire.AbortRolloutResponse:
        await self._controller.abort(request.rollout_id)
        return wire.AbortRolloutResponse(rollout=await self._message(request.rollout_id))

    async def PauseRollout(self, request: wire.PauseRolloutRequest, context: Any) -> wire.PauseRolloutResponse:
        await self._controller.pause(request.rollout_id)
        return wire.PauseRolloutResponse(rollout=await self._message(request.rollout_id))

    async def ResumeRollout(self, request: wire.ResumeRolloutRequest, context: Any) -> wire.ResumeRolloutResponse:
        await self._controller.go_on(request.rollout_id)
        return wire.ResumeRolloutResponse(rollout=await self._message(request.rollout_id))

    async def PromoteRollout(self, request: wire.PromoteRolloutRequest, context: Any) -> wire.PromoteRolloutResponse:
        await self._controller.promote(request.rollout_id)
        return wire.PromoteRolloutResponse(rollout=await self._message(request.rollout_id))

    async def ListDecisions(self, request: wire.ListDecisionsRequest, context: Any) -> wire.ListDecisionsResponse:
        size = page_size(request.page_size)
        await self._controller.get(request.rollout_id)  # says so where there is none
        async with self._store.reading() as look:
            found = await look.select(
                DecisionRecord,
                {"rollout_id": request.rollout_id},
                after=text_place(request.page_token),
                limit=size + 1,
                descending=True,
            )
        token = token_of(KINDS[DecisionRecord].order(found[size - 1])) if len(found) > size else ""
        return wire.ListDecisionsResponse(decisions=[decision_message(d) for d in found[:size]], next_page_token=token)

    async def ExplainRollout(self, request: wire.ExplainRolloutRequest, context: Any) -> wire.ExplainRolloutResponse:
        rollout, members = await self._controller.get(request.rollout_id)
        async with self._store.reading() as look:
            decisions = await look.select(DecisionRecord, {"rollout_id": request.rollout_id})
            strayed = await _strayed(look, rollout, members) if rollout.active else frozenset()
        offline = {m.device_id for m in members if not self._fleet.there(m.device_id)}
        sentences = explain(rollout, decisions, members, offline=offline, strayed=strayed)
        return wire.ExplainRolloutResponse(rollout=await self._message(request.rollout_id), sentences=sentences)


async def _strayed(look: Reading, rollout: Rollout, members: Sequence[Member]) -> frozenset[str]:
    """Devices of a rollout that its selector would no longer choose: they were relabelled, or changed."""
    if not rollout.selector:
        return frozenset()
    matching = Selector.parse(rollout.selector)
    still = {device.id for device in await look.select(Device) if matching.matches(device.attributes())}
    return frozenset(member.device_id for member in members) - still
