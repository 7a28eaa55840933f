"""Real agents that are cut off and killed while a rollout is judged: it goes back, says why, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from maskfleet.v1 import masking_pb2
from maskfleet.v1 import rollouts_service_pb2 as wire
from tests.integration.planes import generations, until
from tests.integration.real_fleet import FIRST, SECOND, RealFleet
from tests.integration.test_agent_process import prepared
from tests.integration.test_plane import state_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("agent-faults")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def processes(tmp_path_factory: pytest.TempPathFactory, centerface_path: Path) -> AsyncIterator[RealFleet]:
    """Two agents; every test leaves them where it found them, on the first release."""
    async with RealFleet(tmp_path_factory.mktemp("fleet"), prepared(centerface_path)) as made:
        await made.begin("a", "b")
        yield made


@pytest.fixture
def fleet(processes: RealFleet) -> Iterator[RealFleet]:
    """The fleet; whatever a test did to its networks is over afterwards."""
    yield processes
    for network in processes.networks.values():
        network.heal()


async def wanted(fleet: RealFleet, name: str) -> int:
    """The generation of what is wanted of an agent."""
    return (await generations(fleet.plane.url))[fleet.agents[name].device]


@pytest.mark.parametrize("has_it", [False, True], ids=["before it has the release", "while it soaks"])
async def test_an_agent_that_is_cut_off_for_a_whole_wave_is_silent_and_comes_back_to_its_baseline(
    fleet: RealFleet, *, has_it: bool
) -> None:
    network, before = fleet.networks["a"], await wanted(fleet, "a")
    await fleet.serves("a", FIRST, before)
    if not has_it:
        network.stall()
    rollout = await fleet.staged("a", silence_after=4)
    if has_it:
        await fleet.until(rollout.id, "SOAKING")
        await fleet.serves("a", SECOND, before + 1)
        network.stall()
    both = {"a": "REVERTING", "b": "REVERTED"}
    back = await fleet.until(rollout.id, "ROLLING_BACK", lambda r: state_of(r) == both)
    assert "a has been silent for" in back.reason
    assert "should report at least every 4 s" in back.reason

    await network.drop()  # and now somebody pulls the cable
    alone = await asyncio.to_thread(fleet.agents["a"].mask)
    assert alone.outcome == masking_pb2.OUTCOME_MASKED, "it masks on by itself"
    boot, last = fleet.kept("a")[-1]
    kept = await until(lambda: asyncio.to_thread(fleet.kept, "a"), lambda rows: bool(rows[-1][1] >= last + 2))
    assert {name for name, _ in kept} == {boot}
    seen = await fleet.until(rollout.id, "ROLLING_BACK")
    assert state_of(seen) == both, "it is waited for"

    network.heal()
    ended = await fleet.until(rollout.id, "ROLLED_BACK")
    assert ended.reason.startswith(back.reason)
    await fleet.serves("a", FIRST, before + 2)
    assert await wanted(fleet, "a") == before + 2
    told = await fleet.explained(rollout.id)
    assert f"the judge fails it: {back.reason}; so every device that has the release goes back" in told
    assert f"the rollout ended ROLLED_BACK: {back.reason}" in told
    stored = await fleet.handed_over("a", kept)
    sequences = [w.sequence for w in stored]
    assert sequences == list(range(kept[0][1], sequences[-1] + 1)), "each once, none missing"
    masked = [(w.window.release_id, w.window.frames_by_outcome["MASKED"]) for w in stored if w.window.frames_by_outcome]
    assert masked == [(SECOND if has_it else FIRST, 1)]


async def test_an_agent_that_is_killed_again_and_again_within_a_rollout_takes_the_release_back(
    fleet: RealFleet,
) -> None:
    before = await wanted(fleet, "a")
    await fleet.serves("a", FIRST, before)
    rollout = await fleet.staged("a", crash_loop_starts=3, silence_after=3600)
    await fleet.until(rollout.id, "SOAKING")
    for start in (1, 2, 3):
        fleet.kill("a")
        if start == 3:
            found: wire.Rollout = await fleet.until(rollout.id, "SOAKING")
            assert state_of(found)["a"] == "COMMITTED", "two starts are none"
        await fleet.start("a")
    ended = await fleet.until(rollout.id, "ROLLED_BACK")
    reason = "the agent of a started 3 times within the rollout; 3 are a crash loop"
    assert ended.reason.startswith(reason)
    told = await fleet.explained(rollout.id)
    assert f"wave 1: the judge fails it: {reason}; so every device that has the release goes back" in told
    await fleet.serves("a", FIRST, before + 2)
    assert await wanted(fleet, "a") == before + 2
    windows = [(w.boot_id, w.sequence) for w in await fleet.windows("a")]
    assert len(windows) == len(set(windows))
    assert (await asyncio.to_thread(fleet.agents["a"].mask)).outcome == masking_pb2.OUTCOME_MASKED
