"""From what is wanted to the next step: the table, its rules, and what errors mean."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.updates.reconcile import (
    MAX_ATTEMPTS,
    MAX_DELAY_S,
    SETTLED,
    TRANSITIONS,
    Action,
    Event,
    Goal,
    Holdings,
    State,
    Update,
    advance,
    check_assignment,
    event_for,
    next_step,
    retry_delay,
)
from maskfleet import errors
from maskfleet.errors import IntegrityError, InternalError
from maskfleet.manifest import Assignment

GOAL = Goal(3, "r-2", "sha256:" + "2" * 64, "ort-cpu", "sha256:" + "e" * 64, 1000)
NOTHING = Holdings("", {})


@pytest.mark.parametrize(
    ("update", "holdings", "action"),
    [
        pytest.param(None, NOTHING, Action.REST, id="nothing is wanted"),
        pytest.param(Update(GOAL), NOTHING, Action.FETCH, id="the engine is nowhere"),
        pytest.param(Update(GOAL), Holdings("", {"a": GOAL.engine_digest}), Action.REUSE, id="a slot has the engine"),
        pytest.param(Update(GOAL), Holdings("", {"a": "sha256:other"}), Action.FETCH, id="a slot has another engine"),
        pytest.param(
            Update(GOAL, corrupt=1),
            Holdings("", {"a": GOAL.engine_digest}),
            Action.FETCH,
            id="the copy in a slot turned out to be corrupt",
        ),
        pytest.param(Update(GOAL), Holdings(GOAL.release_digest, {}), Action.KEEP, id="it serves already"),
        pytest.param(Update(GOAL), Holdings("", {}, MAX_ATTEMPTS), Action.GIVE_UP, id="the process died on it"),
        pytest.param(Update(GOAL, not_before=11.0), NOTHING, Action.WAIT, id="it waits for another try"),
        pytest.param(Update(GOAL, State.VERIFYING), NOTHING, Action.VERIFY, id="it is there"),
        pytest.param(Update(GOAL, State.LOADING), NOTHING, Action.LOAD, id="it is verified"),
        pytest.param(Update(GOAL, State.TESTING), NOTHING, Action.TEST, id="it is loaded"),
        pytest.param(Update(GOAL, State.SOAKING, soak_until=11.0), NOTHING, Action.WAIT, id="it is watched"),
        pytest.param(Update(GOAL, State.SOAKING, soak_until=10.0), NOTHING, Action.COMMIT, id="it was watched"),
        pytest.param(Update(GOAL, State.COMMITTED), NOTHING, Action.REST, id="it is committed"),
        pytest.param(Update(GOAL, State.REVERTED), NOTHING, Action.REST, id="it was refused"),
    ],
)
def test_the_next_step(update: Update | None, holdings: Holdings, action: Action) -> None:
    assert next_step(update, holdings, now=10.0).action is action


def test_a_good_release_goes_all_the_way() -> None:
    update = Update(GOAL)
    seen = [update.state]
    for event in (Event.FETCHED, Event.VERIFIED, Event.LOADED, Event.PASSED, Event.SOAKED):
        update = advance(update, event, now=5.0, soak_s=3.0)
        seen.append(update.state)
    assert seen == [
        State.DOWNLOADING, State.VERIFYING, State.LOADING, State.TESTING, State.SOAKING, State.COMMITTED,
    ]  # fmt: skip
    assert update.soak_until == 8.0


def test_wrong_bytes_are_fetched_once_more_and_then_refused() -> None:
    update = advance(Update(GOAL, State.VERIFYING), Event.CORRUPT, now=0.0, reason="wrong digest")
    assert (update.state, update.corrupt) == (State.DOWNLOADING, 1)
    update = advance(update, Event.FETCHED, now=0.0)
    update = advance(update, Event.CORRUPT, now=0.0, reason="wrong digest")
    assert (update.state, update.reason) == (State.REVERTED, "wrong digest")


def test_what_may_pass_by_itself_waits_longer_each_time() -> None:
    update, waits = Update(GOAL), []
    for _ in range(12):
        update = advance(update, Event.DELAYED, now=100.0, reason="no plane")
        assert update.state is State.DOWNLOADING
        waits.append(update.not_before - 100.0)
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == MAX_DELAY_S == retry_delay(10_000)


@pytest.mark.parametrize(
    ("error", "state", "event"),
    [
        (errors.UnavailableError("x"), State.DOWNLOADING, Event.DELAYED),
        (errors.DiskFullError("x"), State.DOWNLOADING, Event.DELAYED),
        (errors.DiskFullError("x"), State.SOAKING, Event.DELAYED),
        (errors.InternalError("x"), State.DOWNLOADING, Event.DELAYED),
        (errors.DigestMismatchError("x"), State.VERIFYING, Event.CORRUPT),
        (errors.DigestMismatchError("x"), State.LOADING, Event.FAILED),
        (errors.SelfTestError("x"), State.TESTING, Event.FAILED),
        (errors.EngineError("x"), State.LOADING, Event.FAILED),
        (errors.NotFoundError("x"), State.DOWNLOADING, Event.FAILED),
        (errors.UnavailableError("x"), State.TESTING, Event.FAILED),
    ],
)
def test_what_an_error_means(error: errors.FleetError, state: State, event: Event) -> None:
    assert event_for(error, state) is event


def test_every_working_state_can_be_refused() -> None:
    working = set(State) - SETTLED - {State.EMPTY}
    assert {state for state, event in TRANSITIONS if event is Event.FAILED} == working
    assert not any(state in SETTLED for state, _ in TRANSITIONS), "what is settled stays so"


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_whatever_happens_only_the_table_moves_an_update(events: list[Event]) -> None:
    update = Update(GOAL)
    for event in events:
        before = update
        try:
            update = advance(update, event, now=0.0)
        except InternalError:
            assert update is before
            continue
        assert (before.state, event) in TRANSITIONS or event is Event.CORRUPT
        assert update.corrupt < 2 or update.state is State.REVERTED


def assignment(**changes: object) -> Assignment:
    return dataclasses.replace(Assignment("d-1", 5, "r-2", "sha256:two"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "news"),
    [(assignment(), False), (assignment(generation=6, release_digest="sha256:three"), True)],
    ids=["the same again", "the next one"],
)
def test_a_good_assignment(said: Assignment, news: bool) -> None:
    assert check_assignment(said, device_id="d-1", generation=5, release_digest="sha256:two") is news


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (assignment(device_id="d-2"), "for device d-2"),
        (assignment(generation=4), "older than 5"),
        (assignment(release_digest="sha256:three"), "meant release"),
    ],
    ids=["for another device", "an old one that is replayed", "one generation for two releases"],
)
def test_a_bad_assignment_is_refused(said: Assignment, words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        check_assignment(said, device_id="d-1", generation=5, release_digest="sha256:two")
