"""The controller over a store, with devices and a judge that do what the test says; its memory lost at every state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.changes import Changes
from control_plane.controller import Controller
from control_plane.domain.cohort import Cohort
from control_plane.domain.device import Assignment, Component, ComponentState, Device, Facts, Report
from control_plane.domain.event import Event
from control_plane.domain.judge import Decision, DecisionRecord, Evidence, Verdict
from control_plane.domain.release import EngineProof, Release, ReleaseState
from control_plane.domain.rollout import KEPT_WORDS, Member, MemberState, Rollout, RolloutEvent, RolloutState
from control_plane.domain.strategy import ALL, JudgeKind, JudgePolicy, Share, Strategy, WaveSpec
from control_plane.fleet import Fleet
from control_plane.judging import Judge
from control_plane.links import Links
from control_plane.requests import Asked
from control_plane.signing import Signer
from control_plane.store.memory import MemoryStore
from control_plane.store.port import Reading
from maskfleet.clock import FakeClock
from maskfleet.errors import NotFoundError, PreconditionError, UnavailableError
from maskfleet.ids import digest_bytes
from maskfleet.manifest import EngineEntry, Manifest, VerifiedOn
from maskfleet.policy import MaskPolicy, Style

SECOND = timedelta(seconds=1)
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
CANARY = Strategy(
    (WaveSpec(Share(count=1), 10 * SECOND), WaveSpec(ALL, 4 * SECOND)),
    Share(count=1),
    seed=3,
    judge=JudgePolicy(JudgeKind.THRESHOLDS, patience=8 * SECOND),
)
PASS = Decision(Verdict.PASS, ("fine",))
UNSURE = Decision(Verdict.INCONCLUSIVE, ("12 frames are too few",))
SLOW = Decision(Verdict.FAIL, ("it is 4 times slower",), inputs={"p95": 4.0})
HARD = Decision(Verdict.FAIL, ("it let a frame through",), hard=True)
BROKEN = Decision(Verdict.ERROR, ("the judge itself failed",))


KEY = Ed25519PrivateKey.generate()


def release(number: int, verified_on: VerifiedOn = VerifiedOn.ENGINE) -> Release:
    policy = MaskPolicy(style=Style.SOLID)
    engine = EngineEntry(
        "ort-cpu", digest_bytes(b"engine %d" % number), 1, "onnxruntime", "1", "fp32", verified_on.value
    )
    manifest = Manifest(f"r-{number}", number, "", "m", 1, "sha256:m", "d", 1, 1, policy, (engine,))
    envelope, digest = Signer(KEY).manifest(manifest)
    return Release(
        id=f"r-{number}", counter=number, state=ReleaseState.READY, model_name="m", model_version=1,
        model_digest="sha256:m", decoder="d", precision="fp32", input_width=1, input_height=1,
        policy=policy, targets=("ort-cpu",), created=NOW, manifest=envelope, manifest_digest=digest,
    )  # fmt: skip


class Bench:
    """A plane's rollouts without its wire."""

    def __init__(self) -> None:
        self.store, self.clock, self.links = MemoryStore(), FakeClock(), Links()
        self.fleet = Fleet(self.store, self.links, self.clock)
        self.signer = Signer(KEY)
        self.says: Decision | Exception = UNSURE
        self.asked = 0
        self.controller = self.fresh()

    def fresh(self) -> Controller:
        judge = Judge(self.gather, self.evaluate)
        return Controller(self.store, self.fleet, self.links, self.signer, Changes(), self.clock, judge)

    async def gather(
        self, look: Reading, fleet: Fleet, rollout: Rollout, members: Iterable[Member], now: datetime
    ) -> Evidence:
        if isinstance(self.says, Exception):
            raise self.says
        return Evidence(rollout.id, rollout.release_id, rollout.wave, (), now, now)

    def evaluate(self, policy: JudgePolicy, evidence: Evidence, now: datetime, *, soaked: bool) -> Decision:
        self.asked += 1
        assert isinstance(self.says, Decision)
        if self.says.verdict is Verdict.PASS and not soaked:
            return UNSURE
        return self.says

    async def begin(
        self, devices: int = 3, strategy: Strategy = CANARY, verified_on: VerifiedOn = VerifiedOn.ENGINE
    ) -> str:
        async with self.store.writing() as tx:
            await tx.put(release(1), release(2, verified_on))
            for n in range(devices):
                device = Device(f"d-{n}", f"cam-{n}", b"", {}, Facts(targets=("ort-cpu",)), NOW, NOW)
                await tx.put(device, self.signer.assignment(device.id, 1, "r-1", "sha256:1"))
        for n in range(devices):
            await self.fleet.join(f"d-{n}", Facts(targets=("ort-cpu",)), Report())
        return await self.controller.create(Asked.of("", "Create", b""), "r-2", "", strategy)

    async def restart(self) -> None:
        """As after a SIGKILL: nothing but the store is left."""
        self.controller = self.fresh()
        await self.controller.resume()

    async def rollout(self) -> Rollout:
        """As the store has it."""
        async with self.store.reading() as look:
            return (await look.select(Rollout))[0]

    async def members(self) -> dict[str, Member]:
        async with self.store.reading() as look:
            return {m.device_id: m for m in await look.select(Member)}

    async def states(self) -> list[str]:
        return sorted(m.state.value for m in (await self.members()).values())

    async def wanted(self) -> dict[str, str]:
        async with self.store.reading() as look:
            return {a.device_id: a.release_id for a in await look.select(Assignment)}

    async def records(self) -> list[DecisionRecord]:
        async with self.store.reading() as look:
            return await look.select(DecisionRecord)

    async def say(self, device_id: str, state: ComponentState, reason: str = "") -> None:
        async with self.store.reading() as look:
            assignment = await look.get(Assignment, device_id)
        assert assignment is not None
        parts = [Component(name, state, assignment.release_id, reason=reason) for name in ("engine", "policy")]
        await self.controller.reported(device_id, Report(assignment.generation, tuple(parts)))

    async def everybody(self, state: ComponentState = ComponentState.COMMITTED) -> None:
        """Devices that are there and on their way say where they are."""
        for member in (await self.members()).values():
            on_the_way = member.state in (MemberState.UPDATING, MemberState.REVERTING)
            if on_the_way and self.fleet.online(member.device_id):
                await self.say(member.device_id, state)

    async def tick(self, seconds: int = 1, step: timedelta = SECOND) -> None:
        for _ in range(seconds):
            self.clock.advance(step)
            await self.controller.tick(self.clock.now())

    async def leave(self, device_id: str) -> None:
        link = self.links._open[device_id]
        self.fleet.leave(link)

    async def soaking(self, **fields: Any) -> None:
        """A canary has the release and is watched."""
        await self.begin(**fields)
        await self.everybody()
        assert (await self.rollout()).state is RolloutState.SOAKING


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_canary_goes_first_a_control_device_last_and_the_judge_between_them(bench: Bench) -> None:
    await bench.soaking()
    first = {d for d, m in (await bench.members()).items() if m.wave == 0}
    control = {d for d, m in (await bench.members()).items() if m.cohort is Cohort.CONTROL}
    assert {d for d, r in (await bench.wanted()).items() if r == "r-2"} == first
    assert len(first) == len(control) == 1
    bench.says = PASS
    await bench.tick(9)
    assert (await bench.rollout()).state is RolloutState.SOAKING
    await bench.tick()
    rollout = await bench.rollout()
    assert (rollout.state, rollout.wave, rollout.reason) == (
        RolloutState.PROGRESSING, 1, "wave 1 passed; wave 2 of 2 is under way",
    )  # fmt: skip
    assert set((await bench.wanted()).values()) == {"r-2"}
    await bench.everybody()
    await bench.tick(4)
    assert (await bench.rollout()).state is RolloutState.SUCCEEDED
    assert [(r.number, r.wave, r.verdict.value, r.action) for r in await bench.records()] == [
        (1, 0, "INCONCLUSIVE", "wait"),
        (2, 0, "PASS", "advance"),
        (3, 1, "INCONCLUSIVE", "wait"),
        (4, 1, "PASS", "succeed"),
    ]


async def test_harm_takes_back_who_committed_and_leaves_alone_who_never_got_it(bench: Bench) -> None:
    await bench.soaking()
    bench.says = SLOW
    await bench.tick(10)
    rollout = await bench.rollout()
    assert (rollout.state, rollout.reason) == (RolloutState.ROLLING_BACK, "it is 4 times slower")
    assert set((await bench.wanted()).values()) == {"r-1"}
    assert await bench.states() == ["REVERTED", "REVERTED", "REVERTING"]
    await bench.everybody()
    assert (await bench.rollout()).state is RolloutState.ROLLED_BACK
    record = (await bench.records())[-1]
    assert (record.verdict, record.action, record.inputs) == (Verdict.FAIL, "roll back", {"p95": 4.0, "looks": 9})


async def test_a_canary_that_refuses_takes_the_rollout_back_at_once_with_its_record(bench: Bench) -> None:
    await bench.begin()
    canary = next(d for d, m in (await bench.members()).items() if m.wave == 0)
    bench.says = dataclasses.replace(HARD, reasons=("the golden faces were not found",))
    await bench.say(canary, ComponentState.REVERTED, "the golden faces were not found")
    assert (await bench.rollout()).state is RolloutState.ROLLED_BACK
    assert [r.action for r in await bench.records()] == ["roll back"]
    assert set((await bench.wanted()).values()) == {"r-1"}


HARM = {
    "on its way": (0, None), "watched": (1, None), "paused on its way": (0, "pause"), "paused": (1, "pause"),
}  # fmt: skip


@pytest.mark.parametrize(("settled", "call"), HARM.values(), ids=HARM.keys())
async def test_a_hard_limit_holds_wherever_the_rollout_stands(bench: Bench, settled: int, call: str | None) -> None:
    await bench.begin()
    if settled:
        await bench.everybody()
    if call:
        await getattr(bench.controller, call)("ro-1")
    bench.says = HARD
    await bench.tick()
    assert (await bench.rollout()).state is RolloutState.ROLLING_BACK


async def test_a_hard_limit_holds_while_held_and_after_a_promotion(bench: Bench) -> None:
    await bench.soaking()
    bench.says = BROKEN
    await bench.tick()
    assert (await bench.rollout()).state is RolloutState.HELD
    await bench.controller.promote("ro-1")
    assert set((await bench.wanted()).values()) == {"r-2"}
    bench.says = HARD
    await bench.tick()
    assert (await bench.rollout()).state is RolloutState.ROLLING_BACK


async def test_a_judge_that_cannot_tell_is_given_its_patience_and_then_an_operator_decides(bench: Bench) -> None:
    await bench.soaking()
    await bench.tick(17)
    assert (await bench.rollout()).state is RolloutState.SOAKING
    await bench.tick()
    rollout = await bench.rollout()
    assert (rollout.state, rollout.reason) == (
        RolloutState.HELD, "the judge could not tell in time: 12 frames are too few",
    )  # fmt: skip
    await bench.controller.go_on("ro-1")
    assert (await bench.rollout()).state is RolloutState.SOAKING
    await bench.tick(7)
    assert (await bench.rollout()).state is RolloutState.SOAKING
    await bench.tick()
    assert (await bench.rollout()).state is RolloutState.HELD


async def test_evidence_that_cannot_be_read_holds_and_a_store_that_is_away_does_not(bench: Bench) -> None:
    await bench.soaking()
    bench.says = UnavailableError("the store does not answer")
    with pytest.raises(UnavailableError):
        await bench.tick()
    assert (await bench.rollout()).state is RolloutState.SOAKING
    bench.says = ZeroDivisionError("a hole")
    await bench.tick()
    assert (await bench.rollout()).state is RolloutState.HELD
    record = (await bench.records())[-1]
    assert "ZeroDivisionError" in record.reasons[0]
    assert (record.reasons[1], set(record.inputs)) == ("so this record holds none", {"looks"})


async def test_a_pause_stops_waves_and_the_soak_and_devices_under_way_finish(bench: Bench) -> None:
    await bench.begin()
    await bench.controller.pause("ro-1")
    await bench.controller.pause("ro-1")
    await bench.everybody()
    bench.says = PASS
    await bench.tick(30)
    assert (await bench.rollout()).state is RolloutState.PAUSED
    assert await bench.states() == ["COMMITTED", "PENDING", "PENDING"]
    await bench.controller.go_on("ro-1")
    await bench.tick(9)
    await bench.controller.pause("ro-1")
    await bench.tick(30)
    await bench.controller.go_on("ro-1")
    assert (await bench.rollout()).state is RolloutState.SOAKING
    await bench.tick()
    assert (await bench.rollout()).wave == 1


async def test_a_clock_that_jumps_ends_no_soak_and_prolongs_none(bench: Bench) -> None:
    await bench.soaking()
    bench.says = PASS
    await bench.tick(1, timedelta(hours=1))
    assert (await bench.rollout()).state is RolloutState.SOAKING
    bench.clock._now -= timedelta(days=2)
    await bench.tick(4)
    assert (await bench.rollout()).state is RolloutState.SOAKING
    await bench.tick()
    assert (await bench.rollout()).wave == 1


async def test_an_offline_canary_expires_after_time_in_which_a_plane_was_there_to_see_it(bench: Bench) -> None:
    await bench.begin(strategy=dataclasses.replace(CANARY, expire_after=20 * SECOND))
    canary = next(d for d, m in (await bench.members()).items() if m.wave == 0)
    await bench.leave(canary)
    await bench.tick(10)
    bench.clock.advance(timedelta(hours=5))  # no plane was up
    await bench.restart()
    await bench.tick(9)
    assert (await bench.members())[canary].state is MemberState.UPDATING
    await bench.tick()
    assert (await bench.members())[canary].state is MemberState.EXPIRED
    assert (await bench.wanted())[canary] == "r-1"
    assert (await bench.rollout()).state is RolloutState.SOAKING


async def test_a_device_that_was_away_for_too_long_when_its_wave_opens_is_left_behind(bench: Bench) -> None:
    await bench.soaking(strategy=dataclasses.replace(CANARY, expire_after=8 * SECOND))
    later = next(d for d, m in (await bench.members()).items() if m.wave == 1)
    await bench.leave(later)
    bench.says = PASS
    await bench.tick(10)
    await bench.everybody()
    await bench.tick(4)
    rollout = await bench.rollout()
    assert (rollout.state, rollout.reason) == (
        RolloutState.SUCCEEDED, "2 of 3 devices committed r-2; 1 offline for too long was left behind",
    )  # fmt: skip
    assert (await bench.wanted())[later] == "r-1"


async def test_a_device_at_another_plane_is_not_offline_until_its_words_from_there_end(bench: Bench) -> None:
    strategy = Strategy((WaveSpec(Share(count=1), 300 * SECOND), WaveSpec(ALL)), seed=3, expire_after=8 * SECOND)
    await bench.soaking(strategy=strategy)
    later = next(d for d, m in (await bench.members()).items() if m.wave == 1)
    await bench.leave(later)

    async def heard_of_elsewhere() -> None:
        """The other plane writes it down; this one, that of its own word it wrote nothing, hears of it."""
        async with bench.store.writing() as tx:
            device = await tx.get(Device, later)
            assert device is not None
            device = dataclasses.replace(device, last_seen=bench.clock.now())
            await tx.put(device)
        bench.fleet.told_elsewhere(device)

    for _ in range(3):
        bench.clock.advance(SECOND)
        await heard_of_elsewhere()
        await bench.tick(30)  # the other plane writes no oftener
        assert (await bench.members())[later].state is MemberState.PENDING
    async with bench.store.reading() as look:
        known = await look.get(Device, later)
    assert known is not None
    for _ in range(30):  # the record is read again, and says nothing new
        bench.fleet.told_elsewhere(known)
        await bench.tick()
    assert (await bench.members())[later].state is MemberState.EXPIRED


async def test_a_canary_that_is_away_while_the_rollout_goes_back_has_its_way_back_written_down(bench: Bench) -> None:
    await bench.soaking()
    canary = next(d for d, m in (await bench.members()).items() if m.wave == 0)
    await bench.leave(canary)
    bench.says = HARD
    await bench.tick()
    assert (await bench.rollout()).state is RolloutState.ROLLING_BACK
    await bench.tick(61)
    assert (await bench.rollout()).state is RolloutState.ROLLED_BACK
    assert (await bench.wanted())[canary] == "r-1"
    desired = await bench.controller.connected(canary, Report(2))
    assert desired is not None
    assert desired.release_id == "r-1"


async def test_devices_that_are_relabelled_or_deleted_stay_in_their_rollout(bench: Bench) -> None:
    await bench.soaking()
    async with bench.store.writing() as tx:
        await tx.delete(Device, ["d-0", "d-1", "d-2"])
    bench.says = PASS
    await bench.tick(10)
    assert set((await bench.wanted()).values()) == {"r-2"}


async def test_a_rollout_that_is_held_or_paused_records_what_is_new_and_never_that_it_is_watched_on(
    bench: Bench,
) -> None:
    await bench.soaking()
    await bench.tick(18)
    assert (await bench.rollout()).state is RolloutState.HELD
    await bench.tick(30)
    records = await bench.records()
    assert [(r.verdict.value, r.action) for r in records[-2:]] == [("INCONCLUSIVE", "wait"), ("INCONCLUSIVE", "hold")]
    bench.says = dataclasses.replace(UNSURE, reasons=("nobody reports",))
    await bench.tick(5)
    assert [r.action for r in (await bench.records())[len(records) :]] == ["stay held"]
    assert (await bench.records())[-1].inputs["looks"] == 31
    await bench.controller.go_on("ro-1")
    await bench.tick()
    await bench.controller.pause("ro-1")
    bench.says = PASS
    await bench.tick(5)
    told = [r.action for r in (await bench.records())[len(records) + 1 :]]
    assert told == ["wait", "stay paused"]


async def test_stopping_takes_every_device_back_those_that_committed_too(bench: Bench) -> None:
    await bench.soaking()
    await bench.controller.abort("ro-1")
    assert (await bench.rollout()).state is RolloutState.ABORTING
    assert await bench.states() == ["REVERTED", "REVERTED", "REVERTING"]
    assert set((await bench.wanted()).values()) == {"r-1"}
    await bench.everybody()
    rollout = await bench.rollout()
    assert (rollout.state, rollout.reason) == (
        RolloutState.ABORTED, "an operator stopped it; every device is back, or its way back written down",
    )  # fmt: skip
    assert [(word.event, word.state, word.wave) for word in rollout.words] == [
        (RolloutEvent.ABORT, RolloutState.SOAKING, 0)
    ]


async def test_what_operators_did_is_kept_with_the_rollout_and_survives_the_plane(bench: Bench) -> None:
    await bench.soaking()
    await bench.controller.pause("ro-1")
    await bench.tick()
    await bench.restart()
    await bench.controller.go_on("ro-1")
    await bench.controller.promote("ro-1")
    told = [(word.event.name, word.state.name) for word in (await bench.rollout()).words]
    assert told == [("PAUSE", "SOAKING"), ("RESUME", "PAUSED"), ("PROMOTE", "SOAKING")]
    for _ in range(KEPT_WORDS):
        await bench.controller.pause("ro-1")
        await bench.controller.go_on("ro-1")
    words = (await bench.rollout()).words
    assert (len(words), words[-1].event) == (KEPT_WORDS, RolloutEvent.RESUME)


async def test_figures_that_grow_are_no_news_and_a_minute_of_watching_is(bench: Bench) -> None:
    strategy = dataclasses.replace(CANARY, waves=(WaveSpec(Share(count=1), 300 * SECOND), WaveSpec(ALL)))
    await bench.soaking(strategy=strategy)
    for second in range(59):
        bench.says = dataclasses.replace(UNSURE, reasons=(f"{second:,}.5 frames are too few",))
        await bench.tick()
    assert len(await bench.records()) == 1
    await bench.tick(2)
    assert len(await bench.records()) == 2
    bench.says = dataclasses.replace(UNSURE, reasons=("nobody reports",))
    await bench.tick()
    records = await bench.records()
    assert len(records) == 3
    assert sum(r.inputs["looks"] for r in records) == bench.asked, "no look is lost"


async def test_what_an_ended_rollout_is_told_is_refused_with_what_can_be_done(bench: Bench) -> None:
    await bench.soaking()
    with pytest.raises(PreconditionError) as caught:
        await bench.controller.go_on("ro-1")
    assert caught.value.message == "rollout ro-1 is SOAKING"
    assert "PAUSED or HELD" in str(caught.value.remedy)
    bench.says = HARD
    await bench.tick()
    await bench.everybody()
    for call in (bench.controller.pause, bench.controller.go_on, bench.controller.promote, bench.controller.abort):
        with pytest.raises(PreconditionError, match="is ROLLED_BACK"):
            await call("ro-1")
        with pytest.raises(NotFoundError, match="ro-9"):
            await call("ro-9")


async def test_the_history_tells_what_moved_and_who_moved_it(bench: Bench) -> None:
    await bench.soaking()
    bench.says = HARD
    await bench.tick()
    async with bench.store.reading() as look:
        events = await look.select(Event, {"subject": "ro-1"})
    kinds = [e.kind for e in events]
    assert kinds == [
        "rollout.created", "rollout.moved", "rollout.moved", "member.moved", "rollout.moved", "decision",
        "rollout.moved", "member.moved", "member.moved",
    ]  # fmt: skip
    texts = {e.kind: e.text for e in events}
    assert texts["decision"] == "FAIL, roll back (fixed limits, no statistical verdict): it let a frame through"
    assert texts["member.moved"].endswith(" REVERTED"), "a device that never had it gives no reason"


async def test_a_plane_that_is_killed_before_the_first_wave_opens_it_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(_self: Controller, _active: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Controller, "_settle", dies)
        with pytest.raises(KeyboardInterrupt):
            await bench.begin()
    assert (await bench.rollout()).state is RolloutState.PENDING
    await bench.restart()
    assert (await bench.rollout()).state is RolloutState.PROGRESSING
    assert await bench.states() == ["PENDING", "PENDING", "UPDATING"]


STORY = (RolloutState.PROGRESSING, RolloutState.SOAKING, RolloutState.HELD, RolloutState.PAUSED)


@pytest.mark.parametrize("state", [*STORY, RolloutState.ROLLING_BACK, RolloutState.ABORTING], ids=lambda s: s.value)
async def test_a_plane_that_is_killed_goes_on_where_its_store_says(bench: Bench, state: RolloutState) -> None:
    await bench.begin()
    if state is not RolloutState.PROGRESSING:
        await bench.everybody()
        await bench.tick(6)
    if state is RolloutState.HELD:
        bench.says = BROKEN
        await bench.tick()
    elif state is RolloutState.PAUSED:
        await bench.controller.pause("ro-1")
    elif state is RolloutState.ROLLING_BACK:
        bench.says = HARD
        await bench.tick()
    elif state is RolloutState.ABORTING:
        await bench.controller.promote("ro-1")
        await bench.controller.abort("ro-1")
    before, members, wanted = await bench.rollout(), await bench.members(), await bench.wanted()
    assert before.state is state
    await bench.restart()
    assert await bench.rollout() == before
    assert await bench.members() == members
    assert await bench.wanted() == wanted
    bench.says = PASS
    if state in (RolloutState.HELD, RolloutState.PAUSED):
        await bench.controller.go_on("ro-1")
    for _ in range(40):
        await bench.restart()
        await bench.everybody()
        await bench.tick()
        await bench.tick(5)
        if not (await bench.rollout()).active:
            break
    ends = {RolloutState.ROLLING_BACK: RolloutState.ROLLED_BACK, RolloutState.ABORTING: RolloutState.ABORTED}
    assert (await bench.rollout()).state is ends.get(state, RolloutState.SUCCEEDED)


async def test_a_plane_that_is_killed_between_two_words_of_a_soak_loses_seconds_of_it_at_most(bench: Bench) -> None:
    await bench.soaking()
    await bench.tick(9)
    await bench.restart()
    bench.says = PASS
    watched = (await bench.rollout()).watched
    assert 4 * SECOND < watched <= 9 * SECOND
    await bench.tick(int((10 * SECOND - watched) / SECOND))
    assert (await bench.rollout()).wave == 1


ONNX = VerifiedOn.PREPARED_ONNX


async def test_an_engine_that_nobody_ran_yet_goes_to_one_device_first_whose_word_is_kept(bench: Bench) -> None:
    await bench.begin(verified_on=ONNX)
    rollout, members = await bench.rollout(), await bench.members()
    first = next(m for m in members.values() if m.wave == 0)
    assert rollout.reason == f"wave 0 of 2: ort-cpu is proved on {first.device_name}"
    assert first.cohort is Cohort.CANARY
    assert [d for d, r in (await bench.wanted()).items() if r == "r-2"] == [first.device_id]
    await bench.restart()
    await bench.everybody()
    async with bench.store.reading() as look:
        proofs = await look.select(EngineProof)
        events = [e for e in await look.select(Event, {"subject": "r-2"}) if e.kind == "engine.proven"]
    assert [(p.device_id, p.target, p.release_id) for p in proofs] == [(first.device_id, "ort-cpu", "r-2")]
    assert [e.text for e in events] == [
        f"{first.device_name} has tested the engine of r-2 for ort-cpu and committed it"
    ]
    assert (await bench.rollout()).wave == 1


async def test_a_refusal_in_wave_0_takes_a_rollout_back_that_has_no_judge(bench: Bench) -> None:
    await bench.begin(strategy=Strategy(), verified_on=ONNX)
    first = next(m for m in (await bench.members()).values() if m.wave == 0)
    await bench.say(first.device_id, ComponentState.REVERTED, "no face was found")
    rollout = await bench.rollout()
    assert rollout.state is RolloutState.ROLLED_BACK
    assert "1 of 3 devices refused r-2" in rollout.reason
    assert set((await bench.wanted()).values()) == {"r-1"}
    assert sorted(m.state.value for m in (await bench.members()).values()) == ["FAILED", "REVERTED", "REVERTED"]
    assert (await bench.records())[-1].action == "roll back"
    async with bench.store.reading() as look:
        assert await look.select(EngineProof) == []


async def test_an_engine_that_has_been_proved_needs_no_wave_0(bench: Bench) -> None:
    async with bench.store.writing() as tx:
        await tx.put(EngineProof(digest_bytes(b"engine 2"), "ort-cpu", "d-9", "cam-9", "r-1", NOW))
    await bench.begin(verified_on=ONNX)
    assert not (await bench.rollout()).strategy.proves
