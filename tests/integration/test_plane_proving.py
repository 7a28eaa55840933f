"""Engines that could not run on their builder, over real gRPC: wave 0, its proof, and what operators see of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from control_plane.config import Config
from control_plane.plane import Plane
from control_plane.registry import Registry
from control_plane.telemetry import Metrics
from maskfleet.clock import FakeClock
from maskfleet.v1 import builds_pb2, events_service_pb2, strategy_pb2
from maskfleet.v1 import releases_service_pb2 as releases
from maskfleet.v1 import rollouts_service_pb2 as wire
from tests.integration.test_plane import Kit, TestDevice, add_model, state_of


@pytest.fixture
async def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    monkeypatch.setattr(Registry, "warm_up", lambda _self: None)
    await add_model(tmp_path)
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    async with Plane.running(config, tmp_path, clock=FakeClock(datetime.now(timezone.utc)), metrics=Metrics()) as plane:
        kit = Kit(plane, plane._clock)  # type: ignore[arg-type]
        yield kit
        await kit.close()


async def unverified(kit: Kit, engine: bytes = b"one") -> str:
    """A release whose engine could not run on its builder."""
    request = releases.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
    made = (await kit.operator.call(kit.operator.releases.CreateRelease, request)).release
    await kit.builder.build(engine=engine, verified_on="prepared-onnx")
    return str(made.id)


async def build_of(kit: Kit, release_id: str) -> builds_pb2.Build:
    request = releases.GetReleaseRequest(release_id=release_id)
    return (await kit.operator.call(kit.operator.releases.GetRelease, request)).release.builds[0]


async def explained(kit: Kit, rollout_id: str) -> str:
    request = wire.ExplainRolloutRequest(rollout_id=rollout_id)
    answer = await kit.operator.call(kit.operator.rollouts.ExplainRollout, request)
    return "\n".join(answer.sentences)


async def test_an_engine_is_unverified_until_one_device_has_committed_it_and_then_everybody_gets_it(kit: Kit) -> None:
    release_id = await unverified(kit)
    assert (await build_of(kit, release_id)).verification == builds_pb2.VERIFICATION_UNVERIFIED_ON_HARDWARE
    devices = {name: await kit.device(name) for name in ("a", "b", "c")}
    rollout = await kit.roll_out(release_id)
    first = next(d for d in rollout.devices if d.wave == 0)
    assert rollout.reason == f"wave 0 of 1: ort-cpu is proved on {first.device_name}"
    assert [dict(w.proves) for w in rollout.strategy.waves] == [{"ort-cpu": first.device_name}, {}]
    assert sorted(state_of(rollout).values()) == ["PENDING", "PENDING", "UPDATING"]
    prover = devices[first.device_name]
    await prover.say(await prover.desired(), "COMMITTED")
    for name in set(devices) - {first.device_name}:
        await devices[name].say(await devices[name].desired(), "COMMITTED")
    done = await kit.until(rollout.id, "SUCCEEDED")
    assert done.wave == 1
    build = await build_of(kit, release_id)
    assert (build.verification, build.verified_by) == (builds_pb2.VERIFICATION_ON_DEVICE, prover.id)
    listing = events_service_pb2.ListEventsRequest(subject=release_id)
    told = [e.text for e in (await kit.operator.call(kit.operator.events.ListEvents, listing)).events]
    assert f"{first.device_name} has tested the engine of {release_id} for ort-cpu and committed it" in told
    assert f"before them comes wave 0: ort-cpu is proved on {first.device_name}" in await explained(kit, rollout.id)
    again = await kit.roll_out(release_id)  # what is proved needs no wave 0
    assert [dict(w.proves) for w in again.strategy.waves] == [{}]


async def test_a_device_that_refuses_in_wave_0_ends_the_rollout_and_nobody_else_ever_gets_it(kit: Kit) -> None:
    release_id = await unverified(kit)
    devices = {name: await kit.device(name) for name in ("a", "b")}
    rollout = await kit.roll_out(release_id)  # nobody asked for a judge
    first = next(d for d in rollout.devices if d.wave == 0).device_name
    await devices[first].say(await devices[first].desired(), "REVERTED", "the golden faces were not found")
    ended = await kit.until(rollout.id, "ROLLED_BACK")
    assert "the golden faces were not found" in ended.reason
    other = next(name for name in devices if name != first)
    assert state_of(ended) == {first: "FAILED", other: "REVERTED"}
    got = await build_of(kit, release_id)
    assert (got.verification, got.verified_by) == (builds_pb2.VERIFICATION_UNVERIFIED_ON_HARDWARE, "")
    story = await explained(kit, rollout.id)
    assert "wave 0: the judge fails it" in story
    request = wire.GetRolloutRequest(rollout_id=rollout.id)
    told = (await kit.operator.call(kit.operator.rollouts.GetRollout, request)).rollout
    assert [d.baseline_release_id for d in told.devices] == ["", ""]


async def test_a_device_that_is_there_proves_and_a_strategy_that_is_sent_again_gets_a_wave_0_of_its_own(
    kit: Kit,
) -> None:
    release_id = await unverified(kit)
    for name in ("a", "c"):  # these have enrolled, and are not there
        await TestDevice(kit.plane.address, name).enrol(await kit.join_token())
    await kit.device("b")
    waves = [
        strategy_pb2.WaveSpec(share=strategy_pb2.Share(count=9), proves={"ort-cpu": "z"}),
        strategy_pb2.WaveSpec(share=strategy_pb2.Share(percent=100)),
    ]
    request = wire.CreateRolloutRequest(release_id=release_id, strategy=strategy_pb2.RolloutStrategy(waves=waves))
    rollout = (await kit.operator.call(kit.operator.rollouts.CreateRollout, request)).rollout
    assert [dict(w.proves) for w in rollout.strategy.waves] == [{"ort-cpu": "b"}, {}]
