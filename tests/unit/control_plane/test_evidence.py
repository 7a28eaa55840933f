"""Evidence: which windows of which device count, since when a device is silent, how often its agent started."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from control_plane.domain.cohort import Cohort
from control_plane.domain.device import Device, Facts, Report
from control_plane.domain.health import Histogram, Window
from control_plane.domain.judge import DeviceEvidence, Evidence, Verdict, evaluate
from control_plane.domain.rollout import Member, MemberState, Rollout, RolloutState
from control_plane.domain.strategy import JudgeKind, JudgePolicy, Share, Strategy, WaveSpec
from control_plane.evidence import gather, series
from control_plane.fleet import Fleet
from control_plane.links import Links
from control_plane.store.memory import MemoryStore
from maskfleet.clock import FakeClock

SECOND = timedelta(seconds=1)
STRATEGY = Strategy(
    waves=(WaveSpec(Share(count=1), 30 * SECOND), WaveSpec(Share(percent=100.0))),
    control_holdout=Share(count=1),
    seed=42,
    judge=JudgePolicy(kind=JudgeKind.THRESHOLDS, silence_after=12 * SECOND),
)


class Bench:
    """A fleet of three in a rollout: ``a`` goes first, ``b`` later, ``c`` is held out."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.fleet = Fleet(self.store, Links(), self.clock)
        self.rollout = Rollout("ro-1", 1, "r-2", "", "", RolloutState.SOAKING, self.clock.now(), STRATEGY)
        self.members = {
            name: Member("ro-1", name, f"cam-{name}", "r-1", wave, MemberState.PENDING, cohort=cohort)
            for name, wave, cohort in (("a", 0, Cohort.CANARY), ("b", 1, Cohort.CANARY), ("c", 1, Cohort.CONTROL))
        }
        self.sequences = dict.fromkeys(self.members, 0)
        self.boots = dict.fromkeys(self.members, 1)

    async def start(self) -> Bench:
        async with self.store.writing() as tx:
            for name in self.members:
                now = self.clock.now()
                await tx.put(Device(name, f"cam-{name}", b"", {}, Facts(), now, now, Report()))
        return self

    def pass_time(self, seconds: float) -> None:
        """In steps, as it passes for a plane that ticks."""
        for _ in range(int(seconds)):
            self.clock.advance(SECOND)
            _ = self.fleet.listening_since

    async def report(self, device: str, release: str = "r-1", **fields: Any) -> None:
        self.sequences[device] += 1
        end = int(self.clock.monotonic() * 10**9)
        await self.fleet.health(
            device,
            Window(
                f"boot-{self.boots[device]}",
                self.sequences[device],
                end,
                end,
                release,
                **{
                    "frames_by_outcome": {"MASKED": 100},
                    "latency_ms_by_stage": {"TOTAL": Histogram((10.0, 20.0), (0, 100, 0), 1500.0)},
                    "starts": self.boots[device],
                    **fields,
                },
            ),
        )

    def open_wave(self, wave: int = 0) -> None:
        self.rollout = dataclasses.replace(self.rollout, wave=wave, opened=self.clock.now())
        for name, member in self.members.items():
            if member.wave <= wave and member.state is MemberState.PENDING:
                self.members[name] = dataclasses.replace(member, state=MemberState.UPDATING)

    async def evidence(self) -> Evidence:
        async with self.store.reading() as look:
            return await gather(look, self.fleet, self.rollout, self.members.values(), self.clock.now())

    async def of(self, name: str) -> DeviceEvidence:
        return next(d for d in (await self.evidence()).devices if d.device_id == name)


@pytest.fixture
async def bench() -> Bench:
    """Everybody has reported twice, and the first wave opens."""
    bench = await Bench().start()
    for _ in range(2):
        bench.pass_time(10)
        for name in bench.members:
            await bench.report(name)
    bench.open_wave()
    bench.rollout = dataclasses.replace(bench.rollout, created=bench.clock.now())
    return bench


async def test_before_and_after_are_told_by_the_release_and_by_the_opening_of_the_wave(bench: Bench) -> None:
    for release in ("r-1", "r-2", "r-2"):
        bench.pass_time(10)
        await bench.report("a", release)
        await bench.report("c")
    a, c = await bench.of("a"), await bench.of("c")
    assert [(i.release_id, i.frames) for i in a.after] == [("r-2", 100)] * 2
    assert [i.release_id for i in a.before] == ["r-1"] * 3
    assert (a.cohort, c.cohort, len(c.after)) == (Cohort.CANARY, Cohort.CONTROL, 3)
    assert [d.device_id for d in (await bench.evidence()).devices] == ["a", "c"]
    assert (await bench.evidence()).seed == 42


async def test_in_the_last_wave_nobody_is_control_and_each_is_its_own_baseline(bench: Bench) -> None:
    bench.open_wave(1)
    bench.pass_time(10)
    for name in bench.members:
        await bench.report(name, "r-2")
    found = (await bench.evidence()).devices
    assert {d.device_id: (d.cohort, len(d.after), len(d.before)) for d in found} == dict.fromkeys(
        "abc", (Cohort.CANARY, 1, 2)
    )
    decision = evaluate(STRATEGY.judge, await bench.evidence(), bench.clock.now(), soaked=True)
    assert decision.verdict is Verdict.PASS
    assert any("there is no control cohort" in reason for reason in decision.reasons)


GONE = {
    "it was left behind": MemberState.EXPIRED,
    "it is on its way back": MemberState.REVERTING,
    "it is back": MemberState.REVERTED,
}


@pytest.mark.parametrize("state", GONE.values(), ids=GONE.keys())
async def test_a_device_is_no_evidence_any_more_once(state: MemberState, bench: Bench) -> None:
    bench.members["a"] = dataclasses.replace(bench.members["a"], state=state)
    assert [d.device_id for d in (await bench.evidence()).devices] == ["c"]


async def test_a_device_that_refused_says_why(bench: Bench) -> None:
    bench.members["a"] = dataclasses.replace(bench.members["a"], state=MemberState.FAILED, detail="no face was found")
    assert (await bench.of("a")).refused == "no face was found"


async def test_any_word_ends_silence_and_a_stream_that_breaks_is_no_word(bench: Bench) -> None:
    bench.pass_time(5)
    link = await bench.fleet.join("a", Facts(), Report())
    heard = bench.clock.now()
    bench.pass_time(20)
    bench.fleet.leave(link)
    assert (await bench.of("a")).last_heard == heard
    await bench.fleet.reported("a", Report())
    assert (await bench.of("a")).last_heard == bench.clock.now()


async def test_windows_that_another_plane_process_took_in_are_heard_too(bench: Bench) -> None:
    other = Fleet(bench.store, Links(), bench.clock)
    await bench.evidence()
    bench.pass_time(10)
    this, bench.fleet = bench.fleet, other
    await bench.report("a", "r-2")
    bench.fleet = this
    a = await bench.of("a")
    assert (a.last_heard, len(a.after)) == (bench.clock.now(), 1)


async def test_a_plane_that_begins_again_knows_what_the_last_one_knew(bench: Bench) -> None:
    bench.pass_time(10)
    for name in ("a", "c"):
        await bench.report(name, "r-2" if name == "a" else "r-1")
    before = await bench.evidence()
    bench.pass_time(300)  # nobody listens
    bench.fleet = Fleet(bench.store, Links(), bench.clock)
    after = await bench.evidence()
    assert after.devices == before.devices
    assert after.listening_since == bench.clock.now()
    decision = evaluate(STRATEGY.judge, after, bench.clock.now(), soaked=True)
    assert decision.verdict is Verdict.PASS, decision.reasons
    bench.pass_time(13)
    await bench.report("c")
    decision = evaluate(STRATEGY.judge, await bench.evidence(), bench.clock.now(), soaked=True)
    assert (decision.verdict, decision.hard) == (Verdict.FAIL, True)
    assert decision.reasons[0].startswith("cam-a has been silent for 13 s")


async def test_a_clock_that_jumps_makes_nobody_silent(bench: Bench) -> None:
    bench.clock._now += timedelta(hours=1)
    evidence = await bench.evidence()
    assert evidence.listening_since == bench.clock.now()
    assert evaluate(STRATEGY.judge, evidence, bench.clock.now(), soaked=True).verdict is not Verdict.FAIL


async def test_a_process_that_stood_still_makes_nobody_silent(bench: Bench) -> None:
    bench.clock.advance(timedelta(minutes=5))  # in one step: no tick in between
    assert (await bench.evidence()).listening_since == bench.clock.now()


async def test_starts_and_self_tests_count_from_the_beginning_of_the_rollout(bench: Bench) -> None:
    assert ((await bench.of("a")).starts, (await bench.of("a")).self_test_failures) == (0, 0)
    for boot in (2, 3, 4):
        bench.pass_time(10)
        bench.boots["a"], bench.sequences["a"] = boot, 0
        await bench.report("a", self_tests_by_result={"failed": 1, "passed": 1})
    found = await bench.of("a")
    assert (found.starts, found.self_test_failures) == (3, 3)


async def test_what_was_before_the_rollout_and_comes_late_is_not_held_against_the_release(bench: Bench) -> None:
    """A device that was cut off hands over, all at once, what happened before."""
    bench.rollout = dataclasses.replace(bench.rollout, created=bench.clock.now() + 50 * SECOND)
    bench.pass_time(60)
    end = int(bench.clock.monotonic() * 10**9)
    for sequence, ago in enumerate((30, 20, 0), start=3):
        failed = {"failed": 1} if ago else {}
        await bench.fleet.health(
            "a",
            Window("boot-1", sequence, end - ago * 10**9, end - ago * 10**9, "r-1", self_tests_by_result=failed),
        )
    assert (await bench.of("a")).self_test_failures == 0


async def test_series_show_each_cohort_from_before_the_rollout(bench: Bench) -> None:
    for _ in range(3):
        bench.pass_time(10)
        await bench.report("a", "r-2")
        await bench.report("c")
    async with bench.store.reading() as look:
        canary, control = await series(look, bench.fleet, bench.rollout, bench.members.values(), bench.clock.now())
    assert (canary.cohort, canary.devices, control.cohort, control.devices) == (Cohort.CANARY, 1, Cohort.CONTROL, 1)
    assert sum(p.frames for p in canary.points) >= 300
    assert all(p.p95_ms == 19.5 for p in (*canary.points, *control.points))
