"""Builds over real gRPC: what a release asks for, builders that lie, builders that are missing, engines found again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from control_plane.config import Config
from control_plane.plane import Plane
from control_plane.registry import Registry
from control_plane.telemetry import Metrics
from maskfleet import errors, manifest
from maskfleet.clock import FakeClock
from maskfleet.gate import Margins
from maskfleet.ids import digest_bytes
from maskfleet.v1 import builds_pb2, builds_service_pb2, devices_pb2, policy_pb2
from maskfleet.v1 import releases_service_pb2 as wire
from tests.integration.test_plane import (
    MODEL,
    WAIT_S,
    Client,
    Kit,
    add_model,
    engine_of,
    eventually,
    refused,
    success_of,
)

PC = devices_pb2.DeviceFacts(os="debian 12", arch="x86_64", runtimes={"onnxruntime": "1.32.0"})
RTX = {"tensorrt-rtx-cu13": "1.7.1.116"}
ORIN = devices_pb2.DeviceFacts(
    os="ubuntu 22.04", arch="aarch64", compute_capability="SM87", jetpack="6.2",
    runtimes={"tensorrt": "10.3.0", "pycuda": "2025.1"},
)  # fmt: skip


@pytest.fixture
async def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    monkeypatch.setattr(Registry, "warm_up", lambda _self: None)
    await add_model(tmp_path)
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    async with Plane.running(config, tmp_path, clock=FakeClock(datetime.now(timezone.utc)), metrics=Metrics()) as plane:
        kit = Kit(plane, plane._clock)  # type: ignore[arg-type]
        yield kit
        await kit.close()


async def create(kit: Kit, *targets: str, **fields: Any) -> wire.Release:
    request = wire.CreateReleaseRequest(model="centerface", targets=targets or ["ort-cpu"], **fields)
    return (await kit.operator.call(kit.operator.releases.CreateRelease, request)).release


async def get(kit: Kit, release_id: str) -> wire.Release:
    request = wire.GetReleaseRequest(release_id=release_id)
    return (await kit.operator.call(kit.operator.releases.GetRelease, request)).release


async def passes(kit: Kit, seconds: float) -> None:
    assert isinstance(kit.clock, FakeClock)
    kit.clock.advance(timedelta(seconds=seconds))
    await kit.plane.tick()


# What is asked for


async def test_a_release_carries_what_it_asks_for_to_its_builder(kit: Kit) -> None:
    release = await create(
        kit, precision=builds_pb2.PRECISION_AUTO, margins=builds_pb2.GateMargins(min_recall=0.9, max_extra=0.2),
        calibration="street/2", workspace_mb=256, policy=policy_pb2.MaskPolicy(nms_iou=0.4, min_confidence=0.6),
    )  # fmt: skip
    default = Margins()
    assert (round(release.margins.min_recall, 6), round(release.margins.min_cosine, 6)) == (0.9, default.min_cosine)
    assert release.calibration == "street/2"
    spec = (await kit.builder.lease(calibration_sets={"street/2": "sha256:1"})).build.spec
    assert spec.precision == builds_pb2.PRECISION_AUTO
    assert (round(spec.margins.max_extra, 6), spec.calibration, spec.workspace_mb) == (0.2, "street/2", 256)
    assert (round(spec.nms_iou, 6), round(spec.min_confidence, 6)) == (0.4, 0.6)


async def test_the_manifest_has_the_precision_that_won_where_the_release_left_it_open(kit: Kit) -> None:
    release = await create(kit, precision=builds_pb2.PRECISION_AUTO)
    await kit.builder.build(precision=builds_pb2.PRECISION_INT8, recipe="sha256:r")
    ready = await get(kit, release.id)
    assert ready.state == wire.RELEASE_STATE_READY
    assert (ready.builds[0].precision, ready.builds[0].spec.precision) == (
        builds_pb2.PRECISION_INT8,
        builds_pb2.PRECISION_AUTO,
    )
    trusted = {kit.plane.signer.fingerprint: kit.plane.signer.public_key}
    payload = manifest.Envelope.from_bytes(ready.manifest).opened(manifest.MANIFEST_TYPE, trusted)
    assert [e.precision for e in manifest.Manifest.from_payload(payload).engines] == ["int8"]


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "a recall above 1": ({"margins": builds_pb2.GateMargins(min_recall=1.5)}, "min_recall is 1.5"),
    "an overlap of nothing": ({"margins": builds_pb2.GateMargins(match_iou=0)}, "match_iou is 0"),
    "an error that is no number": ({"margins": builds_pb2.GateMargins(max_error=float("nan"))}, "max_error is nan"),
    "a calibration set without a version": ({"calibration": "street"}, "'street' names no calibration set"),
    "a calibration set that is a path": ({"calibration": "../etc/2"}, "names no calibration set"),
    "scratch memory of a petabyte": ({"workspace_mb": 1 << 30}, "workspace_mb"),
    "a precision of tomorrow": ({"precision": 99}, "no precision 99"),
}


@pytest.mark.parametrize(("fields", "text"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
async def test_what_cannot_be_asked_for_is_named(kit: Kit, fields: dict[str, Any], text: str) -> None:
    request = wire.CreateReleaseRequest(model="centerface", targets=["ort-cpu"], **fields)
    error = await refused(kit.operator.call(kit.operator.releases.CreateRelease, request))
    assert type(error) is errors.InvalidInputError
    assert text in str(error)


# Builders that say what is not so


FALSE_CLAIMS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "a package that is not there": (["rtx-turing"], {"machine": PC}, "needs tensorrt-rtx-cu13 1.7.1"),
    "a package of another version": (
        ["rtx-turing"], {"machine": PC, "versions": {"tensorrt-rtx-cu13": "1.2.0"}}, "version 1.2.0 is installed",
    ),
    "a GPU that is not there": (["dc-hopper"], {"machine": PC, "versions": {"tensorrt": "11.4.1"}}, "for SM90"),
    "another JetPack": (["jp7-orin"], {"machine": ORIN}, "needs JetPack 7.2.2"),
    "no machine is said, and the version is wrong": (["ort-cpu"], {"versions": {"onnxruntime": "0.9"}}, "0.9"),
    "a target that there is not": (["gtx-480"], {"machine": PC}, "gtx-480"),
}  # fmt: skip


@pytest.mark.parametrize(("targets", "facts", "text"), FALSE_CLAIMS.values(), ids=FALSE_CLAIMS.keys())
async def test_a_builder_that_cannot_be_what_it_says_gets_no_work(
    kit: Kit, targets: list[str], facts: dict[str, Any], text: str
) -> None:
    builder = builds_service_pb2.BuilderFacts(builder_id="liar/1", targets=targets, **facts)
    ask = builds_service_pb2.LeaseBuildRequest(builder=builder)
    error = await refused(kit.builder.call(kit.builder.builds.LeaseBuild, ask))
    assert isinstance(error, errors.InvalidInputError)
    assert text in str(error)
    assert targets[0] in str(error)


async def test_a_builder_that_can_be_what_it_says_gets_its_work(kit: Kit) -> None:
    await create(kit, "rtx-turing")
    assert (await kit.builder.lease("rtx-turing", machine=PC, versions=RTX)).build.spec.target == "rtx-turing"
    await create(kit, "jp6-orin")
    assert (await kit.builder.lease("jp6-orin", machine=ORIN)).build.spec.target == "jp6-orin"
    await create(kit)  # an older builder, which does not say what its machine is made of
    assert (await kit.builder.lease()).build.spec.target == "ort-cpu"


FALSE_REPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "another backend": ({"backend": "openvino"}, "its backend is openvino"),
    "another version of the runtime": ({"runtime_version": "0.9"}, "onnxruntime 0.9 built it"),
    "another target": ({"spec": {"target": "rtx-turing"}}, "its target is rtx-turing"),
    "another model": ({"spec": {"model_digest": "sha256:0"}}, "its model is sha256:0"),
    "another engine than was uploaded": ({"engine": {"digest": "sha256:1"}}, "its engine is sha256:1"),
    "a precision that nobody asked for": ({"precision": builds_pb2.PRECISION_INT8}, "its precision is int8"),
    "no word of what passed the gate": ({"verified_on": "faith"}, "names no backend"),
}


@pytest.mark.parametrize(("said", "text"), FALSE_REPORTS.values(), ids=FALSE_REPORTS.keys())
async def test_a_report_that_is_not_what_was_leased_is_a_failed_attempt(
    kit: Kit, said: dict[str, Any], text: str
) -> None:
    release = await create(kit)
    leased = await kit.builder.lease()
    made = engine_of(leased.build)
    await kit.builder.upload(made)
    request = builds_service_pb2.CompleteBuildRequest(
        lease_id=leased.lease_id, success=success_of(leased.build, made, **said), log_tail="what it did"
    )
    error = await refused(kit.builder.call(kit.builder.builds.CompleteBuild, request))
    assert isinstance(error, (errors.PreconditionError, errors.InvalidInputError))
    assert text in str(error)
    build = (await get(kit, release.id)).builds[0]
    assert (build.state, build.attempts, build.engine_digest) == (builds_pb2.BUILD_STATE_QUEUED, 1, "")
    assert text in build.reason
    assert build.reason.startswith("builder host/1: ")
    assert build.log_tail == "what it did"
    again = await kit.builder.lease(builder_id="host/2")
    assert (again.build.id, again.build.attempts) == (build.id, 2)


async def test_an_rtx_engine_that_is_none_is_a_failed_attempt(kit: Kit) -> None:
    release = await create(kit, "rtx-turing")
    leased = await kit.builder.lease("rtx-turing")
    garbage = b"x" * 500
    await kit.builder.upload(garbage)
    with pytest.raises(grpc.aio.AioRpcError, match="no whole engine of tensorrt-rtx"):
        await kit.builder.complete(leased.lease_id, success=success_of(leased.build, garbage))
    assert (await get(kit, release.id)).builds[0].state == builds_pb2.BUILD_STATE_QUEUED


async def test_an_engine_whose_upload_was_cut_half_way_registers_nothing_and_can_be_sent_again(kit: Kit) -> None:
    release = await create(kit)
    leased = await kit.builder.lease()
    made = engine_of(leased.build, b"engine" * 2000)
    with pytest.raises(grpc.aio.AioRpcError, match="ended at 5000"):
        await kit.builder.upload(made[:5000], digest=digest_bytes(made), size=len(made))
    success = success_of(leased.build, made)
    with pytest.raises(grpc.aio.AioRpcError, match="is not there"):
        await kit.builder.complete(leased.lease_id, success=success)
    build = (await get(kit, release.id)).builds[0]
    assert (build.state, build.engine_digest) == (builds_pb2.BUILD_STATE_BUILDING, "")
    await kit.builder.upload(made, offset=5000)
    await kit.builder.complete(leased.lease_id, success=success)
    assert (await get(kit, release.id)).state == wire.RELEASE_STATE_READY


async def test_a_build_that_fails_three_times_is_failed_with_its_log(kit: Kit) -> None:
    release = await create(kit)
    for attempt in range(1, 4):
        leased = await kit.builder.lease()
        assert leased.build.attempts == attempt
        failure = builds_service_pb2.BuildFailure(kind="BuildCrashError", reason="out of memory", retryable=True)
        await kit.builder.complete(leased.lease_id, failure=failure, log_tail=f"log of attempt {attempt}")
    ended = await get(kit, release.id)
    assert ended.state == wire.RELEASE_STATE_FAILED
    assert ended.reason == "ort-cpu: out of memory (attempt 3, the last)"
    build = ended.builds[0]
    assert (build.state, build.log_tail) == (builds_pb2.BUILD_STATE_FAILED, "log of attempt 3")


async def test_of_three_builders_one_dies_and_another_takes_its_build_over(kit: Kit) -> None:
    release = await create(kit, "ort-cpu", "rtx-turing", "rtx-ampere-plus")
    dead = await kit.builder.lease("ort-cpu", builder_id="dead/1")
    await kit.builder.build("rtx-turing")
    await kit.builder.build("rtx-ampere-plus")
    await passes(kit, 31)
    waiting = next(b for b in (await get(kit, release.id)).builds if b.id == dead.build.id)
    assert waiting.reason == "builder dead/1 fell silent"
    assert (await kit.builder.build()).id == dead.build.id
    assert (await get(kit, release.id)).state == wire.RELEASE_STATE_READY


# Builders that are missing


async def test_a_build_that_nobody_can_do_says_which_builder_is_missing_until_one_asks(kit: Kit) -> None:
    release = await create(kit, "jp6-orin")
    assert release.builds[0].missing_builder == ""  # the plane has just begun to listen
    watched = kit.operator.releases.WatchRelease(
        wire.WatchReleaseRequest(release_id=release.id), timeout=WAIT_S, metadata=kit.operator.said
    )
    pictures = aiter(watched)
    await anext(pictures)
    await passes(kit, 21)
    told = await eventually(pictures, lambda m: m.release.builds[0].missing_builder)
    assert told.release.builds[0].missing_builder == (
        "no builder for jp6-orin has asked for work: "
        "start `python -m model_compiler run` on a Jetson Orin with JetPack 6 and TensorRT 10.3"
    )
    await kit.builder.lease("jp6-orin", machine=ORIN)
    other = await create(kit, "jp6-orin")
    assert other.builds[0].missing_builder == ""  # it is at work, and will ask again
    await passes(kit, 61)
    assert "jp6-orin" in (await get(kit, other.id)).builds[0].missing_builder


async def test_a_builder_without_the_calibration_set_does_not_get_the_build(kit: Kit) -> None:
    release = await create(kit, calibration="street/2")
    builder = builds_service_pb2.BuilderFacts(builder_id="a/1", targets=["ort-cpu"], calibration_sets={"street/1": "x"})
    ask = builds_service_pb2.LeaseBuildRequest(builder=builder)
    assert not (await kit.builder.call(kit.builder.builds.LeaseBuild, ask)).lease_id
    await passes(kit, 21)
    build = (await get(kit, release.id)).builds[0]
    assert "has the calibration set street/2" in build.missing_builder
    leased = await kit.builder.lease(builder_id="b/1", calibration_sets={"street/2": "y"})
    assert leased.build.id == build.id


# Engines found again


async def found(client: Client, lease_id: str, **keys: str) -> builds_service_pb2.BuildSuccess | None:
    request = builds_service_pb2.FindEngineRequest(lease_id=lease_id, **keys)
    answer = await client.call(client.builds.FindEngine, request)
    return answer.success if answer.HasField("success") else None


async def test_an_engine_is_found_again_by_recipe_or_key_and_only_for_its_target(kit: Kit) -> None:
    await create(kit)
    first = await kit.builder.build(recipe="sha256:r", cache_key="sha256:k", seconds={"total": 3})
    await create(kit, "ort-cpu", "openvino-cpu")
    mine, other = await kit.builder.lease("ort-cpu"), await kit.builder.lease("openvino-cpu")
    assert await found(kit.builder, mine.lease_id, recipe="sha256:x") is None
    assert await found(kit.builder, other.lease_id, recipe="sha256:r", cache_key="sha256:k") is None
    again = await found(kit.builder, mine.lease_id, recipe="sha256:r")
    assert again is not None
    assert again == await found(kit.builder, mine.lease_id, recipe="sha256:new", cache_key="sha256:k")
    assert (again.cached, again.engine_digest) == (True, digest_bytes(engine_of(first)))
    assert json.loads(again.report_json)["seconds"] == {"total": 3}
    await kit.builder.complete(mine.lease_id, success=again)
    build = next(b for b in (await get(kit, "r-2")).builds if b.id == mine.build.id)
    assert (build.state, build.cached) == (builds_pb2.BUILD_STATE_SUCCEEDED, True)


@pytest.mark.parametrize("damaged", [False, True], ids=["gone", "damaged"])
async def test_an_engine_whose_file_is_gone_or_damaged_is_not_found(kit: Kit, damaged: bool) -> None:
    await create(kit)
    first = await kit.builder.build(recipe="sha256:r")
    file = kit.plane._artifacts.path(digest_bytes(engine_of(first)))
    if damaged:
        file.write_bytes(bytes(file.stat().st_size))
    else:
        file.unlink()
    await create(kit)
    leased = await kit.builder.lease()
    assert await found(kit.builder, leased.lease_id, recipe="sha256:r") is None


async def test_only_a_lease_that_holds_finds_anything(kit: Kit) -> None:
    release = await create(kit)
    leased = await kit.builder.lease()
    request = builds_service_pb2.FindEngineRequest(lease_id="l-nobody", recipe="sha256:r")
    error = await refused(kit.builder.call(kit.builder.builds.FindEngine, request))
    assert isinstance(error, errors.NotFoundError)
    cancel = wire.CancelReleaseRequest(release_id=release.id)
    await kit.operator.call(kit.operator.releases.CancelRelease, cancel)
    request.lease_id = leased.lease_id
    error = await refused(kit.builder.call(kit.builder.builds.FindEngine, request))
    assert isinstance(error, errors.PreconditionError)


async def test_another_file_of_the_same_model_may_use_what_the_cache_has(kit: Kit) -> None:
    """Two files that prepare to the same model have one key, and a report that names the first."""
    assert digest_bytes(MODEL) != "sha256:other"
    await create(kit)
    leased = await kit.builder.lease()
    made = engine_of(leased.build)
    await kit.builder.upload(made)
    said = success_of(leased.build, made, model_digest="sha256:other", cached=True)
    await kit.builder.complete(leased.lease_id, success=said)
    assert (await get(kit, "r-1")).state == wire.RELEASE_STATE_READY


def test_every_margin_has_its_range() -> None:
    from maskfleet.gate import RANGES

    assert [f.name for f in dataclasses.fields(Margins)] == list(RANGES)
