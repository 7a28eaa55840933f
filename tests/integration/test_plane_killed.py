"""A plane killed (SIGKILL) while rollouts stand in every state that a rollout can stand in; each is ended after that.

All of them are under way in one plane, each with two devices of its own, and one kill meets them all. PENDING lasts
from one transaction to the next; here the database refuses the second one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from control_plane.domain.health import StoredWindow
from control_plane.domain.rollout import ENDED, RolloutState
from control_plane.store.sql import SqlStore
from maskfleet.v1 import (
    decisions_pb2,
    devices_pb2,
    devices_service_pb2,
    events_service_pb2,
    releases_service_pb2,
    strategy_pb2,
)
from maskfleet.v1 import rollouts_service_pb2 as wire
from tests.integration.planes import PlaneProcess, generations, in_state, watched
from tests.integration.test_plane import Client, TestDevice, add_model, refused, state_of
from tests.integration.test_plane_rollouts import call, decisions

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("plane-killed")]

FIRST, SECOND = "r-1", "r-2"
REFUSING = """
CREATE TRIGGER refusing BEFORE UPDATE ON rollouts WHEN NEW.body LIKE '%case=PENDING%'
BEGIN SELECT RAISE(ABORT, 'the disk is on fire'); END
"""


def plan(soak: int = 0, **judge: Any) -> strategy_pb2.RolloutStrategy:
    """One device, then the other; what they do not say is no silence here."""
    return strategy_pb2.RolloutStrategy(
        waves=[
            strategy_pb2.WaveSpec(share=strategy_pb2.Share(count=1), soak=Duration(seconds=soak)),
            strategy_pb2.WaveSpec(share=strategy_pb2.Share(percent=100)),
        ],
        judge=strategy_pb2.JudgePolicy(
            **{"kind": strategy_pb2.JUDGE_KIND_NONE, "silence_after": Duration(seconds=3600)} | judge
        ),
    )


@dataclasses.dataclass
class Story:
    """A rollout that was killed with its plane.

    Attributes:
        rollout: as the operator saw it last.
        canary: of the first wave.
        other: of the second.
        told: its decisions before the kill, oldest first.
        events: ids of its events before the kill.
        wanted: what was last wanted of the canary before the kill.
    """

    rollout: wire.Rollout
    canary: TestDevice
    other: TestDevice
    told: list[decisions_pb2.Decision] = dataclasses.field(default_factory=list)
    events: list[int] = dataclasses.field(default_factory=list)
    wanted: devices_pb2.DesiredState | None = None

    async def take(self) -> devices_pb2.DesiredState:
        """The canary is told something."""
        self.wanted = await self.canary.desired()
        return self.wanted

    async def commit(self) -> None:
        """The canary commits what it is told."""
        await self.canary.say(await self.take(), "COMMITTED")

    async def fail_self_test(self) -> None:
        """The canary says in a health window that a self-test failed, and the plane has it."""
        window = devices_pb2.HealthWindow(
            boot_id="b1", sequence=1, end_monotonic_ns=10**9, release_id=SECOND, starts=1,
            self_tests_by_result={"failed": 1},
        )  # fmt: skip
        await self.canary.send(health=window)
        assert (await self.canary.read()).health_ack.sequence == 1


class World:
    """A plane, two releases, two devices for each state, and an operator."""

    def __init__(self, folder: Path) -> None:
        self.plane = PlaneProcess(folder)
        self.operator: Client
        self.devices: dict[str, list[TestDevice]] = {}
        self.stories: dict[str, Story] = {}

    async def up(self) -> None:
        await self.plane.start()
        self.operator = Client(self.plane.address, self.plane.operator)

    async def down(self) -> None:
        await self.plane.kill()
        await self.operator.channel.close()
        for pair in self.devices.values():
            for device in pair:
                await device.disconnect()

    async def begin(self) -> None:
        """Everybody runs the first release, and there is a second."""
        self.plane.folder.mkdir(mode=0o700)
        await add_model(self.plane.folder)
        await self.up()
        async with Client(self.plane.address, self.plane.builder) as builder:
            for release in (FIRST, SECOND):
                create = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
                made = (await self.operator.call(self.operator.releases.CreateRelease, create)).release
                assert made.id == release
                await builder.build(engine=release.encode())
        for case in STATES:
            request = devices_service_pb2.CreateJoinTokenRequest(labels={"case": case}, max_uses=2)
            token = (await self.operator.call(self.operator.devices.CreateJoinToken, request)).token
            names = [f"{case.lower()}-{n}" for n in (1, 2)]
            self.devices[case] = [await (await TestDevice(self.plane.address, n).enrol(token)).connect() for n in names]
        plain = wire.CreateRolloutRequest(release_id=FIRST)
        first = (await self.operator.call(self.operator.rollouts.CreateRollout, plain)).rollout
        for pair in self.devices.values():
            for device in pair:
                await device.say(await device.desired(), "COMMITTED")
        await watched(self.operator, first.id, in_state("SUCCEEDED"))

    def asked(self, case: str, strategy: strategy_pb2.RolloutStrategy) -> wire.CreateRolloutRequest:
        return wire.CreateRolloutRequest(
            release_id=SECOND, selector=f"case={case}", strategy=strategy, request_id=f"once-{case}"
        )

    async def story(self, case: str, rollout: wire.Rollout) -> Story:
        names = {d.device_name: d.wave for d in rollout.devices}
        canary, other = sorted(self.devices[case], key=lambda device: names[device.name])
        self.stories[case] = Story(rollout, canary, other)
        return self.stories[case]

    async def created(self, case: str, strategy: strategy_pb2.RolloutStrategy) -> Story:
        answer = await self.operator.call(self.operator.rollouts.CreateRollout, self.asked(case, strategy))
        return await self.story(case, answer.rollout)

    async def stands(self, case: str, state: str = "") -> None:
        """Waits until a rollout stands where it should, and remembers what is known of it then."""
        story = self.stories[case]
        story.rollout = await watched(self.operator, story.rollout.id, in_state(state or case))
        story.told = list((await decisions(self.operator, story.rollout.id)).decisions)[::-1]
        story.events = await self.events(story.rollout.id)

    async def events(self, subject: str) -> list[int]:
        request = events_service_pb2.ListEventsRequest(subject=subject, page_size=500)
        listed = await self.operator.call(self.operator.events.ListEvents, request)
        return sorted(event.number for event in listed.events)


# How each state is reached


async def pending(world: World) -> None:
    with contextlib.closing(sqlite3.connect(world.plane.folder / "plane.db")) as database:
        database.execute(REFUSING)
    create = world.operator.call(world.operator.rollouts.CreateRollout, world.asked("PENDING", plan()))
    await refused(create)
    listed = await world.operator.call(world.operator.rollouts.ListRollouts, wire.ListRolloutsRequest())
    await world.story("PENDING", await call(world.operator, "Get", listed.rollouts[0].id))


async def progressing(world: World) -> None:
    story = await world.created("PROGRESSING", plan())
    await story.canary.say(await story.take(), "DOWNLOADING", bytes_done=1, bytes_total=2)


async def soaking(world: World) -> None:
    story = await world.created("SOAKING", plan(soak=3600))
    await story.commit()


async def held(world: World) -> None:
    kind = strategy_pb2.JUDGE_KIND_THRESHOLDS
    story = await world.created("HELD", plan(kind=kind, patience=Duration(seconds=0)))
    await story.commit()


async def paused(world: World) -> None:
    story = await world.created("PAUSED", plan())
    await story.take()
    await call(world.operator, "Pause", story.rollout.id)


async def rolling_back(world: World) -> None:
    story = await world.created("ROLLING_BACK", plan(soak=3600))
    await story.commit()
    await watched(world.operator, story.rollout.id, in_state("SOAKING"))
    await story.fail_self_test()
    await watched(world.operator, story.rollout.id, in_state("ROLLING_BACK"))
    await story.take()


async def aborting(world: World) -> None:
    story = await world.created("ABORTING", plan())
    await story.take()
    await call(world.operator, "Abort", story.rollout.id)
    await story.take()


REACHED: dict[str, Callable[[World], Awaitable[None]]] = {
    "PROGRESSING": progressing,
    "SOAKING": soaking,
    "HELD": held,
    "PAUSED": paused,
    "ROLLING_BACK": rolling_back,
    "ABORTING": aborting,
    "PENDING": pending,
}
STATES = tuple(REACHED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """The world after the kill and the plane's return; no device has come back yet."""
    made = World(tmp_path_factory.mktemp("killed"))
    try:
        await made.begin()
        for case, reach in REACHED.items():
            await reach(made)
            await made.stands(case)
        await made.down()
        with contextlib.closing(sqlite3.connect(made.plane.folder / "plane.db")) as database:
            database.execute("DROP TRIGGER refusing")
        await made.up()
        yield made
    finally:
        await made.down()


async def comes_back(world: World, case: str, *, state: str = "") -> Story:
    """The rollout is what it was, with all that was written about it, and its devices return."""
    story = world.stories[case]
    found = await call(world.operator, "Get", story.rollout.id)
    assert wire.RolloutState.Name(found.state) == f"ROLLOUT_STATE_{state or case}"
    before = story.rollout
    assert (found.strategy, found.selector, found.release_id) == (before.strategy, before.selector, before.release_id)
    drawn = [(d.device_id, d.wave, d.baseline_release_id) for d in found.devices]
    assert drawn == [(d.device_id, d.wave, d.baseline_release_id) for d in before.devices]
    if not state:
        assert (found.reason, found.wave, state_of(found)) == (before.reason, before.wave, state_of(before))
    for device in (story.other, story.canary):
        await device.connect()
    return story


async def ends(world: World, story: Story, state: str, *words: str, generations_: tuple[int, int]) -> list[str]:
    """It ends with its reason in plain words, and nothing that was known before the kill is lost or was done twice."""
    ended = await watched(world.operator, story.rollout.id, in_state(state))
    told = await world.operator.call(
        world.operator.rollouts.ExplainRollout, wire.ExplainRolloutRequest(rollout_id=ended.id)
    )
    sentences = list(told.sentences)
    assert f"the rollout ended {state}: {ended.reason}" in sentences[-1]
    for word in words:
        assert word in sentences[-1]
    listed = list((await decisions(world.operator, ended.id)).decisions)[::-1]
    assert listed[: len(story.told)] == story.told
    assert [d.id for d in listed] == [f"{ended.id}/{n}" for n in range(1, len(listed) + 1)]
    assert (await world.events(ended.id))[: len(story.events)] == story.events
    known = await generations(world.plane.url)
    assert (known[story.canary.id], known[story.other.id]) == generations_, "nobody was told twice"
    return sentences


async def rest_commits(story: Story, *, generation: int = 2) -> None:
    """The second wave opens for the other device, that has been sent its baseline once more on its return."""
    desired = await story.other.desired()
    while desired.generation < generation:
        desired = await story.other.desired()
    assert desired.components[0].release_id == SECOND
    await story.other.say(desired, "COMMITTED")


async def canary_hears_again(story: Story) -> None:
    """The very envelope that it was sent before the kill."""
    assert story.wanted is not None
    again = await story.canary.desired()
    assert (again.generation, again.assignment) == (story.wanted.generation, story.wanted.assignment)


async def test_pending_begins_and_the_request_that_was_refused_finds_it(world: World) -> None:
    story = await comes_back(world, "PENDING", state="PROGRESSING")
    request = world.asked("PENDING", plan())
    again = await world.operator.call(world.operator.rollouts.CreateRollout, request)
    assert again.rollout.id == story.rollout.id
    await story.commit()
    await rest_commits(story)
    await ends(world, story, "SUCCEEDED", "all 2 devices committed r-2", generations_=(2, 2))


async def test_progressing_goes_on_with_the_same_assignment(world: World) -> None:
    story = await comes_back(world, "PROGRESSING")
    await canary_hears_again(story)
    assert story.wanted is not None
    await story.canary.say(story.wanted, "COMMITTED")
    await rest_commits(story)
    await ends(world, story, "SUCCEEDED", "all 2 devices committed r-2", generations_=(2, 2))


async def test_soaking_goes_on_where_it_was_and_is_still_judged(world: World) -> None:
    story = await comes_back(world, "SOAKING")
    found = await call(world.operator, "Get", story.rollout.id)
    assert found.soak_end_time.ToDatetime() > story.rollout.soak_end_time.ToDatetime(), "nobody watched meanwhile"
    await canary_hears_again(story)
    await story.fail_self_test()
    await watched(world.operator, story.rollout.id, in_state("ROLLING_BACK"))
    await story.commit()
    sentences = await ends(world, story, "ROLLED_BACK", "failed 1 golden self-test", generations_=(3, 1))
    assert any("the judge fails it" in s and "goes back to what it ran before" in s for s in sentences)


async def test_held_stays_held_for_its_operator(world: World) -> None:
    story = await comes_back(world, "HELD")
    assert "the judge could not tell in time" in story.rollout.reason
    await call(world.operator, "Promote", story.rollout.id)
    await rest_commits(story)
    sentences = await ends(world, story, "SUCCEEDED", "all 2 devices committed r-2", generations_=(2, 2))
    assert any("the rollout is held for an operator" in s for s in sentences)


async def test_paused_stays_paused_until_it_is_resumed(world: World) -> None:
    story = await comes_back(world, "PAUSED")
    await canary_hears_again(story)
    assert story.wanted is not None
    await story.canary.say(story.wanted, "COMMITTED")
    canary = story.canary.name
    seen = await watched(world.operator, story.rollout.id, lambda r: state_of(r)[canary] == "COMMITTED")
    assert in_state("PAUSED")(seen)
    await call(world.operator, "Resume", story.rollout.id)
    await rest_commits(story)
    await ends(world, story, "SUCCEEDED", "all 2 devices committed r-2", generations_=(2, 2))


async def test_rolling_back_ends_on_the_baseline_and_the_window_that_did_it_is_kept_once(world: World) -> None:
    story = await comes_back(world, "ROLLING_BACK")
    await canary_hears_again(story)
    assert story.wanted is not None
    assert story.wanted.components[0].release_id == FIRST
    await story.fail_self_test()  # once more: its acknowledgement may have been lost
    await story.canary.say(story.wanted, "COMMITTED")
    await ends(world, story, "ROLLED_BACK", "failed 1 golden self-test", generations_=(3, 1))
    store = await SqlStore.opened(world.plane.url)
    async with store.reading() as look:
        kept = await look.select(StoredWindow, {"device_id": story.canary.id})
    await store.close()
    assert [(w.boot_id, w.sequence) for w in kept] == [("b1", 1)]


async def test_aborting_ends_on_the_baseline(world: World) -> None:
    story = await comes_back(world, "ABORTING")
    await canary_hears_again(story)
    assert story.wanted is not None
    assert story.wanted.components[0].release_id == FIRST
    await story.canary.say(story.wanted, "COMMITTED")
    await ends(world, story, "ABORTED", "an operator stopped it", generations_=(3, 1))


async def test_these_are_all_the_states_in_which_a_rollout_can_be_met() -> None:
    assert set(STATES) == {state.value for state in RolloutState if state not in ENDED}
