"""Health windows on their way into the store: together, once, in order, none lost, and what is old is folded."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from control_plane.domain.health import FOLD, KEPT, Histogram, StoredWindow, Window, folded
from control_plane.domain.judge.evidence import interval_of
from control_plane.domain.judge.figures import in_a_line, measure
from control_plane.links import Ack
from control_plane.store.memory import MemoryStore
from control_plane.windows import History, Intake
from maskfleet.clock import FakeClock
from maskfleet.errors import UnavailableError

BOUNDS = (10.0, 20.0, 50.0)
S = 10**9


def window(sequence: int, *, boot: str = "b1", release: str = "r-1", frames: int = 10, **fields: Any) -> Window:
    fields.setdefault("frames_by_outcome", {"MASKED": frames})
    fields.setdefault("latency_ms_by_stage", {"TOTAL": Histogram(BOUNDS, (0, frames, 0, 0), 15.0 * frames)})
    return Window(boot, sequence, (sequence - 1) * 10 * S, sequence * 10 * S, release, **fields)


class Fragile(MemoryStore):
    """Says no where it is told to, and counts its transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions = 0
        self.error: Exception | None = None
        self.poison = ""

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[Any]:
        self.transactions += 1
        await asyncio.sleep(0)  # a database takes its time, and others go on meanwhile
        if self.error is not None:
            raise self.error
        async with super().writing() as tx:
            yield tx
            if self.poison and any(w.device_id == self.poison for w in await tx.select(StoredWindow)):
                raise ValueError("a text that the database does not take")


@pytest.fixture
def store() -> Fragile:
    return Fragile()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def intake(store: Fragile, clock: FakeClock) -> Intake:
    return Intake(store, clock)


async def kept(store: Fragile, device_id: str = "d-1") -> list[StoredWindow]:
    async with store.reading() as look:
        return await look.select(StoredWindow, {"device_id": device_id})


async def test_windows_of_many_devices_that_come_together_take_few_transactions(store: Fragile, intake: Intake) -> None:
    acks = await asyncio.gather(*(intake.take(f"d-{d}", window(n)) for d in range(10) for n in (1, 2, 3)))
    assert sorted(ack.sequence for ack in acks) == [1] * 10 + [2] * 10 + [3] * 10
    assert intake.counts.stored == 30
    assert store.transactions == intake.counts.commits <= 2
    assert [w.sequence for w in await kept(store, "d-7")] == [1, 2, 3]


async def test_a_window_that_repeats_is_acknowledged_and_kept_once(store: Fragile, intake: Intake) -> None:
    for sequence in (1, 2, 1, 2, 3):
        assert await intake.take("d-1", window(sequence)) == Ack("b1", sequence)
    assert (intake.counts.stored, intake.counts.repeated) == (3, 2)
    assert [w.sequence for w in await kept(store)] == [1, 2, 3]


async def test_windows_that_a_device_lost_are_seen_by_their_gap(intake: Intake) -> None:
    for sequence in (1, 2, 9, 10):
        await intake.take("d-1", window(sequence))
    assert (intake.counts.stored, intake.counts.missing) == (4, 6)


BACKWARDS = {
    "the clock of the boot ran backwards": {"start_monotonic_ns": 1 * S, "end_monotonic_ns": 2 * S},
    "it overlaps with the one before it": {"start_monotonic_ns": 45 * S, "end_monotonic_ns": 60 * S},
    "it holds a NaN": {"temperatures_c": {"cpu": float("nan")}},
    "it holds a negative count": {"frames_by_outcome": {"MASKED": -5}},
    "it claims a month": {"end_monotonic_ns": 60 * S + 30 * 24 * 3600 * S},
}


@pytest.mark.parametrize("fields", BACKWARDS.values(), ids=BACKWARDS.keys())
async def test_a_window_that_makes_no_sense_is_counted_and_does_not_come_back(
    fields: dict[str, Any], store: Fragile, intake: Intake
) -> None:
    for sequence in range(1, 6):
        await intake.take("d-1", window(sequence))
    assert await intake.take("d-1", dataclasses.replace(window(6), **fields)) == Ack("b1", 6)
    await intake.take("d-1", window(7))
    assert (intake.counts.stored, intake.counts.refused) == (6, 1)
    assert [w.sequence for w in await kept(store)] == [1, 2, 3, 4, 5, 7]


async def test_windows_of_one_interval_and_two_releases_are_both_kept(store: Fragile, intake: Intake) -> None:
    await intake.take("d-1", window(1))
    await intake.take("d-1", dataclasses.replace(window(1, release="r-2"), sequence=2))
    assert [w.window.release_id for w in await kept(store)] == ["r-1", "r-2"]
    assert intake.counts.refused == 0


async def test_nothing_is_acknowledged_while_the_database_is_away(store: Fragile, intake: Intake) -> None:
    store.error = UnavailableError("the database does not answer")
    for result in await asyncio.gather(*(intake.take(f"d-{d}", window(1)) for d in range(3)), return_exceptions=True):
        assert isinstance(result, UnavailableError)
    assert intake.counts.stored == 0
    store.error = None
    assert await intake.take("d-1", window(1)) == Ack("b1", 1)
    assert intake.counts.repeated == 0


async def test_one_window_that_the_store_does_not_take_spoils_no_other(store: Fragile, intake: Intake) -> None:
    store.poison = "d-2"
    results = await asyncio.gather(*(intake.take(f"d-{d}", window(1)) for d in range(4)), return_exceptions=True)
    assert [type(r) for r in results] == [Ack, Ack, ValueError, Ack]
    assert intake.counts.stored == 3
    assert await kept(store, "d-2") == []


async def test_a_stream_that_ends_in_the_middle_takes_nobody_elses_window_along(store: Fragile, intake: Intake) -> None:
    gone = asyncio.create_task(intake.take("d-1", window(1)))
    others = [asyncio.create_task(intake.take(f"d-{d}", window(1))) for d in (2, 3)]
    await asyncio.sleep(0)
    gone.cancel()
    assert [ack.sequence for ack in await asyncio.wait_for(asyncio.gather(*others), 10)] == [1, 1]
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await intake.take("d-1", window(1)) == Ack("b1", 1)  # it comes again with the next stream
    assert intake.counts.stored == 3


async def test_old_windows_are_folded_and_nothing_of_what_they_count_is_lost(store: Fragile, intake: Intake) -> None:
    total = KEPT + 2 * FOLD + 3
    for sequence in range(1, total + 1):
        release = "r-1" if sequence <= FOLD + 5 else "r-2"
        await intake.take("d-1", window(sequence, release=release, guard_actions_by_reason={"NO_ENGINE": 1}))
    found = await kept(store)
    assert [(w.window.release_id, w.sequence) for w in found[:3]] == [("r-1", 20), ("r-1", 25), ("r-2", 40)]
    assert len(found) == 3 + KEPT + 3
    told = measure(map(interval_of, found))
    assert (told.frames, told.failed) == (10 * total, total)
    first = found[0].window
    assert (first.start_monotonic_ns, first.end_monotonic_ns) == (0, 200 * S)
    assert first.latency_ms_by_stage["TOTAL"] == Histogram(BOUNDS, (0, 200, 0, 0), 3000.0)
    assert [w.number for w in found] == sorted(w.number for w in found)


async def test_a_device_holds_so_many_windows_and_no_more_however_long_it_runs(
    store: Fragile, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.windows.KEPT", 8)
    monkeypatch.setattr("control_plane.windows.FOLD", 4)
    for boot in ("b1", "b2", "b3"):
        for sequence in [*range(1, 60), *range(75, 90)]:
            await intake.take("d-1", window(sequence, boot=boot))
            assert len(await kept(store)) <= 16 + 8 + 8 + 4
    assert (await kept(store))[-1].sequence == 89


def test_folding_keeps_what_it_cannot_add_up_of_the_newest_and_the_hottest() -> None:
    old = window(1, temperatures_c={"cpu": 80.0, "gpu": 50.0}, starts=3, latency_ms_by_stage={})
    new = window(2, temperatures_c={"cpu": 60.0}, starts=3, latency_ms_by_stage={"TOTAL": Histogram((1.0,), (1, 1), 3)})
    (both,) = folded([StoredWindow("d", "b1", n, n, FakeClock().now(), w) for n, w in ((1, old), (2, new))])
    assert both.window.temperatures_c == {"cpu": 80.0, "gpu": 50.0}
    assert (both.sequence, both.number, both.window.starts) == (2, 2, 3)
    assert both.window.latency_ms_by_stage == new.latency_ms_by_stage
    assert both.window.frames_by_outcome == {"MASKED": 20}


async def test_history_reads_what_is_new_and_knows_what_was_there(
    store: Fragile, intake: Intake, clock: FakeClock
) -> None:
    history = History()
    for sequence in (1, 2):
        await intake.take("d-1", window(sequence))
    async with store.reading() as look:
        assert [len(v) for v in (await history.of(look, ["d-1", "d-2"])).values()] == [2, 0]
    clock.advance(timedelta(seconds=10))
    for device_id in ("d-1", "d-2", "d-3"):
        await intake.take(device_id, window(3))
    async with store.reading() as look:
        found = await history.of(look, ["d-1", "d-2", "d-3"])
        again = await history.of(look, ["d-1"])
    assert [len(v) for v in found.values()] == [3, 1, 1]
    assert len(again["d-1"]) == 3
    assert found["d-2"][-1].received == clock.now()


LINES = {
    "1,200 frames, 0 failed, p95 20 ms": window(1, frames=1200),
    "no frames": window(1, frames=0),
    "7 frames, 2 failed": window(1, frames=7, latency_ms_by_stage={}, guard_actions_by_reason={"DEADLINE_MISSED": 2}),
    "6 frames, 0 failed": window(
        1, frames=7, latency_ms_by_stage={}, guard_actions_by_reason={"SUPERSEDED": 1}, detections=3
    ),
}


@pytest.mark.parametrize(("line", "told"), LINES.items(), ids=LINES.keys())
def test_a_window_in_a_line_for_people(line: str, told: Window) -> None:
    assert in_a_line(StoredWindow("d", "b1", 1, 1, FakeClock().now(), told)) == line
