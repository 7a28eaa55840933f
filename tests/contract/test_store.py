"""One suite for every store: memory, SQLite, and PostgreSQL where there is one (``tests/postgres.py``)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from control_plane.domain.cohort import Cohort
from control_plane.domain.device import Assignment, Component, ComponentState, Device, Facts, JoinToken, Report
from control_plane.domain.event import Event
from control_plane.domain.health import Histogram, StoredWindow, Window, WindowMark
from control_plane.domain.judge import DecisionRecord, Verdict
from control_plane.domain.release import Build, BuildState, EngineProof, Model, Release, ReleaseState, Tensor
from control_plane.domain.rollout import Member, MemberState, Rollout, RolloutState
from control_plane.domain.strategy import JudgeKind, JudgePolicy, Share, Strategy, WaveSpec
from control_plane.store.memory import MemoryStore
from control_plane.store.port import Store
from control_plane.store.records import KINDS, Number, Request
from control_plane.store.sql import SqlStore, sqlite_url
from maskfleet.errors import AlreadyExistsError
from maskfleet.gate import Margins
from maskfleet.policy import MaskPolicy, Style

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    postgres = request.param == "postgresql"
    url = request.getfixturevalue("postgres_url") if postgres else sqlite_url(tmp_path / "plane.db")
    opened = await SqlStore.opened(url)
    yield opened
    await opened.close()


def device(name: str, **fields: object) -> Device:
    values: dict[str, object] = {
        "id": f"d-{name}", "name": name, "public_key": b"\x00\xff" * 16, "labels": {"site": "berlin"},
        "facts": Facts(os="debian 12", runtimes={"onnxruntime": "1.32"}, targets=("ort-cpu",)),
        "enrolled": NOW, "last_seen": NOW,
    }  # fmt: skip
    return Device(**(values | fields))  # type: ignore[arg-type]


RELEASE = Release(
    id="r-1", counter=1, state=ReleaseState.READY, model_name="centerface", model_version=1,
    model_digest="sha256:" + "a" * 64, decoder="centerface", precision="fp32", input_width=640, input_height=352,
    policy=MaskPolicy(style=Style.SOLID), targets=("ort-cpu",), created=NOW, manifest=b"{}", manifest_digest="x",
    margins=Margins(min_recall=0.5), calibration="street/2", workspace_mb=64, logged=True,
)  # fmt: skip
STRATEGY = Strategy(
    (WaveSpec(Share(count=1), timedelta(seconds=12)), WaveSpec(Share(percent=100.0))), Share(percent=12.5),
    ("site",), 7, JudgePolicy(JudgeKind.THRESHOLDS), timedelta(hours=12),
)  # fmt: skip
ROLLOUT = Rollout(
    "ro-1", 1, "r-1", "sha256:x", "site=berlin", RolloutState.SOAKING, NOW, STRATEGY, 0, NOW, timedelta(seconds=7)
)
WINDOW = Window(
    "b1", 3, 1, 2**63, frames_by_outcome={"MASKED": 2**40}, confidence=Histogram((0.5,), (1, 2), 1.5),
    latency_ms_by_stage={"detect": Histogram((1.0, 2.0), (1, 2, 3), 4.5)}, temperatures_c={"cpu": 51.5},
)  # fmt: skip
RECORDS = [
    Number("x", 3),
    Request("req-1", "CreateRelease sha256:…", "r-1", NOW),
    JoinToken("digest", NOW, 3, 1, {"site": "a"}),
    device(
        "a", report=Report(4, (Component("engine", ComponentState.REVERTED, reason="it does not load", bytes_done=9),))
    ),
    RELEASE,
    Assignment("d-a", 7, "r-1", b"\x00envelope"),
    Model(
        "centerface", 2, 5, "centerface", "sha256:y", 7_300_000, "models:/centerface/2",
        (Tensor("input", "float32", ("N", "3", "H", "W")),), (), 640, 352, True, NOW, "a line",
    ),
    Build("b-1", 1, "r-1", "ort-cpu", BuildState.BUILDING, progress=0.5, lease_id="l-1", lease_until=NOW),
    EngineProof("sha256:e", "rtx-turing", "d-a", "a", "r-1", NOW),
    ROLLOUT,
    Member("ro-1", "d-a", "a", "", 0, MemberState.UPDATING, 7, "", Cohort.CONTROL, "site=a", timedelta(seconds=1.5)),
    DecisionRecord(
        "ro-1/1", "ro-1", 1, NOW, 0, Verdict.FAIL, "roll back", ("it is slower",), False, {"a": [1, None, {"b": 0.5}]}
    ),
    StoredWindow("d-a", "b1", 3, 1, NOW, WINDOW),
    WindowMark("d-a", "b1", 3),
    Event(1, NOW, "release.ready", "r-1", "every build passed", "plane"),
]  # fmt: skip


async def test_every_kind_of_record_comes_back_as_it_was(store: Store) -> None:
    assert {type(r) for r in RECORDS} == set(KINDS)
    async with store.writing() as tx:
        await tx.put(*RECORDS)
    async with store.reading() as look:
        for record in RECORDS:
            assert await look.get(type(record), KINDS[type(record)].key(record)) == record


async def test_a_record_takes_the_place_of_the_one_with_its_key(store: Store) -> None:
    async with store.writing() as tx:
        await tx.put(device("a"))
        await tx.put(device("a", labels={"site": "rome"}))
    async with store.reading() as look:
        assert [d.labels for d in await look.select(Device)] == [{"site": "rome"}]
        assert await look.get(Device, "d-b") is None


async def test_an_exception_undoes_the_whole_transaction(store: Store) -> None:
    async def fail() -> None:
        async with store.writing() as tx:
            await tx.put(device("a"))
            assert await tx.next_number("release") == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with store.writing() as tx:
        assert await tx.get(Device, "d-a") is None
        assert await tx.next_number("release") == 1


async def test_pages_go_on_where_the_last_one_ended_in_both_directions(store: Store) -> None:
    async with store.writing() as tx:
        await tx.put(*(device(name) for name in ("b", "A", "c", "a", "B-1", "B.1")))
    async with store.reading() as look:
        first = await look.select(Device, limit=4)
        assert [d.name for d in first] == ["A", "B-1", "B.1", "a"]
        assert [d.name for d in await look.select(Device, after="a", limit=4)] == ["b", "c"]
        assert [d.name for d in await look.select(Device, after="b", descending=True, limit=2)] == ["a", "B.1"]


async def test_records_are_found_and_counted_by_column(store: Store) -> None:
    builds = [
        Build(f"b-{n}", n, "r-1", "ort-cpu", BuildState.QUEUED if n % 2 else BuildState.FAILED, lease_id="l" * (n == 1))
        for n in range(5)
    ]
    async with store.writing() as tx:
        await tx.put(RELEASE)
        await tx.put(*builds)
    async with store.reading() as look:
        assert [b.number for b in await look.select(Build, {"state": "QUEUED"})] == [1, 3]
        assert [b.number for b in await look.select(Build, {"lease_id": "l", "release_id": "r-1"})] == [1]
        assert await look.select(Build, {"lease_id": "none"}) == []
        assert await look.counts(Build, "state") == {"QUEUED": 2, "FAILED": 3}
        assert await look.counts(Build, "state", {"release_id": "r-9"}) == {}
        assert (await look.total(Build), await look.total(Device)) == (5, 0)


async def test_a_build_is_found_again_by_what_went_into_it(store: Store) -> None:
    def build(number: int, recipe: str, key: str, target: str = "ort-cpu") -> Build:
        return Build(f"b-{number}", number, "r-1", target, BuildState.SUCCEEDED, recipe=recipe, cache_key=key)

    async with store.writing() as tx:
        await tx.put(RELEASE)
        await tx.put(build(1, "a", "x"), build(2, "a", "y"), build(3, "a", "y", "openvino-cpu"), build(4, "", ""))
    async with store.reading() as look:
        where = {"recipe": "a", "target": "ort-cpu", "state": "SUCCEEDED"}
        assert [b.id for b in await look.select(Build, where, descending=True, limit=5)] == ["b-2", "b-1"]
        assert [b.id for b in await look.select(Build, {"cache_key": "y"})] == ["b-2", "b-3"]
        assert [b.id for b in await look.select(Build, {"recipe": None})] == ["b-4"]


async def test_releases_that_the_registry_has_not_heard_of_are_found(store: Store) -> None:
    async with store.writing() as tx:
        await tx.put(
            RELEASE,
            dataclasses.replace(RELEASE, id="r-2", counter=2, logged=False),
            dataclasses.replace(RELEASE, id="r-3", counter=3, logged=False, state=ReleaseState.FAILED),
        )
    async with store.reading() as look:
        assert [r.id for r in await look.select(Release, {"unlogged": 1})] == ["r-2"]


async def test_two_devices_never_share_a_name(store: Store) -> None:
    async def write() -> None:
        async with store.writing() as tx:
            await tx.put(device("a"))
            await tx.put(device("a", id="d-other"))

    with pytest.raises(AlreadyExistsError):
        await write()
    async with store.reading() as look:
        assert await look.select(Device) == []


async def test_writers_take_turns_so_that_no_number_is_given_twice(store: Store) -> None:
    async def take() -> int:
        async with store.writing() as tx:
            number = await tx.next_number("release")
            await asyncio.sleep(0)
            return number

    assert sorted(await asyncio.gather(*(take() for _ in range(20)))) == list(range(1, 21))


async def test_a_reader_does_not_see_half_of_a_transaction(store: Store) -> None:
    async with store.writing() as tx:
        await tx.put(device("a"))
        async with store.reading() as look:
            assert await look.select(Device) == []
    async with store.reading() as look:
        assert len(await look.select(Device)) == 1


async def test_deleting_what_is_not_there_is_no_fault(store: Store) -> None:
    async with store.writing() as tx:
        await tx.put(JoinToken("a", NOW, 0, 0, {}), JoinToken("b", NOW + timedelta(hours=1), 0, 0, {}))
        await tx.delete(JoinToken, ["a", "nobody"])
    async with store.reading() as look:
        assert [t.digest for t in await look.select(JoinToken)] == ["b"]


async def test_followers_hear_of_what_was_written_after_it_is_there_and_of_nothing_that_was_undone(
    store: Store,
) -> None:
    heard: list[str] = []
    store.follow(lambda topic: heard.append(topic) if topic else None)  # None: it has just begun to listen

    async def fail() -> None:
        async with store.writing() as tx:
            await tx.put(RELEASE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert heard == []
    async with store.writing() as tx:
        await tx.put(RELEASE, device("a"))
        assert heard == []
    assert heard == ["builds", "device/d-a", "r-1"]
