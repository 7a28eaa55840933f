"""What the registry is told of builds, also where it is away, and where the plane was restarted meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from control_plane.domain.event import Event
from control_plane.domain.release import Build, BuildState, Release, ReleaseState
from control_plane.provenance import Provenance, entry_of
from control_plane.registry import LogEntry
from control_plane.store.memory import MemoryStore
from maskfleet.clock import FakeClock
from maskfleet.errors import UnavailableError
from maskfleet.policy import MaskPolicy, Style

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
REPORT = {
    "backend": "onnxruntime",
    "candidates": [
        {"precision": "fp32", "verdict": "passed", "ms": 21.0},
        {"precision": "int8", "verdict": "won", "ms": 12.14},
    ],
    "gate": {"figures": {"recall": 1.0}},
}
RELEASE = Release(
    id="r-3", counter=3, state=ReleaseState.READY, model_name="centerface", model_version=2, model_digest="sha256:m",
    decoder="centerface", precision="auto", input_width=640, input_height=352, policy=MaskPolicy(style=Style.SOLID),
    targets=("ort-cpu",), created=NOW, manifest=b"x", manifest_digest="sha256:x",
)  # fmt: skip
BUILD = Build(
    "b-7", 7, "r-3", "ort-cpu", BuildState.SUCCEEDED, engine_digest="sha256:e", engine_size_bytes=5,
    builder_id="host/1", report_json=json.dumps(REPORT), precision="int8", ended=NOW,
    log_tail="all went well", attempts=1,
)  # fmt: skip


class Away:
    """A registry that is away as often as the test says."""

    def __init__(self, failures: int = 0, *, started: bool = True) -> None:
        self.failures, self.started = failures, started
        self.told: list[tuple[str, int, list[str]]] = []

    async def log(self, name: str, version: int, entries: Sequence[LogEntry]) -> None:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("the registry's process ended", remedy="try again")
        self.told.append((name, version, [e.tag for e in entries]))


class Bench:
    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), FakeClock()

    async def put(self, *records: Any) -> None:
        async with self.store.writing() as tx:
            await tx.put(*records)

    async def round(self, provenance: Provenance, *, after: float = 1.0) -> None:
        self.clock.advance(timedelta(seconds=after))
        provenance.tick()
        if provenance._round is not None:
            await asyncio.wait_for(provenance._round, 10)

    def over(self, registry: Away) -> Provenance:
        return Provenance(self.store, registry, self.clock)  # type: ignore[arg-type]  # what stands for a registry


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.put(RELEASE, BUILD)
    return bench


def test_a_tag_says_the_most_important_in_a_line_and_the_file_everything() -> None:
    entry = entry_of(RELEASE, BUILD)
    assert (entry.tag, entry.file) == ("maskfleet.r-3.ort-cpu", "maskfleet/r-3/ort-cpu.json")
    assert entry.line == "int8 sha256:e 12.1 ms recall 1"
    said = json.loads(entry.text)
    assert said["report"] == REPORT
    assert (said["model"]["digest"], said["manifest_digest"], said["log"]) == ("sha256:m", "sha256:x", "all went well")
    assert said["build"]["builder_id"] == "host/1"


@pytest.mark.parametrize(
    "report", ["", "[]", '{"candidates": 3, "gate": []}', '{"candidates": [1, {"verdict": "won"}]}']
)
def test_a_report_that_says_less_is_told_as_far_as_it_goes(report: str) -> None:
    assert entry_of(RELEASE, dataclasses.replace(BUILD, report_json=report)).line == "int8 sha256:e"


async def test_a_ready_release_is_told_once(bench: Bench) -> None:
    registry = Away()
    provenance = bench.over(registry)
    for _ in range(3):
        await bench.round(provenance)
    assert registry.told == [("centerface", 2, ["maskfleet.r-3.ort-cpu"])]
    async with bench.store.reading() as look:
        assert [e.kind for e in await look.select(Event)] == ["release.logged"]
        release = await look.get(Release, "r-3")
    assert release is not None
    assert (release.logged, release.state) == (True, ReleaseState.READY)


async def test_a_registry_that_is_away_is_asked_again_ever_more_rarely_and_fails_no_release(bench: Bench) -> None:
    registry = Away(failures=2)
    provenance = bench.over(registry)
    await bench.round(provenance)
    await bench.round(provenance, after=4)  # too early
    assert registry.failures == 1
    await bench.round(provenance, after=1)
    assert registry.failures == 0
    await bench.round(provenance, after=9)
    assert registry.told == []
    async with bench.store.reading() as look:
        assert [r.state for r in await look.select(Release, {"unlogged": 1})] == [ReleaseState.READY]
    await bench.round(provenance, after=1)
    assert len(registry.told) == 1


async def test_one_release_that_the_registry_refuses_does_not_hold_up_the_others(bench: Bench) -> None:
    other = dataclasses.replace(RELEASE, id="r-4", counter=4)
    await bench.put(other, dataclasses.replace(BUILD, id="b-8", number=8, release_id="r-4"))
    registry = Away(failures=1)
    await bench.round(bench.over(registry))
    assert [tags for _, _, tags in registry.told] == [["maskfleet.r-3.ort-cpu"]]


async def test_a_plane_that_was_killed_before_the_registry_heard_tells_it_after_its_restart(bench: Bench) -> None:
    await bench.round(bench.over(Away(failures=9)))
    registry = Away()
    await bench.round(bench.over(registry))
    assert len(registry.told) == 1


async def test_the_registrys_process_is_not_started_for_this(bench: Bench) -> None:
    registry = Away(started=False)
    provenance = bench.over(registry)
    await bench.round(provenance)
    assert registry.told == []
    registry.started = True
    await bench.round(provenance)
    assert len(registry.told) == 1
