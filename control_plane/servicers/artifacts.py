"""ArtifactsService."""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from control_plane.artifacts import Artifacts
from maskfleet.errors import InvalidInputError
from maskfleet.v1 import artifacts_service_pb2 as wire
from maskfleet.v1 import artifacts_service_pb2_grpc


class ArtifactsServicer(artifacts_service_pb2_grpc.ArtifactsServiceServicer):
    """Files by digest."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def StatArtifact(self, request: wire.StatArtifactRequest, context: Any) -> wire.StatArtifactResponse:
        size = await self._artifacts.whole(request.digest)
        if size is not None:
            return wire.StatArtifactResponse(complete=True, size_bytes=size)
        return wire.StatArtifactResponse(size_bytes=self._artifacts.received(request.digest))

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[wire.UploadArtifactRequest], context: Any
    ) -> wire.UploadArtifactResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("kind") != "header":
            raise InvalidInputError("an upload begins with its header", remedy="send header first, then chunks")

        async def chunks() -> AsyncIterator[bytes]:
            async for message in request_iterator:
                if message.WhichOneof("kind") != "chunk":
                    raise InvalidInputError("a chunk is due", remedy="send header first, then chunks")
                yield message.chunk

        header = first.header
        size = await self._artifacts.receive(header.digest, header.size_bytes, header.offset, chunks())
        return wire.UploadArtifactResponse(digest=header.digest, size_bytes=size)

    async def DownloadArtifact(
        self, request: wire.DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[wire.DownloadArtifactResponse]:
        size = self._artifacts.path(request.digest).stat().st_size
        sent = False
        async for chunk in self._artifacts.chunks(request.digest, offset=request.offset):
            yield wire.DownloadArtifactResponse(size_bytes=0 if sent else size, chunk=chunk)
            sent = True
        if not sent:
            yield wire.DownloadArtifactResponse(size_bytes=size)
