"""The plane over real gRPC on loopback: what operators, builders and devices see, and a plane that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.duration_pb2 import Duration
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

from control_plane.auth import ROLES
from control_plane.config import Config
from control_plane.domain.release import Model, Tensor
from control_plane.plane import SERVICES, Plane
from control_plane.registry import Registry
from control_plane.store.sql import SqlStore, sqlite_url
from control_plane.telemetry import Metrics
from maskfleet import enrolment, errors, manifest
from maskfleet.clock import FakeClock, SystemClock
from maskfleet.errors import FleetError
from maskfleet.ids import digest_bytes, fingerprint
from maskfleet.protocol import VERSION
from maskfleet.rpc.channel import connect_aio, metadata
from maskfleet.rpc.status import from_rpc_error
from maskfleet.targets import target
from maskfleet.v1 import (
    artifacts_service_pb2,
    artifacts_service_pb2_grpc,
    builds_pb2,
    builds_service_pb2,
    builds_service_pb2_grpc,
    devices_pb2,
    devices_service_pb2,
    devices_service_pb2_grpc,
    events_service_pb2,
    events_service_pb2_grpc,
    models_service_pb2,
    models_service_pb2_grpc,
    policy_pb2,
    releases_service_pb2,
    releases_service_pb2_grpc,
    rollouts_service_pb2,
    rollouts_service_pb2_grpc,
)

WAIT_S = 20
MODEL = b"a model's bytes"
STATE = devices_pb2


async def eventually(stream: Any, wanted: Any) -> Any:
    """The first message of a stream for which something holds."""

    async def look() -> Any:
        async for message in stream:
            if wanted(message):
                return message
        raise AssertionError("the stream ended first")

    return await asyncio.wait_for(look(), WAIT_S)


async def refused(call: Any) -> FleetError:
    """The error that a call ends with, as a client sees it."""
    answer = call.read() if hasattr(call, "read") else call
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    if hasattr(call, "cancel"):
        call.cancel()  # the client's half of a stream is still open, and its task would wait for ever
    return from_rpc_error(caught.value)


class Client:
    """Every service of a plane, with one credential."""

    def __init__(self, address: str, token: str = "") -> None:
        self.channel = connect_aio(address)
        self.said = metadata(token)
        self.artifacts = artifacts_service_pb2_grpc.ArtifactsServiceStub(self.channel)
        self.builds = builds_service_pb2_grpc.BuildsServiceStub(self.channel)
        self.devices = devices_service_pb2_grpc.DevicesServiceStub(self.channel)
        self.events = events_service_pb2_grpc.EventsServiceStub(self.channel)
        self.models = models_service_pb2_grpc.ModelsServiceStub(self.channel)
        self.releases = releases_service_pb2_grpc.ReleasesServiceStub(self.channel)
        self.rollouts = rollouts_service_pb2_grpc.RolloutsServiceStub(self.channel)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def call(self, method: Any, request: Any) -> Any:
        return method(request, timeout=WAIT_S, metadata=self.said)

    async def upload(self, data: bytes, *, digest: str = "", offset: int = 0, size: int = 0) -> Any:
        header = artifacts_service_pb2.UploadArtifactHeader(
            digest=digest or digest_bytes(data), size_bytes=size or len(data), offset=offset
        )
        requests = [artifacts_service_pb2.UploadArtifactRequest(header=header)]
        requests += [
            artifacts_service_pb2.UploadArtifactRequest(chunk=data[i : i + 4096])
            for i in range(offset, len(data), 4096)
        ]
        return await self.artifacts.UploadArtifact(iter(requests), timeout=WAIT_S, metadata=self.said)

    async def lease(
        self, *targets: str, builder_id: str = "host/1", **facts: Any
    ) -> builds_service_pb2.LeaseBuildResponse:
        """Asks for work, as a builder does."""
        builder = builds_service_pb2.BuilderFacts(builder_id=builder_id, targets=targets or ["ort-cpu"], **facts)
        wait = Duration(seconds=10)
        answer = await self.call(
            self.builds.LeaseBuild, builds_service_pb2.LeaseBuildRequest(builder=builder, wait=wait)
        )
        assert answer.lease_id
        return answer

    async def complete(self, lease_id: str, **result: Any) -> None:
        """Ends a lease."""
        request = builds_service_pb2.CompleteBuildRequest(lease_id=lease_id, **result)
        await self.call(self.builds.CompleteBuild, request)

    async def build(self, *targets: str, engine: bytes = b"an engine", **said: Any) -> builds_pb2.Build:
        """Leases a build and completes it, as a builder does."""
        leased = await self.lease(*targets)
        made = engine_of(leased.build, engine)
        await self.upload(made)
        await self.complete(leased.lease_id, success=success_of(leased.build, made, **said))
        return leased.build


def engine_of(build: builds_pb2.Build, content: bytes = b"an engine") -> bytes:
    """What passes for an engine of a build's target."""
    body = content + build.spec.target.encode()
    if not build.spec.target.startswith("rtx"):
        return body
    return b"vtrt" + bytes(12) + (64 + len(body)).to_bytes(8, "little") + bytes(40) + body


def success_of(build: builds_pb2.Build, engine: bytes, /, **said: Any) -> builds_service_pb2.BuildSuccess:
    """What a builder says of an engine: the report's parts as they are given, the others as they should be."""
    entry = target(build.spec.target)
    fields = {name: said.pop(name) for name in ("recipe", "cache_key", "cached", "precision") if name in said}
    report = {"backend": entry.backend, "runtime_version": f"{entry.version}0", "verified_on": "engine"} | said
    return builds_service_pb2.BuildSuccess(
        engine_digest=digest_bytes(engine), engine_size_bytes=len(engine), report_json=json.dumps(report), **fields
    )


class TestDevice:
    """A device that speaks Connect, with its answers given by the test."""

    __test__ = False

    def __init__(self, address: str, name: str) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.address = address
        self.name = name
        self.id = ""
        self.credential = ""
        self.trusted: dict[str, bytes] = {}
        self.report = STATE.StateReport()
        self._client: Client | None = None
        self._stream: Any = None

    async def enrol(self, token: str, targets: tuple[str, ...] = ("ort-cpu",)) -> TestDevice:
        async with Client(self.address) as client:
            challenge = await client.call(client.devices.CreateChallenge, devices_service_pb2.CreateChallengeRequest())
            answer = await client.call(
                client.devices.Enrol,
                devices_service_pb2.EnrolRequest(
                    join_token=token,
                    public_key=manifest.public_bytes(self.key),
                    nonce=challenge.nonce,
                    proof=self.key.sign(enrolment.proof_message(challenge.nonce, token)),
                    name=self.name,
                    facts=STATE.DeviceFacts(targets=targets),
                ),
            )
        self.id, self.credential = answer.device_id, answer.credential
        self.trusted = {fingerprint(answer.plane_public_key): answer.plane_public_key}
        return self

    async def connect(self) -> TestDevice:
        self._client = Client(self.address, self.credential)
        self._stream = self._client.devices.Connect(metadata=self._client.said)
        hello = STATE.Hello(
            protocol_version=VERSION, report=self.report, boot_id="b1", facts=STATE.DeviceFacts(targets=["ort-cpu"])
        )
        await self.send(hello=hello)
        assert (await self.read()).WhichOneof("kind") == "welcome"
        return self

    async def send(self, **kind: Any) -> None:
        await self._stream.write(devices_service_pb2.ConnectRequest(**kind))

    async def read(self) -> Any:
        return await asyncio.wait_for(self._stream.read(), WAIT_S)

    async def desired(self) -> STATE.DesiredState:
        """The next desired state, after its signatures were checked."""
        message = await self.read()
        assert message is not grpc.aio.EOF
        desired: STATE.DesiredState = message.desired
        said = manifest.Assignment.from_payload(
            manifest.Envelope.from_bytes(desired.assignment).opened(manifest.ASSIGNMENT_TYPE, self.trusted)
        )
        assert (said.device_id, said.generation) == (self.id, desired.generation)
        if said.release_id:
            payload = manifest.Envelope.from_bytes(desired.manifest).opened(manifest.MANIFEST_TYPE, self.trusted)
            assert manifest.release_digest(payload) == said.release_digest
        return desired

    async def say(self, desired: STATE.DesiredState, state: str, reason: str = "", **progress: int) -> None:
        """Reports a state for an assignment."""
        release = desired.components[0].release_id if desired.components else ""
        self.report = STATE.StateReport(
            generation=desired.generation,
            components=[
                STATE.ReportedComponent(
                    name=name, state=STATE.ComponentState.Value(f"COMPONENT_STATE_{state}"), release_id=release,
                    reason=reason, **progress,
                )
                for name in ("engine", "policy")
            ],
        )  # fmt: skip
        await self.send(report=self.report)

    async def disconnect(self) -> None:
        if self._client is not None:
            self._stream.cancel()
            await self._client.channel.close()
            self._client = None


class Kit:
    """A plane under test and its callers."""

    def __init__(self, plane: Plane, clock: FakeClock | SystemClock) -> None:
        self.plane = plane
        self.clock = clock
        self.operator = Client(plane.address, plane.operator_token_file.read_text().strip())
        self.builder = Client(plane.address, plane.builder_token_file.read_text().strip())
        self.opened: list[TestDevice] = []

    async def join_token(self, **fields: Any) -> str:
        request = devices_service_pb2.CreateJoinTokenRequest(**fields)
        answer = await self.operator.call(self.operator.devices.CreateJoinToken, request)
        return str(answer.token)

    async def device(self, name: str, **fields: Any) -> TestDevice:
        device = TestDevice(self.plane.address, name)
        self.opened.append(device)
        return await (await device.enrol(await self.join_token(**fields))).connect()

    async def release(self, *targets: str, **fields: Any) -> releases_service_pb2.Release:
        request = releases_service_pb2.CreateReleaseRequest(
            model="centerface", targets=targets or ["ort-cpu"], **fields
        )
        made = (await self.operator.call(self.operator.releases.CreateRelease, request)).release
        for name in targets or ["ort-cpu"]:
            await self.builder.build(name, engine=made.id.encode())
        got = releases_service_pb2.GetReleaseRequest(release_id=made.id)
        return (await self.operator.call(self.operator.releases.GetRelease, got)).release

    async def roll_out(self, release_id: str, selector: str = "", request_id: str = "") -> rollouts_service_pb2.Rollout:
        request = rollouts_service_pb2.CreateRolloutRequest(
            release_id=release_id, selector=selector, request_id=request_id
        )
        return (await self.operator.call(self.operator.rollouts.CreateRollout, request)).rollout

    def watch(self, rollout_id: str) -> Any:
        request = rollouts_service_pb2.WatchRolloutRequest(rollout_id=rollout_id)
        return self.operator.rollouts.WatchRollout(request, timeout=WAIT_S, metadata=self.operator.said)

    async def until(self, rollout_id: str, state: str) -> rollouts_service_pb2.Rollout:
        number = rollouts_service_pb2.RolloutState.Value(f"ROLLOUT_STATE_{state}")
        return (await eventually(self.watch(rollout_id), lambda m: m.rollout.state == number)).rollout

    async def close(self) -> None:
        for device in self.opened:
            await device.disconnect()
        await self.operator.channel.close()
        await self.builder.channel.close()


async def add_model(where: Path | str, data: bytes = MODEL) -> None:
    """Puts a model into a plane's store (its data directory, or a URL), for tests about what comes after."""
    store = await SqlStore.opened(sqlite_url(where / "plane.db") if isinstance(where, Path) else where)
    tensors = (Tensor("input", "float32", ("N", "3", "H", "W")),)
    model = Model(
        "centerface", 1, 1, "centerface", digest_bytes(data), len(data), "models:/centerface/1", tensors, (), 640,
        352, True, datetime.now(timezone.utc),
    )  # fmt: skip
    async with store.writing() as tx:
        await tx.put(model)
        assert await tx.next_number("model") == 1
    await store.close()


@pytest.fixture
async def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    # The registry's process costs seconds; the tests that are about it start it by asking.
    monkeypatch.setattr(Registry, "warm_up", lambda _self: None)
    await add_model(tmp_path)
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    clock = FakeClock(datetime.now(timezone.utc))
    async with Plane.running(config, tmp_path, clock=clock, metrics=Metrics()) as plane:
        kit = Kit(plane, clock)
        yield kit
        await kit.close()


def state_of(rollout: rollouts_service_pb2.Rollout) -> dict[str, str]:
    names = rollouts_service_pb2.RolloutDeviceState
    return {d.device_name: names.Name(d.state).removeprefix("ROLLOUT_DEVICE_STATE_") for d in rollout.devices}


# Who may


def test_every_method_of_every_service_has_its_roles() -> None:
    found = set()
    for module in (
        artifacts_service_pb2, builds_service_pb2, devices_service_pb2, events_service_pb2, models_service_pb2,
        releases_service_pb2, rollouts_service_pb2, metrics_service_pb2,
    ):  # fmt: skip
        for service in module.DESCRIPTOR.services_by_name.values():
            assert service.full_name in SERVICES
            found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert set(ROLES) == found


async def test_nobody_calls_what_is_not_theirs(kit: Kit) -> None:
    listing = devices_service_pb2.ListDevicesRequest()
    async with Client(kit.plane.address) as nobody, Client(kit.plane.address, "mfo1.wrong") as wrong:
        assert isinstance(await refused(nobody.call(nobody.devices.ListDevices, listing)), errors.AuthenticationError)
        assert isinstance(await refused(wrong.call(wrong.devices.ListDevices, listing)), errors.AuthenticationError)
    builder = kit.builder
    error = await refused(builder.call(builder.devices.ListDevices, listing))
    assert str(error) == "a builder may not call ListDevices: it is for operators"
    device = await kit.device("cam")
    async with Client(kit.plane.address, device.credential) as as_device:
        request = artifacts_service_pb2.StatArtifactRequest(digest=digest_bytes(b""))
        assert isinstance(
            await refused(as_device.call(as_device.artifacts.StatArtifact, request)), errors.ForbiddenError
        )
    forged = enrolment.issue_credential(Ed25519PrivateKey.generate(), device.id)
    async with Client(kit.plane.address, forged) as forger:
        stream = forger.devices.Connect(metadata=forger.said)
        assert isinstance(await refused(stream), errors.AuthenticationError)


async def test_nobody_joins_or_connects_as_another_device(kit: Kit) -> None:
    mine, other = await kit.device("mine"), await kit.device("other")

    async def joining(*, public_key: bytes, key: Ed25519PrivateKey) -> FleetError:
        async with Client(kit.plane.address) as client:
            challenge = await client.call(client.devices.CreateChallenge, devices_service_pb2.CreateChallengeRequest())
            token = await kit.join_token()
            request = devices_service_pb2.EnrolRequest(
                join_token=token, public_key=public_key, nonce=challenge.nonce, name="other",
                proof=key.sign(enrolment.proof_message(challenge.nonce, token)),
                facts=STATE.DeviceFacts(targets=["ort-cpu"]),
            )  # fmt: skip
            return await refused(client.call(client.devices.Enrol, request))

    error = await joining(public_key=manifest.public_bytes(other.key), key=mine.key)
    assert isinstance(error, errors.AuthenticationError)
    # The id of one in the credential of the other, with either's signature.
    kind, *parts = other.credential.split(".")
    for place in range(len(parts)):
        mixed = [*parts]
        mixed[place] = mine.credential.split(".")[1 + place]
        async with Client(kit.plane.address, ".".join([kind, *mixed])) as forger:
            assert isinstance(await refused(forger.devices.Connect(metadata=forger.said)), errors.AuthenticationError)
    # With its own credential a device is nobody but itself, whatever stream it opens.
    await other.disconnect()
    await mine.disconnect()
    await mine.connect()
    found = await kit.operator.call(kit.operator.devices.ListDevices, devices_service_pb2.ListDevicesRequest())
    assert {d.name: d.online for d in found.devices} == {"mine": True, "other": False}


# Joining


async def test_a_device_joins_with_labels_of_its_token_and_keeps_its_identity(kit: Kit) -> None:
    token = await kit.join_token(labels={"site": "berlin"}, max_uses=1)
    device = TestDevice(kit.plane.address, "cam")
    await device.enrol(token)
    identity = device.id
    await device.enrol(token)  # the same key: the answer was lost, no second use
    assert device.id == identity
    with pytest.raises(grpc.aio.AioRpcError, match="used 1 times"):
        await TestDevice(kit.plane.address, "other").enrol(token)
    got = await kit.operator.call(kit.operator.devices.GetDevice, devices_service_pb2.GetDeviceRequest(device="cam"))
    assert (got.device.id, dict(got.device.labels), got.device.online) == (identity, {"site": "berlin"}, False)
    second = await TestDevice(kit.plane.address, "cam").enrol(await kit.join_token())
    got = await kit.operator.call(
        kit.operator.devices.GetDevice, devices_service_pb2.GetDeviceRequest(device=second.id[:12])
    )
    assert got.device.name == f"cam-{second.id[2:10]}"


async def test_a_token_or_a_challenge_that_is_over_lets_nobody_in(kit: Kit) -> None:
    token = await kit.join_token(ttl=Duration(seconds=60))
    assert isinstance(kit.clock, FakeClock)
    kit.clock.advance(timedelta(seconds=61))
    with pytest.raises(grpc.aio.AioRpcError, match="does not hold"):
        await TestDevice(kit.plane.address, "cam").enrol(token)
    async with Client(kit.plane.address) as client:
        key = Ed25519PrivateKey.generate()
        token = await kit.join_token()
        nonce = (await client.call(client.devices.CreateChallenge, devices_service_pb2.CreateChallengeRequest())).nonce
        request = devices_service_pb2.EnrolRequest(
            join_token=token, public_key=manifest.public_bytes(key), nonce=nonce, name="cam", proof=b"x" * 64
        )
        assert "proof" in str(await refused(client.call(client.devices.Enrol, request)))
        request.proof = key.sign(enrolment.proof_message(nonce, token))
        assert "used up" in str(await refused(client.call(client.devices.Enrol, request)))


# Files


async def test_an_upload_goes_on_where_it_broke_off_and_comes_back_from_any_offset(kit: Kit) -> None:
    data = hashlib.sha256(b"x").digest() * 40_000
    digest = digest_bytes(data)
    stat = artifacts_service_pb2.StatArtifactRequest(digest=digest)
    with pytest.raises(grpc.aio.AioRpcError, match="ended at 500000"):
        await kit.operator.upload(data[:500_000], digest=digest, size=len(data))
    there = await kit.operator.call(kit.operator.artifacts.StatArtifact, stat)
    assert (there.complete, there.size_bytes) == (False, 500_000)
    await kit.operator.upload(data, offset=500_000)
    there = await kit.operator.call(kit.operator.artifacts.StatArtifact, stat)
    assert (there.complete, there.size_bytes) == (True, len(data))
    got = b""
    request = artifacts_service_pb2.DownloadArtifactRequest(digest=digest, offset=100)
    async for part in kit.builder.call(kit.builder.artifacts.DownloadArtifact, request):
        got += part.chunk
    assert got == data[100:]


async def test_a_wrong_digest_leaves_nothing(kit: Kit) -> None:
    digest = digest_bytes(b"something else")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kit.operator.upload(b"data", digest=digest)
    assert isinstance(from_rpc_error(caught.value), errors.DigestMismatchError)
    there = await kit.operator.call(
        kit.operator.artifacts.StatArtifact, artifacts_service_pb2.StatArtifactRequest(digest=digest)
    )
    assert (there.complete, there.size_bytes) == (False, 0)


async def test_an_engine_that_was_damaged_on_the_planes_disk_is_asked_for_again(kit: Kit) -> None:
    engine = b"an engine" * 1000
    digest = digest_bytes(engine)
    stat = artifacts_service_pb2.StatArtifactRequest(digest=digest)
    await kit.builder.upload(engine)
    kit.plane._artifacts.path(digest).write_bytes(engine[:-1] + b"?")
    there = await kit.builder.call(kit.builder.artifacts.StatArtifact, stat)
    assert (there.complete, there.size_bytes) == (False, 0)
    await kit.builder.upload(engine)
    there = await kit.builder.call(kit.builder.artifacts.StatArtifact, stat)
    assert (there.complete, there.size_bytes) == (True, len(engine))


async def test_a_refused_model_leaves_its_file_only_where_somebody_else_needs_it(kit: Kit) -> None:
    async def left(data: bytes) -> bool:
        await kit.operator.upload(data)
        request = models_service_pb2.CreateModelRequest(
            request_id=digest_bytes(data), name="face", decoder="centerface", artifact_digest=digest_bytes(data)
        )
        refusal = await refused(kit.operator.models.CreateModel(request, timeout=90, metadata=kit.operator.said))
        assert isinstance(refusal, errors.BadModelError)
        return kit.plane._artifacts.size(digest_bytes(data)) is not None

    assert not await left(b"this is no ONNX")
    assert await left(MODEL)  # a version of the registry is this file


# Releases


async def test_a_release_is_signed_once_every_target_is_built(kit: Kit) -> None:
    policy = policy_pb2.MaskPolicy(style=policy_pb2.MASK_STYLE_SOLID)
    release = await kit.release("ort-cpu", "rtx-turing", policy=policy)
    assert release.state == releases_service_pb2.RELEASE_STATE_READY
    trusted = {kit.plane.signer.fingerprint: kit.plane.signer.public_key}
    payload = manifest.Envelope.from_bytes(release.manifest).opened(manifest.MANIFEST_TYPE, trusted)
    assert manifest.release_digest(payload) == release.manifest_digest
    read = manifest.Manifest.from_payload(payload)
    assert [(e.target, e.backend) for e in read.engines] == [("ort-cpu", "onnxruntime"), ("rtx-turing", "tensorrt-rtx")]
    assert (read.input_width, read.input_height, read.policy.style.value) == (640, 352, "solid")


async def test_a_watcher_sees_a_release_fail_with_its_reason(kit: Kit) -> None:
    operator, builder = kit.operator, kit.builder
    request = releases_service_pb2.CreateReleaseRequest(model="centerface/1", targets=["ort-cpu", "rtx-turing"])
    made = (await operator.call(operator.releases.CreateRelease, request)).release
    watched = operator.releases.WatchRelease(
        releases_service_pb2.WatchReleaseRequest(release_id=made.id), timeout=WAIT_S, metadata=operator.said
    )
    leased = await builder.call(
        builder.builds.LeaseBuild,
        builds_service_pb2.LeaseBuildRequest(builder=builds_service_pb2.BuilderFacts(targets=["ort-cpu"])),
    )
    failure = builds_service_pb2.BuildFailure(kind="GateRefusedError", reason="too far from its model")
    await builder.call(
        builder.builds.CompleteBuild,
        builds_service_pb2.CompleteBuildRequest(lease_id=leased.lease_id, failure=failure),
    )
    last = await eventually(watched, lambda m: m.release.state == releases_service_pb2.RELEASE_STATE_FAILED)
    assert last.release.reason == "ort-cpu: too far from its model"
    assert last.release.builds[1].state == builds_pb2.BUILD_STATE_CANCELED


async def test_a_lease_that_is_not_kept_goes_to_the_next_builder(kit: Kit) -> None:
    request = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
    await kit.operator.call(kit.operator.releases.CreateRelease, request)
    ask = builds_service_pb2.LeaseBuildRequest(builder=builds_service_pb2.BuilderFacts(targets=["ort-cpu"]))
    first = await kit.builder.call(kit.builder.builds.LeaseBuild, ask)
    assert isinstance(kit.clock, FakeClock)
    kit.clock.advance(timedelta(seconds=31))
    await kit.plane.tick()
    second = await kit.builder.call(kit.builder.builds.LeaseBuild, ask)
    assert (second.build.id, second.build.attempts) == (first.build.id, 2)
    late = builds_service_pb2.HeartbeatBuildRequest(lease_id=first.lease_id)
    assert isinstance(await refused(kit.builder.call(kit.builder.builds.HeartbeatBuild, late)), errors.NotFoundError)
    kept = builds_service_pb2.HeartbeatBuildRequest(lease_id=second.lease_id, phase="verify", progress=0.5)
    assert not (await kit.builder.call(kit.builder.builds.HeartbeatBuild, kept)).cancel


async def test_canceling_a_release_tells_its_builder(kit: Kit) -> None:
    request = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
    made = (await kit.operator.call(kit.operator.releases.CreateRelease, request)).release
    ask = builds_service_pb2.LeaseBuildRequest(builder=builds_service_pb2.BuilderFacts(targets=["ort-cpu"]))
    lease = await kit.builder.call(kit.builder.builds.LeaseBuild, ask)
    cancel = releases_service_pb2.CancelReleaseRequest(release_id=made.id)
    for _ in range(2):
        answer = await kit.operator.call(kit.operator.releases.CancelRelease, cancel)
        assert answer.release.state == releases_service_pb2.RELEASE_STATE_CANCELED
    beat = builds_service_pb2.HeartbeatBuildRequest(lease_id=lease.lease_id)
    assert (await kit.builder.call(kit.builder.builds.HeartbeatBuild, beat)).cancel


BAD_RELEASES = {
    "an unknown target": ({"targets": ["gtx-480"]}, errors.UnknownTargetError, "gtx-480"),
    "no target": ({"targets": []}, errors.InvalidInputError, "target"),
    "an unknown model": ({"model": "nobody"}, errors.NotFoundError, "nobody"),
    "an unknown version": ({"model": "centerface/9"}, errors.NotFoundError, "version 9"),
    "a size off the stride": ({"input_width": 100}, errors.InvalidInputError, "multiple of 32"),
    "a policy out of range": ({"policy": policy_pb2.MaskPolicy(margin=99)}, errors.BadPolicyError, "margin"),
}


@pytest.mark.parametrize(("fields", "cls", "text"), BAD_RELEASES.values(), ids=BAD_RELEASES.keys())
async def test_a_bad_release_is_refused(kit: Kit, fields: dict[str, Any], cls: type[FleetError], text: str) -> None:
    request = releases_service_pb2.CreateReleaseRequest(**{"model": "centerface", "targets": ["ort-cpu"]} | fields)
    error = await refused(kit.operator.call(kit.operator.releases.CreateRelease, request))
    assert type(error) is cls
    assert text in str(error)
    listed = await kit.operator.call(kit.operator.releases.ListReleases, releases_service_pb2.ListReleasesRequest())
    assert len(listed.releases) == 0


async def test_the_same_request_id_makes_one_release_and_another_request_under_it_is_refused(kit: Kit) -> None:
    request = releases_service_pb2.CreateReleaseRequest(request_id="once", model="centerface", targets=["ort-cpu"])
    create = kit.operator.releases.CreateRelease
    first, second = [(await kit.operator.call(create, request)).release.id for _ in range(2)]
    assert first == second
    request.precision = builds_pb2.PRECISION_FP16
    assert isinstance(await refused(kit.operator.call(create, request)), errors.AlreadyExistsError)


async def test_pages_hold_every_release_once(kit: Kit) -> None:
    for _ in range(5):
        request = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
        await kit.operator.call(kit.operator.releases.CreateRelease, request)
    seen, token = [], ""
    while True:
        page = await kit.operator.call(
            kit.operator.releases.ListReleases,
            releases_service_pb2.ListReleasesRequest(page_size=2, page_token=token),
        )
        seen += [r.id for r in page.releases]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["r-5", "r-4", "r-3", "r-2", "r-1"]


# Rollouts


async def test_a_rollout_reaches_every_device_and_ends_when_all_committed(kit: Kit) -> None:
    release = await kit.release()
    a, b = await kit.device("a"), await kit.device("b")
    rollout = await kit.roll_out(release.id)
    wanted = {device: await device.desired() for device in (a, b)}
    await a.say(wanted[a], "DOWNLOADING", bytes_done=40, bytes_total=100)
    seen = await eventually(
        kit.watch(rollout.id), lambda m: any(d.detail == "DOWNLOADING 40 %" for d in m.rollout.devices)
    )
    assert state_of(seen.rollout) == {"a": "UPDATING", "b": "UPDATING"}
    for device in (a, b):
        await device.say(wanted[device], "COMMITTED")
    done = await kit.until(rollout.id, "SUCCEEDED")
    assert (state_of(done), done.reason) == ({"a": "COMMITTED", "b": "COMMITTED"}, "all 2 devices committed r-1")
    got = await kit.operator.call(kit.operator.devices.GetDevice, devices_service_pb2.GetDeviceRequest(device="a"))
    assert [c.release_id for c in got.device.desired] == ["r-1", "r-1"]
    assert got.device.online


async def test_a_refusing_device_fails_the_rollout_and_is_sent_back_to_its_baseline(kit: Kit) -> None:
    first, second = await kit.release(), await kit.release()
    device = await kit.device("a")
    rollout = await kit.roll_out(first.id)
    await device.say(await device.desired(), "COMMITTED")
    await kit.until(rollout.id, "SUCCEEDED")
    rollout = await kit.roll_out(second.id)
    assert rollout.devices[0].baseline_release_id == first.id
    await device.say(await device.desired(), "REVERTED", "the golden faces were not found")
    done = await kit.until(rollout.id, "FAILED")
    assert "1 of 1 devices refused r-2" in done.reason
    assert "the golden faces were not found" in done.reason
    back = await device.desired()
    assert (back.components[0].release_id, back.generation) == (first.id, 3)


async def test_an_offline_device_catches_up_when_it_returns(kit: Kit) -> None:
    release = await kit.release()
    device = await kit.device("a")
    await device.disconnect()
    rollout = await kit.roll_out(release.id)
    await device.connect()
    await device.say(await device.desired(), "COMMITTED")
    assert state_of(await kit.until(rollout.id, "SUCCEEDED")) == {"a": "COMMITTED"}


async def test_aborting_sends_everybody_back_and_waits_for_nobody_for_ever(kit: Kit) -> None:
    release, other = await kit.release(), await kit.release()
    devices = {name: await kit.device(name) for name in ("done", "moving", "gone")}
    rollout = await kit.roll_out(release.id)
    for device in devices.values():
        await device.say(await device.desired(), "COMMITTED")
    await kit.until(rollout.id, "SUCCEEDED")
    await devices["gone"].disconnect()
    rollout = await kit.roll_out(other.id)
    await devices["done"].say(await devices["done"].desired(), "COMMITTED")
    moving = await devices["moving"].desired()
    await devices["moving"].say(moving, "LOADING")
    await eventually(kit.watch(rollout.id), lambda m: state_of(m.rollout)["done"] == "COMMITTED")
    abort = rollouts_service_pb2.AbortRolloutRequest(rollout_id=rollout.id)
    await kit.operator.call(kit.operator.rollouts.AbortRollout, abort)
    undone = await devices["done"].desired()
    assert (undone.components[0].release_id, undone.generation) == (release.id, 3)
    await devices["done"].say(undone, "COMMITTED")
    back = await devices["moving"].desired()
    assert (back.components[0].release_id, back.generation) == (release.id, 3)
    await devices["moving"].say(moving, "SOAKING")  # it had not heard yet
    await devices["moving"].say(back, "COMMITTED")
    await eventually(kit.watch(rollout.id), lambda m: state_of(m.rollout)["moving"] == "REVERTED")
    assert isinstance(kit.clock, FakeClock)
    kit.clock.advance(timedelta(seconds=61))
    await kit.plane.tick()
    ended = await kit.until(rollout.id, "ABORTED")
    assert state_of(ended) == dict.fromkeys(("done", "moving", "gone"), "REVERTED")
    await devices["gone"].connect()
    assert (await devices["gone"].desired()).components[0].release_id == release.id


async def test_a_first_release_that_is_stopped_leaves_a_device_with_nothing_wanted(kit: Kit) -> None:
    release = await kit.release()
    moving, refusing = await kit.device("moving"), await kit.device("refusing")
    rollout = await kit.roll_out(release.id)
    await moving.desired()
    await refusing.say(await refusing.desired(), "REVERTED", "no face was found")
    await eventually(kit.watch(rollout.id), lambda m: state_of(m.rollout)["refusing"] == "FAILED")
    abort = rollouts_service_pb2.AbortRolloutRequest(rollout_id=rollout.id)
    await kit.operator.call(kit.operator.rollouts.AbortRollout, abort)
    nothing = await moving.desired()
    assert (nothing.generation, list(nothing.components), nothing.manifest) == (2, [], b"")
    await moving.say(nothing, "EMPTY")
    ended = await kit.until(rollout.id, "ABORTED")
    assert state_of(ended) == {"moving": "REVERTED", "refusing": "FAILED"}
    await refusing.connect()  # what it refused is not wanted of it again
    again = await kit.roll_out(release.id)
    assert [d.baseline_release_id for d in again.devices] == ["", ""]
    assert (await refusing.desired()).generation == 2


async def test_a_store_that_was_restored_from_a_copy_never_sends_an_old_generation(kit: Kit) -> None:
    release = await kit.release()
    device = await kit.device("a")
    rollout = await kit.roll_out(release.id)
    await device.desired()
    await device.disconnect()
    device.report = STATE.StateReport(generation=41)
    await device.connect()
    desired = await device.desired()
    assert desired.generation == 42
    await device.say(desired, "COMMITTED")
    await kit.until(rollout.id, "SUCCEEDED")


async def test_bad_rollouts_are_refused_by_name(kit: Kit) -> None:
    operator = kit.operator
    ready, rtx = await kit.release(), await kit.release("rtx-turing")
    building = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
    unready = (await operator.call(operator.releases.CreateRelease, building)).release.id

    async def attempt(release_id: str, selector: str = "") -> FleetError:
        request = rollouts_service_pb2.CreateRolloutRequest(release_id=release_id, selector=selector)
        return await refused(operator.call(operator.rollouts.CreateRollout, request))

    assert str(await attempt(ready.id)).startswith("there is no device")
    await kit.device("cam", labels={"site": "berlin"})
    for error, cls, text in (
        (await attempt("r-99"), errors.NotFoundError, "r-99"),
        (await attempt(unready), errors.PreconditionError, "is BUILDING"),
        (await attempt(ready.id, "site=rome"), errors.NoMatchError, "site=rome"),
        (await attempt(ready.id, "site in"), errors.BadSelectorError, "site in"),
        (await attempt(rtx.id), errors.NoEngineError, "none for cam: make a release with a target ort-cpu"),
    ):
        assert type(error) is cls
        assert text in str(error)
    await kit.roll_out(ready.id, "site=berlin", request_id="once")
    again = await kit.roll_out(ready.id, "site=berlin", request_id="once")
    assert again.id == "ro-1"
    conflict = await attempt(ready.id)
    assert (type(conflict), conflict.message) == (errors.RolloutConflictError, "cam already in ro-1")


# Streams


async def test_a_second_stream_of_a_device_takes_the_place_of_the_first(kit: Kit) -> None:
    device = await kit.device("a")
    first = device._stream
    await device.connect()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(first.read(), WAIT_S)
    assert isinstance(from_rpc_error(caught.value), errors.CanceledError)
    got = await kit.operator.call(kit.operator.devices.GetDevice, devices_service_pb2.GetDeviceRequest(device="a"))
    assert got.device.online


async def test_health_windows_are_acknowledged_once_they_are_kept_and_repeats_are_not_kept_twice(
    kit: Kit, tmp_path: Path
) -> None:
    device = await kit.device("a")
    for sequence in (1, 2, 2, 1):
        window = STATE.HealthWindow(boot_id="b1", sequence=sequence, frames_by_outcome={"MASKED": 7})
        await device.send(health=window)
        ack = (await device.read()).health_ack
        assert (ack.boot_id, ack.sequence) == ("b1", sequence)
    await device.send(health=STATE.HealthWindow(boot_id="b1", sequence=3, temperatures_c={"cpu": float("nan")}))
    assert (await device.read()).health_ack.sequence == 3
    assert (kit.plane._fleet.windows.stored, kit.plane._fleet.windows.repeated) == (2, 2)
    assert kit.plane._fleet.windows.refused == 1


@pytest.mark.parametrize("first", [{"report": STATE.StateReport()}, {"hello": STATE.Hello(protocol_version=99)}])
async def test_a_stream_that_begins_wrongly_is_ended(kit: Kit, first: dict[str, Any]) -> None:
    device = await kit.device("a")
    client = Client(kit.plane.address, device.credential)
    stream = client.devices.Connect(metadata=client.said)
    await stream.write(devices_service_pb2.ConnectRequest(**first))
    assert isinstance(await refused(stream), (errors.InvalidInputError, errors.UnsupportedError))
    await client.channel.close()


# Real processes


@contextlib.contextmanager
def no_zombies() -> Iterator[list[asyncio.subprocess.Process]]:
    started: list[asyncio.subprocess.Process] = []
    try:
        yield started
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()


async def start(folder: Path, listen: str = "127.0.0.1:0") -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "control_plane", "--data-dir", str(folder), "--listen", listen,
        "--metrics-listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    return process, json.loads(line)


async def test_a_plane_that_is_killed_in_a_rollout_goes_on_with_it(tmp_path: Path) -> None:
    await add_model(tmp_path)
    with no_zombies() as started:
        process, ready = await start(tmp_path)
        started.append(process)
        operator = Client(ready["listen"], Path(ready["operator_token_file"]).read_text().strip())
        builder = Client(ready["listen"], Path(ready["builder_token_file"]).read_text().strip())
        create = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
        release = (await operator.call(operator.releases.CreateRelease, create)).release
        await builder.build()
        token = await operator.call(operator.devices.CreateJoinToken, devices_service_pb2.CreateJoinTokenRequest())
        devices = [await TestDevice(ready["listen"], name).enrol(token.token) for name in ("a", "b")]
        for device in devices:
            await device.connect()
        request = rollouts_service_pb2.CreateRolloutRequest(release_id=release.id)
        rollout = (await operator.call(operator.rollouts.CreateRollout, request)).rollout
        wanted = [await device.desired() for device in devices]
        await devices[0].say(wanted[0], "COMMITTED")
        watched = operator.rollouts.WatchRollout(
            rollouts_service_pb2.WatchRolloutRequest(rollout_id=rollout.id), metadata=operator.said
        )
        await eventually(watched, lambda m: state_of(m.rollout)["a"] == "COMMITTED")
        process.kill()
        await process.wait()
        for device in devices:
            await device.disconnect()
        await operator.channel.close()
        await builder.channel.close()

        process, ready = await start(tmp_path, ready["listen"])
        started.append(process)
        async with Client(ready["listen"], Path(ready["operator_token_file"]).read_text().strip()) as operator:
            await devices[1].connect()
            again = await devices[1].desired()
            assert (again.generation, again.assignment) == (wanted[1].generation, wanted[1].assignment)
            await devices[1].say(again, "COMMITTED")
            watched = operator.rollouts.WatchRollout(
                rollouts_service_pb2.WatchRolloutRequest(rollout_id=rollout.id), metadata=operator.said
            )
            done = rollouts_service_pb2.ROLLOUT_STATE_SUCCEEDED
            last = await eventually(watched, lambda m: m.rollout.state == done)
            assert state_of(last.rollout) == {"a": "COMMITTED", "b": "COMMITTED"}
        process.send_signal(signal.SIGTERM)  # with a device's stream open, which is told why it ends
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await devices[1].read()
        assert from_rpc_error(told.value).message == "the plane is stopping"
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
        await devices[1].disconnect()
