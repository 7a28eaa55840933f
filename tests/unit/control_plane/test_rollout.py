"""The rollout tables, one rule at a time and walked at random."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control_plane.domain.device import Component, ComponentState, Report
from control_plane.domain.rollout import (
    ENDED,
    MEMBER_TABLE,
    RECALL_PATIENCE,
    RECALLABLE,
    ROLLOUT_TABLE,
    SETTLED,
    Member,
    MemberEvent,
    MemberState,
    Move,
    OpenWave,
    Recall,
    Rollout,
    RolloutEvent,
    RolloutState,
    decide,
    give_up,
    observe,
    wanted_release,
)
from maskfleet.errors import PreconditionError

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
ROLLOUT = Rollout("ro-1", 1, "r-2", "sha256:2", "", RolloutState.PROGRESSING, NOW, wave=0)
MEMBER = Member("ro-1", "d-a", "a", "r-1", 0, MemberState.UPDATING, 5)


def report(
    state: ComponentState, *, generation: int = 5, release: str = "r-2", digest: str = "", **fields: object
) -> Report:
    component = Component("engine", state, release, digest, **fields)  # type: ignore[arg-type]
    return Report(generation, (component, dataclasses.replace(component, name="policy")))


def seen(member: Member, said: Report) -> Member:
    return observe(member, said, release_id="r-2", release_digest="sha256:2")


REPORTS = {
    "it is on its way": (report(ComponentState.LOADING), MemberState.UPDATING, "LOADING"),
    "a download tells how far": (
        report(ComponentState.DOWNLOADING, bytes_done=1, bytes_total=4), MemberState.UPDATING, "DOWNLOADING 25 %",
    ),
    "it soaks, which is not committed": (report(ComponentState.SOAKING), MemberState.UPDATING, "SOAKING"),
    "it committed": (report(ComponentState.COMMITTED), MemberState.COMMITTED, "COMMITTED"),
    "it committed, and names the digest": (
        report(ComponentState.COMMITTED, digest="sha256:2"), MemberState.COMMITTED, "COMMITTED",
    ),
    "it committed other bytes under the same name": (
        report(ComponentState.COMMITTED, digest="sha256:x"), MemberState.UPDATING, "COMMITTED",
    ),
    "it committed another release": (
        report(ComponentState.COMMITTED, release="r-1"), MemberState.UPDATING, "COMMITTED",
    ),
    "it committed an older assignment": (report(ComponentState.COMMITTED, generation=4), MemberState.UPDATING, ""),
    "it refused": (report(ComponentState.REVERTED, reason="no face"), MemberState.FAILED, "no face"),
    "it refused, and names what serves": (
        report(ComponentState.REVERTED, release="r-1", reason="no face"), MemberState.FAILED, "no face",
    ),
    "it says nothing of components": (Report(5), MemberState.UPDATING, ""),
}  # fmt: skip


@pytest.mark.parametrize(("said", "state", "detail"), REPORTS.values(), ids=REPORTS.keys())
def test_a_report_moves_a_device(said: Report, state: MemberState, detail: str) -> None:
    after = seen(MEMBER, said)
    assert (after.state, after.detail) == (state, detail)


def test_half_a_commit_is_none() -> None:
    both = report(ComponentState.COMMITTED).components
    half = Report(5, (both[0], dataclasses.replace(both[1], state=ComponentState.SOAKING)))
    assert seen(MEMBER, half).state is MemberState.UPDATING


def test_a_device_that_goes_back_has_returned_once_it_settled_the_new_assignment() -> None:
    member = dataclasses.replace(MEMBER, state=MemberState.REVERTING, generation=6)
    assert seen(member, report(ComponentState.COMMITTED)).state is MemberState.REVERTING
    assert seen(member, report(ComponentState.LOADING, generation=6)).state is MemberState.REVERTING
    back = seen(member, report(ComponentState.COMMITTED, generation=6, release="r-1"))
    assert back.state is MemberState.REVERTED


def test_a_device_that_settled_is_left_alone() -> None:
    for state in SETTLED | {MemberState.PENDING}:
        member = dataclasses.replace(MEMBER, state=state)
        assert seen(member, report(ComponentState.REVERTED)) is member


def test_what_is_wanted_follows_from_where_a_device_stands() -> None:
    wanted = {state: wanted_release(dataclasses.replace(MEMBER, state=state), "r-2") for state in MemberState}
    assert {s for s, release in wanted.items() if release == "r-2"} == {MemberState.UPDATING, MemberState.COMMITTED}
    assert set(wanted.values()) == {"r-1", "r-2"}


U, C, F, P, B, R = (
    MemberState.UPDATING, MemberState.COMMITTED, MemberState.FAILED, MemberState.PENDING, MemberState.REVERTING,
    MemberState.REVERTED,
)  # fmt: skip
PENDING, ABORTING = RolloutState.PENDING, RolloutState.ABORTING
DECISIONS = {
    "a new rollout opens its first wave": (
        {"state": PENDING, "wave": -1}, {(0, P): 3}, [RolloutEvent.START, OpenWave(0)],
    ),
    "one device is on its way": ({}, {(0, C): 2, (0, U): 1}, []),
    "all committed": ({}, {(0, C): 3, (0, U): 0}, [RolloutEvent.ALL_COMMITTED]),
    "one refused, one is on its way": ({}, {(0, F): 1, (0, U): 1}, []),
    "one refused, the others committed": ({}, {(0, F): 1, (0, C): 2}, [RolloutEvent.SOME_FAILED]),
    "the next wave opens once the first settled": ({"waves": 2}, {(0, C): 1, (1, P): 4}, [OpenWave(1)]),
    "the next wave waits for the first": ({"waves": 2}, {(0, U): 1, (1, P): 4}, []),
    "stopped: who is on its way is recalled": ({"state": ABORTING}, {(0, U): 1, (0, C): 1}, [Recall()]),
    "stopped before it began": ({"state": ABORTING, "wave": -1}, {(0, P): 1}, [Recall()]),
    "stopped: waits for who goes back": ({"state": ABORTING}, {(0, B): 1, (0, C): 1}, []),
    "stopped: all settled": ({"state": ABORTING}, {(0, R): 1, (0, C): 1, (0, F): 1}, [RolloutEvent.ALL_BACK]),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "tally", "actions"), DECISIONS.values(), ids=DECISIONS.keys())
def test_a_decision(
    fields: dict[str, object], tally: dict[tuple[int, MemberState], int], actions: list[object]
) -> None:
    rollout = dataclasses.replace(ROLLOUT, **fields)  # type: ignore[arg-type]
    assert [a.event if isinstance(a, Move) else a for a in decide(rollout, tally, NOW)] == actions


def test_an_ended_rollout_decides_nothing_and_cannot_move() -> None:
    for state in ENDED:
        rollout = dataclasses.replace(ROLLOUT, state=state)
        assert decide(rollout, {(0, U): 1}, NOW) == []
        for event in RolloutEvent:
            with pytest.raises(PreconditionError):
                rollout.moved(event, reason="", now=NOW)


def test_only_a_stopped_rollout_gives_a_device_up() -> None:
    reverting = dataclasses.replace(MEMBER, state=MemberState.REVERTING)
    assert give_up(reverting, RECALL_PATIENCE).state is MemberState.REVERTED
    assert give_up(reverting, RECALL_PATIENCE - timedelta(seconds=1)) is reverting
    assert give_up(MEMBER, timedelta(days=9)) is MEMBER


def test_every_state_of_both_tables_can_be_reached_and_left_or_is_an_end() -> None:
    for table, start, ends in (
        (ROLLOUT_TABLE, RolloutState.PENDING, ENDED),
        (MEMBER_TABLE, MemberState.PENDING, SETTLED),
    ):
        reached = {start}
        for _ in table:
            reached |= {target for (source, _), target in table.items() if source in reached}
        assert reached == set(type(start))
        assert {source for source, _ in table} == set(type(start)) - ends


class Walk(RuleBasedStateMachine):
    """Devices do what they like, the operator too; the rules hold and an end comes once all have settled."""

    @initialize(devices=st.integers(1, 5), waves=st.integers(1, 3))
    def begin(self, devices: int, waves: int) -> None:
        self.rollout = dataclasses.replace(ROLLOUT, state=RolloutState.PENDING, wave=-1, waves=waves)
        self.members = [dataclasses.replace(MEMBER, state=P, wave=n % waves, generation=0) for n in range(devices)]
        self.ended: RolloutState | None = None

    @precondition(lambda self: self.rollout.active)
    @rule()
    def reconcile(self) -> None:
        tally = Counter((m.wave, m.state) for m in self.members)
        for action in decide(self.rollout, tally, NOW):
            match action:
                case Move():
                    self.rollout = self.rollout.moved(action.event, reason=action.reason, now=NOW)
                case OpenWave():
                    self.rollout = dataclasses.replace(self.rollout, wave=action.wave)
                    self.change(lambda m: m.wave == self.rollout.wave and m.state is P, MemberEvent.ASSIGN)
                case Recall():
                    self.change(lambda m: m.state in RECALLABLE, MemberEvent.RECALL)

    def change(self, which, event: MemberEvent) -> None:  # type: ignore[no-untyped-def]
        self.members = [
            dataclasses.replace(m.moved(event), generation=m.generation + 1) if which(m) else m for m in self.members
        ]

    @rule(n=st.integers(0, 4), state=st.sampled_from(list(ComponentState)), stale=st.booleans())
    def a_device_reports(self, n: int, state: ComponentState, stale: bool) -> None:
        member = self.members[n % len(self.members)]
        said = report(state, generation=member.generation - stale)
        after = seen(member, said)
        if stale:
            assert after is member
        self.members[n % len(self.members)] = after

    @precondition(lambda self: self.rollout.state in (RolloutState.PENDING, RolloutState.PROGRESSING))
    @rule(really=st.integers(0, 4))
    def the_operator_aborts(self, really: int) -> None:
        if really == 0:
            self.rollout = self.rollout.moved(RolloutEvent.ABORT, reason="stopped", now=NOW)

    @invariant()
    def an_end_means_that_all_settled_and_stays(self) -> None:
        states = {m.state for m in self.members}
        if self.rollout.state in ENDED:
            assert states <= SETTLED
            assert self.rollout.ended == NOW
            self.ended = self.ended or self.rollout.state
            assert self.ended is self.rollout.state
        if self.rollout.state is RolloutState.SUCCEEDED:
            assert states == {C}
        if self.rollout.state is RolloutState.FAILED:
            assert F in states

    @invariant()
    def no_wave_opens_before_the_one_before_it_settled(self) -> None:
        if self.rollout.state is RolloutState.PROGRESSING:
            assert all(m.state in SETTLED for m in self.members if m.wave < self.rollout.wave)
            assert all(m.state is P for m in self.members if m.wave > self.rollout.wave)

    def teardown(self) -> None:
        """Once every device does what it is told, the rollout comes to an end."""
        for _ in range(3 * self.rollout.waves + 4):
            if not self.rollout.active:
                return
            self.reconcile()
            self.members = [seen(m, report(ComponentState.COMMITTED, generation=m.generation)) for m in self.members]
        assert not self.rollout.active


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
