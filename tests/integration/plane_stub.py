"""A plane that does what a test tells it: real gRPC, real signatures, one device's worth of memory.

It can hold a download back after so many bytes, so that a test may kill an agent right there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from maskfleet.enrolment import NONCE_BYTES, JoinToken, check_proof, issue_credential, read_credential
from maskfleet.errors import AuthenticationError, NotFoundError
from maskfleet.ids import device_id, digest_bytes, fingerprint
from maskfleet.manifest import (
    ASSIGNMENT_TYPE,
    MANIFEST_TYPE,
    Assignment,
    EngineEntry,
    Envelope,
    Manifest,
    public_bytes,
    release_digest,
)
from maskfleet.policy import MaskPolicy
from maskfleet.protocol import VERSION
from maskfleet.rpc.channel import MAX_CONTROL_BYTES
from maskfleet.rpc.server import bind, make_server
from maskfleet.v1 import (
    artifacts_service_pb2,
    artifacts_service_pb2_grpc,
    devices_pb2,
    devices_service_pb2,
    devices_service_pb2_grpc,
)

PIECE = 64 << 10


class PlaneStub(devices_service_pb2_grpc.DevicesServiceServicer, artifacts_service_pb2_grpc.ArtifactsServiceServicer):
    """The plane. ``key`` signs; another one makes a stranger of it."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(b"p" * 32)
        self.join_token = JoinToken("s" * 32, fingerprint(public_bytes(self.key)))
        self.artifacts: dict[str, bytes] = {}
        self.hold_after: int | None = None
        self.offsets: list[int] = []
        self.hellos: list[devices_pb2.Hello] = []
        self.reports: list[devices_pb2.StateReport] = []
        self.windows: list[devices_pb2.HealthWindow] = []
        self.enrolled: list[str] = []
        self._changed = threading.Condition()
        self._desired: devices_pb2.DesiredState | None = None
        self._version = 0
        self._open = True
        self._server = make_server(workers=12, max_message_bytes=MAX_CONTROL_BYTES)
        devices_service_pb2_grpc.add_DevicesServiceServicer_to_server(self, self._server)
        artifacts_service_pb2_grpc.add_ArtifactsServiceServicer_to_server(self, self._server)
        self.address = bind(self._server, address)
        self._server.start()

    def close(self) -> None:
        with self._changed:
            self._open = False
            self.hold_after = None
            self._changed.notify_all()
        self._server.stop(0.2).wait(5)

    # What a test does.

    def manifest(
        self, release: str, engine: bytes, *, policy: MaskPolicy | None = None, promised: bytes | None = None
    ) -> bytes:
        """A release's manifest; its engine is put into the store, under the digest of ``promised`` where given."""
        digest = digest_bytes(engine if promised is None else promised)
        self.artifacts[digest] = engine
        entry = EngineEntry("ort-cpu", digest, len(engine), "onnxruntime", "1", "fp32", "engine")
        return Manifest(
            release, 1, "", "centerface", 1, "", "centerface", 320, 256, policy or MaskPolicy(), (entry,)
        ).to_payload()

    def assign(
        self, device: str, generation: int, release: str, manifest: bytes, *, key: Ed25519PrivateKey | None = None
    ) -> None:
        """Wants a release of the device."""
        keys = [key or self.key]
        assignment = Assignment(device, generation, release, release_digest(manifest))
        desired = devices_pb2.DesiredState(
            generation=generation,
            assignment=Envelope.signed(assignment.to_payload(), ASSIGNMENT_TYPE, keys).to_bytes(),
            manifest=Envelope.signed(manifest, MANIFEST_TYPE, keys).to_bytes(),
        )
        with self._changed:
            self._desired, self._version = desired, self._version + 1
            self._changed.notify_all()

    def release_hold(self) -> None:
        with self._changed:
            self.hold_after = None
            self._changed.notify_all()

    def wait(self, holds: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """What ``holds`` gives, once it is true."""
        with self._changed:
            assert self._changed.wait_for(holds, timeout_s), f"never; last report: {self.reports[-1:]}"
            return holds()

    def wait_report(self, generation: int, state: int) -> devices_pb2.ReportedComponent:
        """The engine's report, once the device says that a generation is in a state."""

        def found() -> devices_pb2.ReportedComponent | None:
            report = self.reports[-1] if self.reports else None
            if report is not None and report.generation == generation and report.components[0].state == state:
                return report.components[0]
            return None

        component: devices_pb2.ReportedComponent = self.wait(found)
        return component

    # What a device asks.

    def CreateChallenge(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        return devices_service_pb2.CreateChallengeResponse(nonce=b"n" * NONCE_BYTES)

    def Enrol(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        if request.join_token != str(self.join_token):
            raise AuthenticationError("this join token is not known", remedy="get a new one")
        check_proof(request.public_key, request.nonce, request.join_token, request.proof)
        device = device_id(request.public_key)
        self.enrolled.append(device)
        return devices_service_pb2.EnrolResponse(
            device_id=device,
            credential=issue_credential(self.key, device),
            plane_public_key=public_bytes(self.key),
        )

    def _principal(self, context: Any) -> str:
        said = dict(context.invocation_metadata()).get("authorization", "")
        return read_credential(said.removeprefix("Bearer "), public_bytes(self.key))

    def Connect(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802  # gRPC's name
        self._principal(context)
        hello = next(request_iterator).hello
        alive, acks = [True], list[devices_pb2.HealthAck]()

        def listen() -> None:
            try:
                for message in request_iterator:
                    with self._changed:
                        if message.HasField("report"):
                            self.reports.append(message.report)
                        elif message.HasField("health"):
                            self.windows.append(message.health)
                            acks.append(
                                devices_pb2.HealthAck(boot_id=message.health.boot_id, sequence=message.health.sequence)
                            )
                        self._changed.notify_all()
            except Exception:  # noqa: BLE001, S110  # the device is gone
                pass
            with self._changed:
                alive[0] = False
                self._changed.notify_all()

        with self._changed:
            self.hellos.append(hello)
            self._changed.notify_all()
        threading.Thread(target=listen, daemon=True).start()
        yield devices_service_pb2.ConnectResponse(
            welcome=devices_pb2.Welcome(plane_version="0", protocol_version=VERSION, report_interval_s=5)
        )
        sent = [0]
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._version > sent[0] or acks or not alive[0] or not self._open, timeout=30
                )
                if not alive[0] or not self._open:
                    return
                desired = self._desired if self._version > sent[0] else None
                sent[0], due, acks[:] = self._version, list(acks), []
            if desired is not None:
                yield devices_service_pb2.ConnectResponse(desired=desired)
            for ack in due:
                yield devices_service_pb2.ConnectResponse(health_ack=ack)

    def DownloadArtifact(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802  # gRPC's name
        self._principal(context)
        data = self.artifacts.get(request.digest)
        if data is None:
            raise NotFoundError(f"there is no artifact {request.digest[:19]}")
        self.offsets.append(request.offset)
        for at in range(request.offset, len(data), PIECE):
            with self._changed:
                if self.hold_after is not None and at >= self.hold_after:
                    self._changed.wait_for(lambda: self.hold_after is None or not self._open, timeout=60)
            yield artifacts_service_pb2.DownloadArtifactResponse(
                size_bytes=len(data) if at == request.offset else 0, chunk=data[at : at + PIECE]
            )
