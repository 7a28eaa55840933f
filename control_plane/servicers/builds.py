"""BuildsService."""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from control_plane.build_results import Failure, Success
from control_plane.builds import BuildQueue
from control_plane.codec import build_message, builder_from, precision_from, span, success_message
from maskfleet.errors import InvalidInputError
from maskfleet.v1 import builds_service_pb2 as wire
from maskfleet.v1 import builds_service_pb2_grpc


class BuildsServicer(builds_service_pb2_grpc.BuildsServiceServicer):
    """Work for builders."""

    def __init__(self, queue: BuildQueue) -> None:
        self._queue = queue

    async def LeaseBuild(self, request: wire.LeaseBuildRequest, context: Any) -> wire.LeaseBuildResponse:
        found = await self._queue.lease(builder_from(request.builder), span(request.wait))
        if found is None:
            return wire.LeaseBuildResponse()
        release, build = found
        ttl = Duration()
        ttl.FromTimedelta(self._queue.lease_ttl)
        return wire.LeaseBuildResponse(lease_id=build.lease_id, build=build_message(release, build), ttl=ttl)

    async def HeartbeatBuild(self, request: wire.HeartbeatBuildRequest, context: Any) -> wire.HeartbeatBuildResponse:
        cancel = await self._queue.heartbeat(request.lease_id, request.phase, request.progress)
        return wire.HeartbeatBuildResponse(cancel=cancel)

    async def FindEngine(self, request: wire.FindEngineRequest, context: Any) -> wire.FindEngineResponse:
        build = await self._queue.find_engine(request.lease_id, request.recipe, request.cache_key)
        return wire.FindEngineResponse(success=success_message(build) if build is not None else None)

    async def CompleteBuild(self, request: wire.CompleteBuildRequest, context: Any) -> wire.CompleteBuildResponse:
        match request.WhichOneof("result"):
            case "success":
                s = request.success
                result: Success | Failure = Success(
                    s.engine_digest, s.engine_size_bytes, s.cache_key, s.report_json, s.cached, s.recipe,
                    precision=precision_from(s.precision) if s.precision else "",
                )  # fmt: skip
            case "failure":
                f = request.failure
                result = Failure(f.kind, f.reason, f.retryable)
            case _:
                raise InvalidInputError("the lease ends with neither success nor failure", remedy="say which")
        await self._queue.complete(request.lease_id, result, request.log_tail)
        return wire.CompleteBuildResponse()
