"""What a builder asks of the plane: leases, heartbeats, files by digest. The compiler's only module that speaks gRPC.

Every call has a deadline and raises errors of the catalogue. Files go both ways from where they stopped.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from edge_agent.updates.codec import facts_message
from edge_agent.updates.messages import Facts
from maskfleet.codec import PRECISIONS, margins_from, precision_number
from maskfleet.errors import CanceledError, FleetError, InvalidInputError
from maskfleet.ids import check_digest
from maskfleet.rpc import channel, status
from maskfleet.v1 import (
    artifacts_service_pb2,
    artifacts_service_pb2_grpc,
    builds_pb2,
    builds_service_pb2,
    builds_service_pb2_grpc,
)
from model_compiler.cache import Built
from model_compiler.spec import BuildSpec

_T = TypeVar("_T")
_CALL_S = 15.0
_CHUNK = 512 << 10
_LOG_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True)
class Lease:
    """Work that this builder has.

    Attributes:
        id: names the lease.
        build_id: the build.
        release_id: the release that it is for.
        model: name and version, for people.
        message: the work as the plane says it; see :meth:`spec`.
        ttl: how long the lease holds without a heartbeat.
        correlation_id: of the action that asked for the release; empty where the plane names none.
    """

    id: str
    build_id: str
    release_id: str
    model: str
    message: builds_pb2.BuildSpec
    ttl: timedelta
    correlation_id: str = ""

    def spec(self) -> BuildSpec:
        """The work.

        Raises:
            InvalidInputError: it is none that this version knows.
        """
        wire = self.message
        precision = PRECISIONS.get(wire.precision or builds_pb2.PRECISION_FP32)
        if precision is None:
            raise InvalidInputError(
                f"precision {wire.precision} is not known here", remedy="install the plane's version on this builder"
            )
        return BuildSpec(
            model_digest=wire.model_digest,
            decoder=wire.decoder,
            target=wire.target,
            precision=precision,
            width=wire.input_width,
            height=wire.input_height,
            # float32 on the wire: 0.35 arrives as 0.3499999940
            min_confidence=round(wire.min_confidence, 6) or BuildSpec.min_confidence,
            nms_iou=round(wire.nms_iou, 6) or BuildSpec.nms_iou,
            margins=margins_from(wire.margins),
            calibration=wire.calibration,
            workspace_mb=wire.workspace_mb,
        )


@dataclasses.dataclass(frozen=True)
class BuilderFacts:
    """What a builder is and can do.

    Attributes:
        builder_id: for people.
        targets: that it can build.
        versions: tools with their versions.
        platform: for people.
        machine: what it is made of.
        calibration_sets: digests by name.
    """

    builder_id: str
    targets: list[str]
    versions: dict[str, str]
    platform: str
    machine: Facts
    calibration_sets: dict[str, str]


class Plane:
    """The plane as a builder sees it.

    Args:
        address: ``host:port``.
        token: the builder's.
    """

    def __init__(self, address: str, token: str) -> None:
        self._peer = f"the plane at {address}"
        self._token = token
        self._channel = channel.connect(address)
        self._builds = builds_service_pb2_grpc.BuildsServiceStub(self._channel)
        self._artifacts = artifacts_service_pb2_grpc.ArtifactsServiceStub(self._channel)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def lease(self, facts: BuilderFacts, *, wait: float, stop: threading.Event) -> Lease | None:
        """Waits for work; None where there is none within ``wait`` seconds, or ``stop`` was set."""
        request = builds_service_pb2.LeaseBuildRequest(
            builder=builds_service_pb2.BuilderFacts(
                builder_id=facts.builder_id,
                targets=facts.targets,
                versions=facts.versions,
                platform=facts.platform,
                machine=facts_message(facts.machine),
                calibration_sets=facts.calibration_sets,
            ),
            wait=_duration(wait),
        )
        call = self._builds.LeaseBuild.future(request, timeout=wait + _CALL_S, metadata=self._metadata())
        done = threading.Event()
        call.add_done_callback(lambda _call: done.set())
        while not done.wait(0.2):
            if stop.is_set():
                call.cancel()
                return None
        response = self._answer(call.result)
        if not response.lease_id:
            return None
        build = response.build
        return Lease(
            id=response.lease_id,
            build_id=build.id,
            release_id=build.release_id,
            model=f"{build.spec.model_name}/{build.spec.model_version}",
            message=build.spec,
            ttl=response.ttl.ToTimedelta(),
            correlation_id=build.correlation_id,
        )

    def heartbeat(self, lease_id: str, phase: str, progress: float) -> bool:
        """Keeps a lease; whether the build is to stop."""
        request = builds_service_pb2.HeartbeatBuildRequest(lease_id=lease_id, phase=phase, progress=progress)
        return bool(self._unary(self._builds.HeartbeatBuild, request).cancel)

    def find_engine(self, lease_id: str, recipe: str, key: str) -> Built | None:
        """The engine that the fleet built before; None where there is none, or the plane cannot say.

        Asking is worth a try and no more: without an answer it is built.
        """
        request = builds_service_pb2.FindEngineRequest(lease_id=lease_id, recipe=recipe, cache_key=key)
        try:
            found = self._unary(self._builds.FindEngine, request)
            if not found.HasField("success"):
                return None
            success = found.success
            report = json.loads(success.report_json)
            if not isinstance(report, dict):
                return None
            return Built(
                key=check_digest(success.cache_key),
                engine=None,
                engine_digest=check_digest(success.engine_digest),
                size_bytes=success.engine_size_bytes,
                report=report,
                cached=True,
                recipe=recipe or success.recipe,
            )
        except (FleetError, ValueError):
            return None

    def succeed(self, lease_id: str, built: Built, report: dict[str, Any], log: str) -> None:
        """Ends a lease with an engine that was uploaded."""
        success = builds_service_pb2.BuildSuccess(
            engine_digest=built.engine_digest,
            engine_size_bytes=built.size_bytes,
            cache_key=built.key,
            report_json=json.dumps(report),
            cached=built.cached,
            recipe=built.recipe,
            precision=precision_number(str(report.get("precision", ""))),
        )
        self._complete(builds_service_pb2.CompleteBuildRequest(lease_id=lease_id, success=success, log_tail=_tail(log)))

    def fail(self, lease_id: str, kind: str, reason: str, log: str, *, retryable: bool) -> None:
        """Ends a lease with a reason."""
        failure = builds_service_pb2.BuildFailure(kind=kind, reason=reason, retryable=retryable)
        self._complete(builds_service_pb2.CompleteBuildRequest(lease_id=lease_id, failure=failure, log_tail=_tail(log)))

    def _complete(self, request: builds_service_pb2.CompleteBuildRequest) -> None:
        self._unary(self._builds.CompleteBuild, request)

    def stat(self, digest: str) -> tuple[bool, int]:
        """Whether an artifact is whole, and how many bytes of it are there."""
        response = self._unary(self._artifacts.StatArtifact, artifacts_service_pb2.StatArtifactRequest(digest=digest))
        return response.complete, response.size_bytes

    def fetch(self, digest: str, offset: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of an artifact from an offset: size of the whole where it is said, and the next bytes."""
        request = artifacts_service_pb2.DownloadArtifactRequest(digest=digest, offset=offset)
        try:
            # No deadline for the whole: keepalive ends a call whose peer is gone.
            for response in self._artifacts.DownloadArtifact(request, metadata=self._metadata()):
                yield response.size_bytes, response.chunk
        except grpc.RpcError as error:
            raise status.from_rpc_error(error, peer=self._peer) from None

    def upload(self, path: Path, digest: str, stop: Callable[[], bool]) -> None:
        """Uploads what is missing of a file.

        Raises:
            CanceledError: ``stop`` said so; what was uploaded stays.
        """
        complete, offset = self.stat(digest)
        if complete:
            return
        size = path.stat().st_size

        def requests() -> Iterator[artifacts_service_pb2.UploadArtifactRequest]:
            header = artifacts_service_pb2.UploadArtifactHeader(digest=digest, size_bytes=size, offset=offset)
            yield artifacts_service_pb2.UploadArtifactRequest(header=header)
            with path.open("rb") as file:
                file.seek(offset)
                while not stop() and (chunk := file.read(_CHUNK)):
                    yield artifacts_service_pb2.UploadArtifactRequest(chunk=chunk)

        try:
            self._artifacts.UploadArtifact(requests(), metadata=self._metadata())
        except grpc.RpcError as error:
            if stop():
                raise CanceledError("the upload was stopped") from None
            raise status.from_rpc_error(error, peer=self._peer) from None
        if stop():
            raise CanceledError("the upload was stopped")

    def _unary(self, method: Callable[..., _T], request: object) -> Any:
        return self._answer(lambda: method(request, timeout=_CALL_S, metadata=self._metadata()))

    def _answer(self, call: Callable[[], _T]) -> Any:
        try:
            return call()
        except grpc.RpcError as error:
            raise status.from_rpc_error(error, peer=self._peer) from None

    def _metadata(self) -> Any:
        return channel.metadata(self._token)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _tail(log: str) -> str:
    return log.encode()[-_LOG_BYTES:].decode(errors="ignore")
