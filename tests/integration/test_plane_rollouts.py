"""Staged rollouts over real gRPC: what an operator sends, sees and is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from control_plane.config import Config
from control_plane.plane import Plane
from control_plane.registry import Registry
from control_plane.telemetry import Metrics
from edge_agent.codec import result_message
from edge_agent.pipeline import FrameMasker, Wanted
from edge_agent.telemetry import Telemetry
from edge_agent.updates.codec import window_message
from edge_agent.updates.windows import Counts
from maskfleet import errors
from maskfleet.clock import FakeClock
from maskfleet.errors import FleetError
from maskfleet.v1 import (
    decisions_pb2,
    devices_pb2,
    devices_service_pb2,
    masking_pb2,
    strategy_pb2,
)
from maskfleet.v1 import rollouts_service_pb2 as wire
from tests.integration.test_plane import (
    Client,
    Kit,
    TestDevice,
    add_model,
    refused,
    state_of,
)
from tests.unit.edge_agent.test_pipeline import Bench, shows_its_source

FAST, SLOW = (0, 100, 0, 0), (0, 0, 100, 0)  # frames up to 10, 50, 500 and more milliseconds


@pytest.fixture
async def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    monkeypatch.setattr(Registry, "warm_up", lambda _self: None)
    await add_model(tmp_path)
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    async with Plane.running(config, tmp_path, clock=FakeClock(datetime.now(timezone.utc)), metrics=Metrics()) as plane:
        kit = Kit(plane, plane._clock)  # type: ignore[arg-type]
        yield kit
        await kit.close()


def strategy(*, soak: int = 6, **judge: Any) -> strategy_pb2.RolloutStrategy:
    return strategy_pb2.RolloutStrategy(
        waves=[
            strategy_pb2.WaveSpec(share=strategy_pb2.Share(count=1), soak=Duration(seconds=soak)),
            strategy_pb2.WaveSpec(share=strategy_pb2.Share(percent=100)),
        ],
        control_holdout=strategy_pb2.Share(count=1),
        strata=["site"],
        judge=strategy_pb2.JudgePolicy(**{"min_frames": 50, **judge}),
    )


async def create(operator: Client, release_id: str, plan: strategy_pb2.RolloutStrategy) -> wire.Rollout:
    request = wire.CreateRolloutRequest(release_id=release_id, strategy=plan)
    return (await operator.call(operator.rollouts.CreateRollout, request)).rollout


async def call(operator: Client, verb: str, rollout_id: str) -> Any:
    request = getattr(wire, f"{verb}RolloutRequest")(rollout_id=rollout_id)
    return (await operator.call(getattr(operator.rollouts, f"{verb}Rollout"), request)).rollout


async def decisions(operator: Client, rollout_id: str, **fields: Any) -> Any:
    request = wire.ListDecisionsRequest(rollout_id=rollout_id, **fields)
    return await operator.call(operator.rollouts.ListDecisions, request)


class Windows:
    """A device's health windows, one after the other."""

    def __init__(self, device: TestDevice) -> None:
        self.device, self.sequence = device, 0

    async def send(self, release_id: str, counts: tuple[int, ...]) -> None:
        self.sequence += 1
        window = devices_pb2.HealthWindow(
            boot_id="b1", sequence=self.sequence, start_monotonic_ns=self.sequence * 10**9,
            end_monotonic_ns=(self.sequence + 1) * 10**9, release_id=release_id, starts=1,
            frames_by_outcome={"MASKED": sum(counts)},
            latency_ms_by_stage={"TOTAL": devices_pb2.Histogram(bounds=[10, 50, 500], counts=counts, sum=1000)},
        )  # fmt: skip
        await self.device.send(health=window)
        while (await self.device.read()).health_ack.sequence != self.sequence:
            pass


async def passes(kit: Kit, seconds: int) -> None:
    """Time passes, and the plane's rounds with it."""
    assert isinstance(kit.clock, FakeClock)
    for _ in range(seconds):
        kit.clock.advance(timedelta(seconds=1))
        await kit.plane.tick()


async def three_on_a_first_release(kit: Kit) -> tuple[dict[str, TestDevice], str]:
    """Devices that run a release, and the id of the next one."""
    first, second = await kit.release(), await kit.release()
    devices = {name: await kit.device(name, labels={"site": "berlin"}) for name in ("a", "b", "c")}
    rollout = await kit.roll_out(first.id)
    for device in devices.values():
        await device.say(await device.desired(), "COMMITTED")
    await kit.until(rollout.id, "SUCCEEDED")
    return devices, second.id


async def a_canary_soaks(kit: Kit, **judge: Any) -> tuple[wire.Rollout, dict[str, TestDevice]]:
    devices, release_id = await three_on_a_first_release(kit)
    rollout = await create(kit.operator, release_id, strategy(**judge))
    canary = next(d.device_name for d in rollout.devices if d.cohort == decisions_pb2.COHORT_CANARY)
    await devices[canary].say(await devices[canary].desired(), "COMMITTED")
    return await kit.until(rollout.id, "SOAKING"), devices


async def report(kit: Kit, rollout: wire.Rollout, devices: dict[str, TestDevice], canary: tuple[int, ...]) -> None:
    """Every device has served for a while: the canary as it is said, the others fast."""
    await passes(kit, 1)
    for member in rollout.devices:
        new = member.cohort == decisions_pb2.COHORT_CANARY
        release_id = rollout.release_id if new else member.baseline_release_id
        await Windows(devices[member.device_name]).send(release_id, canary if new else FAST)


async def test_a_canary_that_is_as_good_is_promoted_by_the_judge(kit: Kit) -> None:
    rollout, devices = await a_canary_soaks(kit)
    assert (rollout.wave, rollout.waves, rollout.device_count) == (0, 2, 3)
    assert rollout.strategy.seed
    assert rollout.strategy.judge.kind == strategy_pb2.JUDGE_KIND_THRESHOLDS
    assert {d.stratum for d in rollout.devices} == {"site=berlin"}
    cohorts = sorted(decisions_pb2.Cohort.Name(d.cohort) for d in rollout.devices)
    assert cohorts == ["COHORT_CANARY", "COHORT_CONTROL", "COHORT_UNSPECIFIED"]
    left = rollout.soak_end_time.ToDatetime(timezone.utc) - kit.clock.now()
    assert timedelta(0) < left <= timedelta(seconds=6)
    await report(kit, rollout, devices, FAST)
    await passes(kit, 6)
    rollout = await call(kit.operator, "Get", rollout.id)
    assert rollout.state == wire.ROLLOUT_STATE_PROGRESSING
    assert rollout.wave == 1
    passed = next(d for d in (await decisions(kit.operator, rollout.id)).decisions if d.action == "advance")
    assert (passed.verdict, passed.wave, passed.statistical) == (decisions_pb2.VERDICT_PASS, 0, False)
    assert rollout.HasField("decision")
    assert not rollout.HasField("soak_end_time")
    assert {s.cohort for s in rollout.series} == {decisions_pb2.COHORT_CANARY}
    assert state_of(rollout) == dict.fromkeys("abc", "UPDATING") | {
        d.device_name: "COMMITTED" for d in rollout.devices if d.wave == 0
    }


async def test_a_canary_that_is_slower_goes_back_by_itself_and_explain_says_why(kit: Kit) -> None:
    rollout, devices = await a_canary_soaks(kit)
    await report(kit, rollout, devices, SLOW)
    await passes(kit, 6)
    canary = next(d for d in rollout.devices if d.cohort == decisions_pb2.COHORT_CANARY)
    back = await devices[canary.device_name].desired()
    assert back.components[0].release_id == canary.baseline_release_id
    await devices[canary.device_name].say(back, "COMMITTED")
    ended = await kit.until(rollout.id, "ROLLED_BACK")
    assert "p95" in ended.reason
    listed = await decisions(kit.operator, rollout.id)
    newest = listed.decisions[0]
    assert (newest.verdict, newest.action) == (decisions_pb2.VERDICT_FAIL, "roll back")
    assert json.loads(newest.inputs_json)
    paged = await decisions(kit.operator, rollout.id, page_size=1)
    assert [d.id for d in paged.decisions] == [newest.id]
    rest = await decisions(kit.operator, rollout.id, page_token=paged.next_page_token)
    assert [d.id for d in rest.decisions] == [d.id for d in listed.decisions[1:]]
    told = await kit.operator.call(
        kit.operator.rollouts.ExplainRollout, wire.ExplainRolloutRequest(rollout_id=rollout.id)
    )
    assert any("p95" in sentence for sentence in told.sentences)
    assert told.rollout.state == wire.ROLLOUT_STATE_ROLLED_BACK


async def test_one_frame_that_its_agent_finds_unmasked_takes_the_release_back(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, devices = await a_canary_soaks(kit)
    canary = next(d for d in rollout.devices if d.cohort == decisions_pb2.COHORT_CANARY)
    agent, counts = Bench(), Counts("b1", starts=1, start_ns=0)
    telemetry = Telemetry(counts)
    agent.serving.swap(dataclasses.replace(agent.release, release_id=rollout.release_id))
    agent.masker = FrameMasker(agent.serving, Wanted(), clock=agent.clock, observe=telemetry.frame)
    assert result_message(1, agent.mask()).outcome == masking_pb2.OUTCOME_MASKED
    shows_its_source(agent, monkeypatch)
    result = result_message(2, agent.mask())
    assert (result.outcome, result.WhichOneof("payload")) == (masking_pb2.OUTCOME_DROPPED, None)
    assert "a face came through" in result.detail
    counted = telemetry.registry.get_sample_value(
        "maskfleet_frames_total", {"outcome": "DROPPED", "reason": "SOURCE_FRAME"}
    )
    assert counted == 1.0
    await passes(kit, 1)
    for window in counts.closed(10**9, serving=rollout.release_id, temperatures={}):
        await devices[canary.device_name].send(health=window_message(window))
    while not (await devices[canary.device_name].read()).HasField("health_ack"):
        pass
    await passes(kit, 1)
    back = await devices[canary.device_name].desired()
    await devices[canary.device_name].say(back, "COMMITTED")
    ended = await kit.until(rollout.id, "ROLLED_BACK")
    assert f"{canary.device_name} let 1 frame through" in ended.reason


async def test_an_operator_pauses_resumes_and_promotes(kit: Kit) -> None:
    rollout, devices = await a_canary_soaks(kit)
    assert (await call(kit.operator, "Pause", rollout.id)).state == wire.ROLLOUT_STATE_PAUSED
    await passes(kit, 1)
    assert (await call(kit.operator, "Resume", rollout.id)).state == wire.ROLLOUT_STATE_SOAKING
    assert isinstance(await refused(call(kit.operator, "Resume", rollout.id)), errors.PreconditionError)
    promoted = await call(kit.operator, "Promote", rollout.id)
    assert (promoted.state, promoted.wave) == (wire.ROLLOUT_STATE_PROGRESSING, 1)
    for member in promoted.devices:
        if member.wave == 1:
            device = devices[member.device_name]
            await device.say(await device.desired(), "COMMITTED")
    ended = await kit.until(rollout.id, "SUCCEEDED")
    told = await kit.operator.call(
        kit.operator.rollouts.ExplainRollout, wire.ExplainRolloutRequest(rollout_id=rollout.id)
    )
    did = [s.partition("an operator ")[2].partition(":")[0] for s in told.sentences if ": an operator " in s]
    assert did == ["paused it", "went on with it", "promoted it"]
    assert isinstance(await refused(call(kit.operator, "Pause", rollout.id)), errors.PreconditionError)
    assert isinstance(await refused(call(kit.operator, "Promote", "ro-99")), errors.NotFoundError)
    assert isinstance(await refused(decisions(kit.operator, "ro-99")), errors.NotFoundError)
    listing = await kit.operator.call(kit.operator.rollouts.ListRollouts, wire.ListRolloutsRequest())
    assert [(r.id, r.device_count, r.HasField("decision")) for r in listing.rollouts] == [
        (ended.id, 3, False), ("ro-1", 3, False),
    ]  # fmt: skip


async def test_a_selector_that_matches_nobody_any_more_changes_nothing_and_explain_says_so(kit: Kit) -> None:
    devices, release_id = await three_on_a_first_release(kit)
    request = wire.CreateRolloutRequest(release_id=release_id, selector="site=berlin", strategy=strategy())
    rollout = (await kit.operator.call(kit.operator.rollouts.CreateRollout, request)).rollout
    canary = next(d.device_name for d in rollout.devices if d.cohort == decisions_pb2.COHORT_CANARY)
    await devices[canary].say(await devices[canary].desired(), "COMMITTED")
    await kit.until(rollout.id, "SOAKING")
    for name in devices:
        relabel = devices_service_pb2.LabelDeviceRequest(device=name, set={"site": "paris"})
        await kit.operator.call(kit.operator.devices.LabelDevice, relabel)
    told = await kit.operator.call(
        kit.operator.rollouts.ExplainRollout, wire.ExplainRolloutRequest(rollout_id=rollout.id)
    )
    (sentence,) = [s for s in told.sentences if "no longer match" in s]
    assert "no longer match site=berlin and stay: which devices a rollout has was settled" in sentence
    promoted = await call(kit.operator, "Promote", rollout.id)
    for member in promoted.devices:
        if member.device_name != canary:
            device = devices[member.device_name]
            desired = await device.desired()
            assert desired.components[0].release_id == release_id
            await device.say(desired, "COMMITTED")
    assert state_of(await kit.until(rollout.id, "SUCCEEDED")) == dict.fromkeys("abc", "COMMITTED")


async def test_a_strategy_that_makes_no_sense_is_refused_by_name(kit: Kit) -> None:
    release = await kit.release()
    await kit.device("a")

    async def attempt(plan: strategy_pb2.RolloutStrategy) -> FleetError:
        return await refused(create(kit.operator, release.id, plan))

    falls = strategy()
    falls.waves[0].share.percent = 60
    falls.waves[1].share.percent = 30
    for plan, text in (
        (strategy_pb2.RolloutStrategy(), "no waves"),
        (falls, "wave 2 has 30 %, and wave 1 has 60 % already"),
        (strategy(), "leaves none of 1 device"),
        (strategy(max_p95_ratio=0.5), "max_p95_ratio"),
    ):
        error = await attempt(plan)
        assert type(error) is errors.InvalidInputError
        assert text in str(error)
