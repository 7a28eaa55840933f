"""The agent's end of the connection to its plane: downloads from a peer that falls silent."""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from edge_agent.updates import plane_link
from edge_agent.updates.plane_link import PlaneLink
from maskfleet.clock import SystemClock
from maskfleet.errors import UnavailableError
from maskfleet.rpc.server import bind, make_server
from maskfleet.v1 import artifacts_service_pb2, artifacts_service_pb2_grpc


class Silent(artifacts_service_pb2_grpc.ArtifactsServiceServicer):
    """Sends one piece, and then nothing or empty pieces until the caller is gone."""

    def __init__(self, *, empty: bool) -> None:
        self._empty = empty

    def DownloadArtifact(  # noqa: N802  # gRPC's name
        self, request: artifacts_service_pb2.DownloadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[artifacts_service_pb2.DownloadArtifactResponse]:
        gone = threading.Event()
        context.add_callback(gone.set)
        yield artifacts_service_pb2.DownloadArtifactResponse(size_bytes=10, chunk=b"abc")
        while not gone.wait(0.02):
            if self._empty:
                yield artifacts_service_pb2.DownloadArtifactResponse()


@pytest.mark.parametrize("empty", [False, True], ids=["nothing", "empty pieces"])
def test_a_download_that_brings_nothing_is_ended(monkeypatch: pytest.MonkeyPatch, empty: bool) -> None:
    monkeypatch.setattr(plane_link, "SILENT_S", 0.3)
    server = make_server(workers=2, max_message_bytes=1 << 20)
    artifacts_service_pb2_grpc.add_ArtifactsServiceServicer_to_server(Silent(empty=empty), server)
    address = bind(server, "127.0.0.1:0")
    server.start()
    anything: Any = types.SimpleNamespace(credential=None)  # it is never asked to talk
    link = PlaneLink(address, anything, anything, anything, anything, join_token=None, name="", clock=SystemClock())
    pieces: list[bytes] = []
    with pytest.raises(UnavailableError, match="sent nothing of an engine"):
        pieces.extend(piece for _size, piece in link.fetch("sha256:" + "0" * 64, 0))
    assert b"".join(pieces) == b"abc"
    server.stop(None).wait()
