"""What follows when: one rule at a time, and walked at random over both tables."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control_plane.domain.cohort import Cohort, Place, prove_first
from control_plane.domain.device import Component, ComponentState, Report
from control_plane.domain.judge import Decision, Verdict
from control_plane.domain.rollout import (
    ENDED,
    MEMBER_TABLE,
    ROLLOUT_TABLE,
    SETTLED,
    WATCHED,
    Member,
    MemberEvent,
    MemberState,
    Rollout,
    RolloutEvent,
    RolloutState,
    expire,
    give_up,
    observe,
    wanted_release,
)
from control_plane.domain.strategy import ALL, JudgeKind, JudgePolicy, Share, Strategy, WaveSpec
from control_plane.domain.waves import Action, Move, OpenWave, Recall, action_of, decide

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)
TWO = Strategy(
    (WaveSpec(Share(count=1), 10 * SECOND), WaveSpec(ALL, 5 * SECOND)),
    judge=JudgePolicy(JudgeKind.THRESHOLDS, patience=20 * SECOND),
)
ROLLOUT = Rollout("ro-1", 1, "r-2", "sha256:2", "", RolloutState.PROGRESSING, NOW, wave=0)
MEMBER = Member("ro-1", "d-a", "a", "r-1", 0)
S, E, M = RolloutState, RolloutEvent, MemberState
U, C, F, P, B, R, X = M.UPDATING, M.COMMITTED, M.FAILED, M.PENDING, M.REVERTING, M.REVERTED, M.EXPIRED
RECALL, ROLL_BACK = Recall(MemberEvent.RECALL), Recall(MemberEvent.ROLL_BACK)
PASS = Decision(Verdict.PASS, ("fine",))
HARD = Decision(Verdict.FAIL, ("cam-1 let a frame through",), hard=True)
SLOW = Decision(Verdict.FAIL, ("it is slower",))
UNSURE = Decision(Verdict.INCONCLUSIVE, ("too few frames",))
BROKEN = Decision(Verdict.ERROR, ("the judge itself failed",))
TWO_WAVES = {"strategy": TWO}
PROMOTED = {"strategy": TWO, "promoted": True}
SOAKING = {"strategy": TWO, "state": S.SOAKING}
SOAKED = {**SOAKING, "watched": 10 * SECOND}
LAST = {**SOAKING, "watched": 5 * SECOND, "wave": 1}
HELD, PAUSED, BACK = ({"strategy": TWO, "state": s} for s in (S.HELD, S.PAUSED, S.ROLLING_BACK))
ON_ITS_WAY = {(0, U): 1, (1, P): 1}
ONE_OF_TWO = {(0, C): 1, (1, P): 1}
BOTH = {(0, C): 1, (1, C): 1}
Counts = dict[tuple[int, MemberState], int]

PLAIN = {
    "a new rollout opens its first wave": ({"state": S.PENDING, "wave": -1}, {(0, P): 3}, [E.START, OpenWave(0)]),
    "one device is on its way": ({}, {(0, C): 2, (0, U): 1}, []),
    "all committed": ({}, {(0, C): 3, (0, U): 0}, [E.ALL_COMMITTED]),
    "one refused, one is on its way": ({}, {(0, F): 1, (0, U): 1}, []),
    "one refused, the others committed": ({}, {(0, F): 1, (0, C): 2}, [E.SOME_FAILED]),
    "one was left behind, the others committed": ({}, {(0, X): 1, (0, C): 2}, [E.ALL_COMMITTED]),
    "all were left behind": ({}, {(0, X): 2}, [E.SOME_FAILED]),
    "stopped: who is on its way is recalled": ({"state": S.ABORTING}, {(0, U): 1, (0, C): 1}, [RECALL]),
    "stopped before it began": ({"state": S.ABORTING, "wave": -1}, {(0, P): 1}, [RECALL]),
    "stopped: who has committed is recalled too": ({"state": S.ABORTING}, {(0, B): 1, (0, C): 1}, [RECALL]),
    "stopped: waits for who goes back": ({"state": S.ABORTING}, {(0, B): 1, (0, R): 1}, []),
    "stopped: all settled": ({"state": S.ABORTING}, {(0, R): 1, (0, X): 1, (0, F): 1}, [E.ALL_BACK]),
}


def short(actions: list[Action]) -> list[object]:
    return [a.event if isinstance(a, Move) else a for a in actions]


@pytest.mark.parametrize(("fields", "tally", "actions"), PLAIN.values(), ids=PLAIN.keys())
def test_without_a_judge(fields: dict[str, object], tally: Counts, actions: list[object]) -> None:
    rollout = dataclasses.replace(ROLLOUT, **fields)  # type: ignore[arg-type]
    assert short(decide(rollout, tally, None)) == actions


JUDGED = {
    "a wave that has settled is watched": (TWO_WAVES, ONE_OF_TWO, UNSURE, [E.SETTLE]),
    "a wave that has not settled is waited for": (TWO_WAVES, ON_ITS_WAY, UNSURE, []),
    "slower while on its way is not acted on": (TWO_WAVES, ON_ITS_WAY, SLOW, []),
    "a hard limit while on its way": (TWO_WAVES, ON_ITS_WAY, HARD, [E.HARM]),
    "a judge that fails while on its way": (TWO_WAVES, ON_ITS_WAY, BROKEN, [E.HOLD]),
    "a canary refuses": (TWO_WAVES, {(0, F): 1, (1, P): 1}, UNSURE, [E.HARM]),
    "a canary refuses and the judge fails": (TWO_WAVES, {(0, F): 1, (1, P): 1}, BROKEN, [E.HARM]),
    "watched, and nobody was asked": (SOAKING, ONE_OF_TWO, None, []),
    "watched, not to the end": (SOAKING, ONE_OF_TWO, UNSURE, []),
    "slower, before the end": (SOAKING, ONE_OF_TWO, SLOW, []),
    "a hard limit before the end": (SOAKING, ONE_OF_TWO, HARD, [E.HARM]),
    "a PASS before the end is none": (SOAKING, ONE_OF_TWO, PASS, []),
    "passed at the end": (SOAKED, ONE_OF_TWO, PASS, [E.PASS, OpenWave(1)]),
    "slower at the end": (SOAKED, ONE_OF_TWO, SLOW, [E.HARM]),
    "unsure at the end": (SOAKED, ONE_OF_TWO, UNSURE, []),
    "unsure for as long as the judge's patience": ({**SOAKED, "watched": 30 * SECOND}, ONE_OF_TWO, UNSURE, [E.HOLD]),
    "a judge that fails": (SOAKING, ONE_OF_TWO, BROKEN, [E.HOLD]),
    "the last wave passed": (LAST, BOTH, PASS, [E.ALL_COMMITTED]),
    "the last wave passed, and nobody has it": (LAST, {(0, X): 1, (1, X): 1}, PASS, [E.HOLD]),
    "held: nothing": (HELD, ONE_OF_TWO, PASS, []),
    "held: a hard limit": (HELD, ONE_OF_TWO, HARD, [E.HARM]),
    "paused: nothing": (PAUSED, ONE_OF_TWO, BROKEN, []),
    "paused: a hard limit": (PAUSED, ONE_OF_TWO, HARD, [E.HARM]),
    "promoted: every wave, at once": (PROMOTED, ON_ITS_WAY, SLOW, [OpenWave(1)]),
    "promoted: all have it": ({**PROMOTED, "wave": 1}, BOTH, SLOW, [E.ALL_COMMITTED]),
    "promoted: a hard limit": ({**PROMOTED, "wave": 1}, BOTH, HARD, [E.HARM]),
    "rolling back takes those back that committed": (BACK, {(0, C): 1, (0, F): 1, (1, P): 1}, None, [ROLL_BACK]),
    "rolling back waits": (BACK, {(0, B): 1, (1, R): 1}, None, []),
    "rolled back": (BACK, {(0, R): 1, (1, R): 1, (1, X): 1}, None, [E.ALL_BACK]),
}


@pytest.mark.parametrize(("fields", "tally", "decision", "actions"), JUDGED.values(), ids=JUDGED.keys())
def test_with_a_judge(
    fields: dict[str, object], tally: Counts, decision: Decision | None, actions: list[object]
) -> None:
    rollout = dataclasses.replace(ROLLOUT, **fields)  # type: ignore[arg-type]
    assert short(decide(rollout, tally, decision)) == actions


PROVES = dataclasses.replace(TWO, waves=(WaveSpec(Share(count=1), proves={"rtx-turing": "agent-2"}), *TWO.waves))
ONCE = dataclasses.replace(PROVES, waves=(PROVES.waves[0], WaveSpec(ALL)), judge=JudgePolicy())
PROVED = {(0, C): 1, (1, P): 2, (2, P): 1}
TRYING = {(0, U): 1, (1, P): 2, (2, P): 1}
PROVING: dict[str, tuple[dict[str, object], Counts, Decision | None, list[object]]] = {
    "it opens first": ({"state": S.PENDING, "wave": -1}, {(0, P): 1, (1, P): 2}, None, [E.START, OpenWave(0)]),
    "it is waited for": ({}, TRYING, UNSURE, []),
    "it is through without a verdict": ({}, PROVED, None, [E.PROVE, OpenWave(1)]),
    "and whatever the judge cannot tell": ({}, PROVED, UNSURE, [E.PROVE, OpenWave(1)]),
    "a hard limit": ({}, TRYING, HARD, [E.HARM]),
    "a judge that fails": ({}, TRYING, BROKEN, [E.HOLD]),
    "a refusal": ({}, {(0, F): 1, (1, P): 2}, UNSURE, [E.HARM]),
    "a refusal in a rollout without a judge": ({"strategy": ONCE}, {(0, F): 1, (1, P): 2}, UNSURE, [E.HARM]),
    "a hard limit in a rollout without a judge": ({"strategy": ONCE}, TRYING, HARD, [E.HARM]),
    "through, in a rollout without a judge": ({"strategy": ONCE}, PROVED, None, [E.PROVE, OpenWave(1)]),
    "then such a rollout is as ever": ({"strategy": ONCE, "wave": 1}, {(0, C): 1, (1, F): 1}, None, [E.SOME_FAILED]),
    "one of two was left behind": ({}, {(0, C): 1, (0, X): 1, (1, P): 2}, None, [E.HOLD]),
    "one of two is on its way": ({}, {(0, U): 1, (0, X): 1, (1, P): 2}, None, []),
    "promoted: it is waited for": ({"promoted": True}, TRYING, SLOW, []),
    "promoted: through": ({"promoted": True}, PROVED, None, [E.PROVE, OpenWave(1)]),
}


@pytest.mark.parametrize(("fields", "tally", "decision", "actions"), PROVING.values(), ids=PROVING.keys())
def test_a_wave_0(fields: dict[str, object], tally: Counts, decision: Decision | None, actions: list[object]) -> None:
    rollout = dataclasses.replace(ROLLOUT, **{"strategy": PROVES, **fields})  # type: ignore[arg-type]
    assert short(decide(rollout, tally, decision)) == actions


def test_a_wave_0_is_named_by_its_number_and_by_what_it_proves() -> None:
    rollout = dataclasses.replace(ROLLOUT, strategy=PROVES, state=S.PENDING, wave=-1)
    first = decide(rollout, {(0, P): 1}, None)[0]
    assert isinstance(first, Move)
    assert first.reason == "wave 0 of 2: rtx-turing is proved on agent-2"
    then = decide(dataclasses.replace(ROLLOUT, strategy=PROVES), PROVED, None)[0]
    assert isinstance(then, Move)
    assert then.reason == "rtx-turing has been proved on agent-2; wave 1 of 2 is under way"
    later = decide(dataclasses.replace(ROLLOUT, strategy=PROVES, wave=2), {(0, C): 1, (2, C): 1}, UNSURE)[0]
    assert isinstance(later, Move)
    assert later.reason == "wave 2 of 2 has settled and is watched"


def test_hard_limits_hold_in_every_state_in_which_devices_may_have_the_release() -> None:
    for state in WATCHED:
        assert short(decide(dataclasses.replace(ROLLOUT, strategy=TWO, state=state), ONE_OF_TWO, HARD)) == [E.HARM]


def test_an_ended_rollout_decides_nothing() -> None:
    for state in ENDED:
        assert decide(dataclasses.replace(ROLLOUT, strategy=TWO, state=state), {(0, U): 1, (0, F): 1}, HARD) == []


def test_what_follows_has_the_words_of_the_record() -> None:
    words = {E.HARM: "roll back", E.HOLD: "hold", E.PASS: "advance", E.ALL_COMMITTED: "succeed", E.SETTLE: "wait"}
    assert {event: action_of([Move(event, "")], S.SOAKING) for event in words} == words
    states = {S.SOAKING: "wait", S.PROGRESSING: "wait", S.HELD: "stay held", S.PAUSED: "stay paused"}
    assert {state: action_of([], state) for state in states} == states
    assert action_of([Move(E.HARM, "")], S.HELD) == "roll back"


class Walk(RuleBasedStateMachine):
    """Devices do what they like, the judge and the operator too; the rules hold, and an end can always be reached."""

    @initialize(
        devices=st.integers(1, 5), waves=st.integers(1, 3), held=st.booleans(), judged=st.booleans(),
        proving=st.integers(0, 2),
    )  # fmt: skip
    def begin(self, devices: int, waves: int, held: bool, judged: bool, proving: int) -> None:
        kind = JudgeKind.THRESHOLDS if judged else JudgeKind.NONE
        specs = (*(WaveSpec(Share(count=n + 1), 3 * SECOND) for n in range(waves - 1)), WaveSpec(ALL, judged * SECOND))
        strategy = Strategy(specs, judge=JudgePolicy(kind, patience=6 * SECOND), expire_after=60 * SECOND)
        self.rollout = dataclasses.replace(ROLLOUT, state=S.PENDING, wave=-1, strategy=strategy)
        self.members = [dataclasses.replace(MEMBER, device_id=f"d-{n}", wave=n % waves) for n in range(devices)]
        if held and waves > 1:
            self.members.append(dataclasses.replace(MEMBER, device_id="d-c", wave=waves - 1, cohort=Cohort.CONTROL))
        if proving:
            provers = {f"d-{n}": f"target-{n}" for n in range(min(proving, devices))}
            places = {m.device_id: Place(m.wave, m.cohort, "") for m in self.members}
            names = {m.device_id: m.device_id for m in self.members}
            strategy, places = prove_first(strategy, places, provers, names, set(provers))
            self.rollout = dataclasses.replace(self.rollout, strategy=strategy)
            self.members = [dataclasses.replace(m, wave=places[m.device_id].wave) for m in self.members]
            assert [m.device_id for m in self.members if m.wave == 0] == list(provers)
        self.ended: RolloutState | None = None
        self.stopped_at: int | None = None

    def settle(self, decision: Decision | None = None) -> None:
        for _ in range(20):
            tally = Counter((m.wave, m.state) for m in self.members)
            actions, decision = decide(self.rollout, tally, decision), None
            for action in actions:
                match action:
                    case Move():
                        self.move(action.event, action.reason)
                    case OpenWave():
                        self.rollout = self.rollout.opening(action.wave, NOW)
                        for m in [m for m in self.members if m.wave <= action.wave and m.state is P]:
                            self.change(m, MemberEvent.ASSIGN)
                    case Recall():
                        for m in [m for m in self.members if (m.state, action.event) in MEMBER_TABLE]:
                            self.change(m, action.event)
            if not actions:
                return
        raise AssertionError("it does not come to rest")

    def move(self, event: RolloutEvent, reason: str = "") -> None:
        self.rollout = self.rollout.moved(event, reason=reason, now=NOW)

    def change(self, member: Member, event: MemberEvent) -> None:
        moved = dataclasses.replace(member.moved(event), generation=member.generation + 1)
        self.members[self.members.index(member)] = moved

    @rule()
    def everybody_does_what_it_is_told(self) -> None:
        self.settle()
        self.members = [self.said(m, ComponentState.COMMITTED) for m in self.members]
        self.settle()

    @precondition(lambda self: self.rollout.looked_at)
    @rule(decision=st.sampled_from([PASS, UNSURE, SLOW, HARD, BROKEN]), step=st.integers(-5, 99))
    def the_judge_speaks(self, decision: Decision, step: int) -> None:
        before = self.rollout.watched
        self.rollout = self.rollout.after(step * SECOND)
        assert timedelta(0) <= self.rollout.watched - before <= 5 * SECOND
        self.settle(decision)
        if decision.hard:
            assert self.rollout.state in {S.ROLLING_BACK, S.ROLLED_BACK}

    @rule(n=st.integers(0, 5), state=st.sampled_from([*ComponentState, *[ComponentState.COMMITTED] * 6]))
    def a_device_reports(self, n: int, state: ComponentState) -> None:
        at = n % len(self.members)
        self.members[at] = self.said(self.members[at], state)

    def said(self, member: Member, state: ComponentState) -> Member:
        report = Report(member.generation, (Component("engine", state, "r-2"), Component("policy", state, "r-2")))
        return observe(member, report, release_id="r-2", release_digest="sha256:2")

    @rule(n=st.integers(0, 5), away=st.integers(0, 90))
    def a_device_stays_away(self, n: int, away: int) -> None:
        at = n % len(self.members)
        member = expire(self.members[at], away * SECOND, self.rollout.strategy.expire_after)
        self.members[at] = give_up(member, away * SECOND)

    @rule(event=st.sampled_from([E.PAUSE, E.RESUME, E.PROMOTE, E.ABORT]), really=st.integers(0, 3))
    def the_operator_speaks(self, event: RolloutEvent, really: int) -> None:
        if (self.rollout.state, event) in ROLLOUT_TABLE and (really == 0 or event in (E.PAUSE, E.RESUME)):
            self.move(event)
            self.settle()

    @invariant()
    def an_end_stays_and_means_that_all_settled(self) -> None:
        states = {m.state for m in self.members}
        if self.rollout.state in ENDED:
            self.ended = self.ended or self.rollout.state
            assert self.ended is self.rollout.state
            assert self.rollout.ended == NOW
            assert states <= SETTLED
        if self.rollout.state is S.SUCCEEDED:
            assert C in states
            assert states <= {C, X}

    @invariant()
    def nobody_is_wanted_on_a_release_that_was_rolled_back_or_stopped(self) -> None:
        if self.rollout.state in {S.ROLLED_BACK, S.ABORTED}:
            assert {wanted_release(m, "r-2") for m in self.members} == {"r-1"}

    @invariant()
    def control_and_later_waves_keep_their_release_until_their_wave_opens(self) -> None:
        for member in self.members:
            if member.wave > self.rollout.wave:
                assert wanted_release(member, "r-2") == "r-1"

    @invariant()
    def nobody_gets_an_engine_before_it_is_proved(self) -> None:
        if self.rollout.strategy.proves and self.rollout.wave > 0:
            assert {m.state for m in self.members if m.wave == 0} <= {C, B, R}

    @invariant()
    def a_stopped_rollout_opens_nothing(self) -> None:
        if self.rollout.state in {S.ABORTING, S.ABORTED, S.ROLLING_BACK, S.ROLLED_BACK}:
            self.stopped_at = self.rollout.wave if self.stopped_at is None else self.stopped_at
            assert self.rollout.wave == self.stopped_at

    def teardown(self) -> None:
        """Once everybody does what it is told and the judge passes, the rollout comes to an end."""
        for _ in range(60):
            self.nobody_is_wanted_on_a_release_that_was_rolled_back_or_stopped()
            if not self.rollout.active:
                return
            if self.rollout.state in {S.HELD, S.PAUSED}:
                states = [m.state for m in self.members if m.wave <= self.rollout.wave]
                gone = X in states if self.rollout.proving else set(states) <= {X, F}
                self.move(E.ABORT if gone else E.RESUME)
            self.settle()
            self.members = [self.said(m, ComponentState.COMMITTED) for m in self.members]
            self.rollout = self.rollout.after(5 * SECOND)
            self.settle(PASS if self.rollout.looked_at else None)
        assert not self.rollout.active


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
