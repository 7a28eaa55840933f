"""Two planes on one PostgreSQL, and a rollout that is judged: what is said to the plane that does not drive counts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.duration_pb2 import Duration

from maskfleet.v1 import decisions_pb2
from maskfleet.v1 import rollouts_service_pb2 as wire
from tests.integration.planes import Pair, in_state, pair, watched
from tests.integration.test_plane import Client, TestDevice, state_of
from tests.integration.test_plane_rollouts import FAST, SLOW, Windows, create, decisions, strategy

__all__ = ["pair"]  # the fixture
SILENCE_S = 6


@dataclasses.dataclass
class Staged:
    """A rollout whose canary soaks.

    Attributes:
        operator: at the plane that drives.
        rollout: as it was when the soak began.
        canary: whose stream is at the other plane.
        control: whose stream is at the plane that drives.
        last: of the last wave; at the other plane too, and it says nothing but what it is asked.
    """

    operator: Client
    rollout: wire.Rollout
    canary: TestDevice
    control: TestDevice
    last: TestDevice


async def staged(pair: Pair, **judge: Any) -> Staged:
    """The first plane drives; the canary and the one whose turn comes last are at the second."""
    operator = await pair.client(pair.one)
    devices = {name: await pair.device(name, pair.two) for name in ("a", "b", "c")}
    first = await pair.rolled_out(pair.one)
    for device in devices.values():
        await device.say(await device.desired(), "COMMITTED")
    await watched(operator, first, in_state("SUCCEEDED"))
    plan = strategy(soak=SILENCE_S + 3, silence_after=Duration(seconds=SILENCE_S), **judge)
    plan.expire_after.FromSeconds(SILENCE_S)
    rollout = await create(operator, await pair.made_release(pair.two), plan)
    by_cohort = {d.cohort: devices[d.device_name] for d in rollout.devices}
    canary, control = by_cohort[decisions_pb2.COHORT_CANARY], by_cohort[decisions_pb2.COHORT_CONTROL]
    last = by_cohort[decisions_pb2.COHORT_UNSPECIFIED]
    await control.disconnect()
    control.address = pair.one.address
    await control.connect()
    await canary.say(await canary.desired(), "COMMITTED")
    await watched(operator, rollout.id, in_state("SOAKING"))
    return Staged(operator, rollout, canary, control, last)


@contextlib.asynccontextmanager
async def reporting(story: Staged, canary: tuple[int, ...] | None = None) -> AsyncIterator[None]:
    """The control device reports every second for the block, and the canary where it is said what."""

    async def report(device: TestDevice, release_id: str, counts: tuple[int, ...]) -> None:
        windows = Windows(device)
        while True:
            await windows.send(release_id, counts)
            await asyncio.sleep(1)

    (baseline,) = {d.baseline_release_id for d in story.rollout.devices}
    tasks = [asyncio.create_task(report(story.control, baseline, FAST))]
    if canary is not None:
        tasks.append(asyncio.create_task(report(story.canary, story.rollout.release_id, canary)))
    try:
        yield
        assert not any(task.done() for task in tasks), "they could report to the end"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def goes_back(pair: Pair, story: Staged) -> wire.Rollout:
    """The canary hears of it when it connects again, and the other plane shows the end."""
    await story.canary.disconnect()
    await story.canary.connect()
    back = await story.canary.desired()
    assert (back.components[0].release_id, back.generation) == (story.rollout.devices[0].baseline_release_id, 3)
    await story.canary.say(back, "COMMITTED")
    ended = await watched(await pair.client(pair.two), story.rollout.id, in_state("ROLLED_BACK"))
    assert isinstance(ended, wire.Rollout)
    return ended


async def test_a_canary_at_the_plane_that_does_not_drive_is_neither_silent_nor_expired_and_passes(pair: Pair) -> None:
    story = await staged(pair)
    async with reporting(story, FAST):
        seen = await watched(story.operator, story.rollout.id, lambda r: r.wave == 1)
    assert state_of(seen)[story.last.name] == "UPDATING", "it was there all the while, and expires no more than those"
    made = (await decisions(story.operator, story.rollout.id)).decisions
    assert not [reason for decision in made for reason in decision.reasons if "silent" in reason]
    passed = next(d for d in made if d.action == "advance")
    assert passed.verdict == decisions_pb2.VERDICT_PASS
    assert any("p95 latency" in reason for reason in passed.reasons), "their windows were compared"


async def test_a_slow_canary_at_the_plane_that_does_not_drive_takes_the_release_back(pair: Pair) -> None:
    story = await staged(pair)
    async with reporting(story, SLOW):
        await watched(story.operator, story.rollout.id, in_state("ROLLING_BACK"))
    assert "p95 latency" in (await goes_back(pair, story)).reason


async def test_a_canary_that_falls_silent_at_the_plane_that_does_not_drive_is_found_out(pair: Pair) -> None:
    story = await staged(pair)
    async with reporting(story):
        await watched(story.operator, story.rollout.id, in_state("ROLLING_BACK"))
    assert f"{story.canary.name} has been silent for" in (await goes_back(pair, story)).reason
