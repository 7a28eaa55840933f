"""Releases and builds: leases, attempts, and what builds come to."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest

from control_plane.domain.release import (
    BUILD_TABLE,
    LEASE_TTL,
    MAX_ATTEMPTS,
    UNFINISHED,
    Build,
    BuildEvent,
    BuildState,
    ReleaseEvent,
    expired,
    give_back,
    lease,
    next_event,
)
from maskfleet.errors import PreconditionError

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
QUEUED = Build("b-1", 1, "r-1", "ort-cpu")


def test_a_lease_holds_until_its_time_and_counts_an_attempt() -> None:
    taken = lease(QUEUED, lease_id="l-1", builder_id="host/1", now=NOW)
    assert (taken.state, taken.attempts, taken.lease_id) == (BuildState.BUILDING, 1, "l-1")
    assert not expired(taken, NOW + LEASE_TTL - timedelta(seconds=1))
    assert expired(taken, NOW + LEASE_TTL)
    assert not expired(QUEUED, NOW + LEASE_TTL)


def test_the_third_attempt_is_the_last() -> None:
    build = QUEUED
    for attempt in range(1, MAX_ATTEMPTS + 1):
        build = give_back(lease(build, lease_id=f"l-{attempt}", builder_id="x", now=NOW), reason="silent", now=NOW)
    assert (build.state, build.attempts) == (BuildState.FAILED, MAX_ATTEMPTS)
    assert build.reason == "silent (attempt 3, the last)"
    with pytest.raises(PreconditionError):
        lease(build, lease_id="l", builder_id="x", now=NOW)


def test_a_build_that_ended_cannot_move() -> None:
    for state in set(BuildState) - UNFINISHED:
        for event in BuildEvent:
            assert (state, event) not in BUILD_TABLE
            with pytest.raises(PreconditionError):
                dataclasses.replace(QUEUED, state=state).moved(event)


S, F, B, Q = BuildState.SUCCEEDED, BuildState.FAILED, BuildState.BUILDING, BuildState.QUEUED
OUTCOMES = {
    "none yet": ([Q, Q], None),
    "one of two is there": ([S, B], None),
    "all are there": ([S, S], ReleaseEvent.ALL_BUILT),
    "one failed while another builds": ([F, B], ReleaseEvent.BUILD_FAILED),
    "no builds at all are no success": ([], None),
    "a canceled one is no success": ([S, BuildState.CANCELED], None),
}


@pytest.mark.parametrize(("states", "event"), OUTCOMES.values(), ids=OUTCOMES.keys())
def test_builds_come_to(states: list[BuildState], event: ReleaseEvent | None) -> None:
    due = next_event([dataclasses.replace(QUEUED, state=state) for state in states])
    assert (due[0] if due else None) is event
