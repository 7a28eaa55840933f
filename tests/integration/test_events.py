"""The fleet's history over real gRPC: in order, by pages, followed from any number, and never longer than it may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from control_plane import events
from control_plane.changes import Changes
from control_plane.config import Config
from control_plane.domain.event import Event
from control_plane.events import Events, note
from control_plane.plane import Plane
from control_plane.registry import Registry
from control_plane.store.memory import MemoryStore
from control_plane.telemetry import Metrics
from maskfleet import errors
from maskfleet.clock import FakeClock
from maskfleet.v1 import events_service_pb2 as wire
from maskfleet.v1 import releases_service_pb2
from tests.integration.test_plane import WAIT_S, Client, Kit, add_model, eventually, refused

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
async def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    monkeypatch.setattr(Registry, "warm_up", lambda _self: None)
    await add_model(tmp_path)
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    clock = FakeClock(datetime.now(timezone.utc))
    async with Plane.running(config, tmp_path, clock=clock, metrics=Metrics()) as plane:
        kit = Kit(plane, clock)
        yield kit
        await kit.close()


async def listed(kit: Kit, **fields: Any) -> list[wire.Event]:
    answer = await kit.operator.call(kit.operator.events.ListEvents, wire.ListEventsRequest(**fields))
    return list(answer.events)


def watching(kit: Kit, **fields: Any) -> Any:
    request = wire.WatchEventsRequest(**fields)
    return kit.operator.events.WatchEvents(request, timeout=WAIT_S, metadata=kit.operator.said)


async def test_what_happens_is_told_in_order_with_who_did_it(kit: Kit) -> None:
    device = await kit.device("cam-1")
    release = await kit.release()
    releases = kit.operator.releases
    wanted = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
    stopped = await kit.operator.call(releases.CreateRelease, wanted)
    await kit.operator.call(
        releases.CancelRelease, releases_service_pb2.CancelReleaseRequest(release_id=stopped.release.id)
    )
    await device.disconnect()
    await eventually(watching(kit, after=1), lambda m: m.event.kind == "device.disconnected")
    told = [(e.kind, e.subject, e.actor) for e in reversed(await listed(kit))]
    assert told == [
        ("device.enrolled", device.id, device.id),
        ("device.connected", device.id, device.id),
        ("release.created", release.id, "operator"),
        ("release.ready", release.id, "plane"),
        ("release.created", stopped.release.id, "operator"),
        ("release.canceled", stopped.release.id, "operator"),
        ("device.disconnected", device.id, device.id),
    ]
    assert (await listed(kit, subject=device.id))[0].text == "cam-1 disconnected"


async def test_pages_go_from_the_newest_to_the_oldest_and_none_is_seen_twice(kit: Kit) -> None:
    for n in range(3):
        await kit.device(f"cam-{n}")
    request = wire.ListEventsRequest(page_size=4)
    first = await kit.operator.call(kit.operator.events.ListEvents, request)
    await kit.device("cam-new")
    request.page_token = first.next_page_token
    second = await kit.operator.call(kit.operator.events.ListEvents, request)
    assert [e.number for e in (*first.events, *second.events)] == [6, 5, 4, 3, 2, 1]
    assert second.next_page_token == ""
    error = await refused(kit.operator.call(kit.operator.events.ListEvents, wire.ListEventsRequest(page_token="bm8=")))
    assert isinstance(error, errors.InvalidInputError)


async def test_a_watcher_catches_up_from_its_number_and_goes_on(kit: Kit) -> None:
    await kit.device("cam-1")
    stream = watching(kit, after=1)
    assert (await asyncio.wait_for(stream.read(), WAIT_S)).event.number == 2
    await kit.device("cam-2")
    assert [(await asyncio.wait_for(stream.read(), WAIT_S)).event.number for _ in range(2)] == [3, 4]
    stream.cancel()


async def test_events_are_for_operators(kit: Kit) -> None:
    device = await kit.device("cam-1")
    async with Client(kit.plane.address, device.credential) as mine:
        error = await refused(mine.call(mine.events.ListEvents, wire.ListEventsRequest()))
    assert str(error) == "a device may not call ListEvents: it is for operators"


async def test_the_oldest_are_dropped_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 3)
    store = MemoryStore()
    async with store.writing() as tx:
        for n in range(5):
            await note(tx, "decision", "ro-1", "x" * 2000, now=NOW + timedelta(seconds=n))
    found = await Events(store, Changes()).newest("", before=None, limit=10)
    assert [(e.number, len(e.text)) for e in found] == [(5, 1000), (4, 1000), (3, 1000)]


async def test_what_was_undone_is_not_told() -> None:
    store = MemoryStore()

    async def fail() -> None:
        async with store.writing() as tx:
            await note(tx, "decision", "ro-1", "never", now=NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with store.reading() as look:
        assert await look.total(Event) == 0


async def test_a_follower_of_a_store_that_went_back_in_time_goes_on_with_what_happens_next() -> None:
    store, changes = MemoryStore(), Changes()
    store.follow(changes.hear)
    async with store.writing() as tx:
        await note(tx, "decision", "ro-1", "first", now=NOW)
    following = Events(store, changes).follow("", after=500)
    coming = asyncio.ensure_future(anext(following))
    for _ in range(10):  # memory never waits: after a few rounds of the loop it listens
        await asyncio.sleep(0)
    async with store.writing() as tx:
        await note(tx, "decision", "ro-1", "second", now=NOW)
    assert (await asyncio.wait_for(coming, WAIT_S)).text == "second"
    await following.aclose()
