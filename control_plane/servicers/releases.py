"""ReleasesService."""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from control_plane.builds import BuildQueue
from control_plane.changes import Changes
from control_plane.codec import content, precision_from, release_message
from control_plane.domain.release import Build, Release, ReleaseState
from control_plane.release_making import NewRelease
from control_plane.requests import Asked
from control_plane.servicers.paging import number_place, page_size, token_of
from control_plane.store.port import Store
from maskfleet.codec import margins_from, policy_changes
from maskfleet.v1 import releases_service_pb2 as wire
from maskfleet.v1 import releases_service_pb2_grpc


class ReleasesServicer(releases_service_pb2_grpc.ReleasesServiceServicer):
    """Releases."""

    def __init__(self, queue: BuildQueue, store: Store, changes: Changes) -> None:
        self._queue = queue
        self._store = store
        self._changes = changes

    async def CreateRelease(self, request: wire.CreateReleaseRequest, context: Any) -> wire.CreateReleaseResponse:
        wanted = NewRelease(
            model=request.model,
            policy_changes=policy_changes(request.policy),
            targets=tuple(request.targets),
            precision=precision_from(request.precision),
            input_width=request.input_width,
            input_height=request.input_height,
            margins=margins_from(request.margins),
            calibration=request.calibration,
            workspace_mb=request.workspace_mb,
        )
        asked = Asked.of(request.request_id, "CreateRelease", content(request))
        return wire.CreateReleaseResponse(release=release_message(await self._queue.create(asked, wanted)))

    async def ListReleases(self, request: wire.ListReleasesRequest, context: Any) -> wire.ListReleasesResponse:
        size = page_size(request.page_size)
        async with self._store.reading() as look:
            after = number_place(request.page_token)
            found = await look.select(Release, after=after, limit=size + 1, descending=True)
            shown = [
                await self._queue.shown(look, r, await look.select(Build, {"release_id": r.id})) for r in found[:size]
            ]
        token = token_of(found[size - 1].counter) if len(found) > size else ""
        return wire.ListReleasesResponse(
            releases=[release_message(one, whole=False) for one in shown], next_page_token=token
        )

    async def GetRelease(self, request: wire.GetReleaseRequest, context: Any) -> wire.GetReleaseResponse:
        return wire.GetReleaseResponse(release=release_message(await self._queue.get(request.release_id)))

    async def WatchRelease(
        self, request: wire.WatchReleaseRequest, context: Any
    ) -> AsyncIterator[wire.WatchReleaseResponse]:
        with self._changes.following(request.release_id) as change:
            while True:
                shown = await self._queue.get(request.release_id)
                yield wire.WatchReleaseResponse(release=release_message(shown))
                if shown.release.state is not ReleaseState.BUILDING:
                    return
                await change.wait()

    async def CancelRelease(self, request: wire.CancelReleaseRequest, context: Any) -> wire.CancelReleaseResponse:
        return wire.CancelReleaseResponse(release=release_message(await self._queue.cancel(request.release_id)))
