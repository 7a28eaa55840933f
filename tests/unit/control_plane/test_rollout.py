"""The rollout tables and values, one rule at a time."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest

from control_plane.domain.cohort import Cohort
from control_plane.domain.device import Component, ComponentState, Report
from control_plane.domain.rollout import (
    ENDED,
    EXPIRING,
    LONGEST_STEP,
    MEMBER_TABLE,
    RECALL_PATIENCE,
    REVERSIBLE,
    ROLLOUT_TABLE,
    SETTLED,
    WATCHED,
    Member,
    MemberState,
    Rollout,
    RolloutEvent,
    RolloutState,
    cohort_now,
    expire,
    give_up,
    observe,
    wanted_release,
)
from control_plane.domain.strategy import ALL, Share, Strategy, WaveSpec
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
    "a download tells why it waits": (
        report(ComponentState.DOWNLOADING, bytes_total=4, reason="the disk is full"),
        MemberState.UPDATING, "DOWNLOADING 0 %: the disk is full",
    ),
    "it tells why it cannot be loaded yet": (
        report(ComponentState.LOADING, reason="no memory"), MemberState.UPDATING, "LOADING: no memory",
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


def test_a_device_without_a_former_release_says_that_it_keeps_what_it_has() -> None:
    member = dataclasses.replace(MEMBER, state=MemberState.REVERTING, generation=6, baseline_release_id="")
    back = seen(member, report(ComponentState.COMMITTED, generation=6))
    assert (back.state, back.detail) == (MemberState.REVERTED, "it ran nothing before and keeps what it has")


def test_an_ended_rollout_cannot_move() -> None:
    for state in ENDED:
        for event in RolloutEvent:
            with pytest.raises(PreconditionError) as caught:
                dataclasses.replace(ROLLOUT, state=state).moved(event, reason="", now=NOW)
            assert "start another" in caught.value.remedy


def test_on_the_way_back_a_device_that_is_away_is_given_up_and_on_the_way_there_it_is_not() -> None:
    reverting = dataclasses.replace(MEMBER, state=MemberState.REVERTING)
    assert give_up(reverting, RECALL_PATIENCE).state is MemberState.REVERTED
    assert give_up(reverting, RECALL_PATIENCE - timedelta(seconds=1)) is reverting
    assert give_up(MEMBER, timedelta(days=9)) is MEMBER


def test_a_device_is_left_behind_only_before_it_has_the_release_and_only_where_there_is_a_limit() -> None:
    hour = timedelta(hours=1)
    for state in MemberState:
        member = dataclasses.replace(MEMBER, state=state)
        assert expire(member, 9 * hour, None) is member
        assert expire(member, hour - timedelta(seconds=1), hour) is member
        assert (expire(member, hour, hour) is not member) is (state in EXPIRING)
    gone = expire(MEMBER, hour, hour)
    assert gone.state is MemberState.EXPIRED
    assert "1 h" in gone.detail
    assert {MemberState.PENDING, MemberState.UPDATING} == EXPIRING


def test_a_control_device_is_control_until_its_wave_opens() -> None:
    held = dataclasses.replace(MEMBER, cohort=Cohort.CONTROL, wave=1)
    later = dataclasses.replace(MEMBER, wave=1)
    assert [cohort_now(held, wave) for wave in (-1, 0, 1)] == [Cohort.CONTROL, Cohort.CONTROL, Cohort.CANARY]
    assert [cohort_now(later, wave) for wave in (-1, 0, 1)] == [None, None, Cohort.CANARY]


SOAK = Strategy((WaveSpec(Share(count=1), timedelta(seconds=10)), WaveSpec(ALL)))
SOAKING = dataclasses.replace(ROLLOUT, strategy=SOAK, state=RolloutState.SOAKING)


def test_a_soak_is_watched_time_in_steps_that_no_clock_can_make_long() -> None:
    second, hour = timedelta(seconds=1), timedelta(hours=1)
    assert SOAKING.after(second).watched == second
    assert SOAKING.after(hour).watched == LONGEST_STEP
    assert SOAKING.after(-hour) is SOAKING
    assert not SOAKING.after(hour).soaked
    assert SOAKING.after(hour).after(hour).soaked


def test_a_pause_keeps_what_was_watched_and_only_soaking_is_watched() -> None:
    watched = SOAKING.after(timedelta(seconds=4))
    paused = watched.moved(RolloutEvent.PAUSE, reason="", now=NOW)
    assert paused.after(timedelta(seconds=4)) is paused
    again = paused.moved(RolloutEvent.RESUME, reason="", now=NOW)
    assert (again.state, again.watched) == (RolloutState.PROGRESSING, timedelta(seconds=4))


def test_going_on_after_a_hold_gives_the_judge_its_patience_again() -> None:
    held = dataclasses.replace(SOAKING, state=RolloutState.HELD, watched=timedelta(minutes=20))
    assert held.moved(RolloutEvent.RESUME, reason="", now=NOW).watched == timedelta(seconds=10)


def test_every_state_of_both_tables_can_be_reached_and_left_or_is_an_end() -> None:
    for table, start, ends in (
        (ROLLOUT_TABLE, RolloutState.PENDING, ENDED),
        (MEMBER_TABLE, MemberState.PENDING, SETTLED - REVERSIBLE),
    ):
        reached = {start}
        for _ in table:
            reached |= {target for (source, _), target in table.items() if source in reached}
        assert reached == set(type(start))
        assert {source for source, _ in table} == set(type(start)) - ends


def test_harm_and_abort_have_a_way_out_of_every_state_in_which_devices_may_have_the_release() -> None:
    for state in WATCHED:
        assert ROLLOUT_TABLE[(state, RolloutEvent.HARM)] is RolloutState.ROLLING_BACK
        assert ROLLOUT_TABLE[(state, RolloutEvent.ABORT)] is RolloutState.ABORTING
