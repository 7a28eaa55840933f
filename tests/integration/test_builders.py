"""Three real builders at a real plane: one is killed while it builds, and one is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from maskfleet.v1 import builds_pb2, releases_service_pb2
from tests.integration.planes import PlaneProcess, until
from tests.integration.test_builder_process import alive, builder
from tests.integration.test_plane import WAIT_S, Client, add_model

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("builders")]
BUILDING, SUCCEEDED = builds_pb2.BUILD_STATE_BUILDING, builds_pb2.BUILD_STATE_SUCCEEDED
READY, CANCELED = releases_service_pb2.RELEASE_STATE_READY, releases_service_pb2.RELEASE_STATE_CANCELED
LEASE_S = 3
BEFORE = ("", "download")  # what a builder says before the process that builds has said anything


@dataclasses.dataclass
class Site:
    """A plane that gives up on a silent builder soon, and builders each with a folder of its own, by process id."""

    plane: PlaneProcess
    operator: Client
    builders: dict[int, subprocess.Popen[str]] = dataclasses.field(default_factory=dict)

    async def release(self, *targets: str, **fields: Any) -> str:
        request = releases_service_pb2.CreateReleaseRequest(
            model="centerface", targets=targets, precision=builds_pb2.PRECISION_FP32, **fields
        )
        made = await self.operator.call(self.operator.releases.CreateRelease, request)
        return str(made.release.id)

    async def get(self, release_id: str) -> releases_service_pb2.Release:
        request = releases_service_pb2.GetReleaseRequest(release_id=release_id)
        found = (await self.operator.call(self.operator.releases.GetRelease, request)).release
        assert isinstance(found, releases_service_pb2.Release)
        return found

    async def stopped_in_a_build(self, release_id: str) -> tuple[builds_pb2.Build, int, list[int]]:
        """A build that is well under way, its builder, and the processes that build it.

        These stand still, so that it does not end by itself.
        """

        async def look() -> tuple[builds_pb2.Build, int, list[int]] | None:
            for build in (await self.get(release_id)).builds:
                pid = int(build.builder_id.rpartition("-")[2] or 0)
                under_way = build.state == BUILDING and build.phase not in BEFORE
                if not under_way or not (found := children(pid)):
                    continue
                for child in found:
                    os.kill(child, signal.SIGSTOP)
                now = next(b for b in (await self.get(release_id)).builds if b.id == build.id)
                if (now.state, now.builder_id, now.attempts) == (BUILDING, build.builder_id, build.attempts):
                    return now, pid, found
            return None

        found = await until(look)
        assert found is not None
        return found  # type: ignore[no-any-return]


def children(pid: int) -> list[int]:
    """Of a process, whichever of its threads started them."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, thread.read_text().split())
    return found


async def gone(processes: list[int]) -> None:
    """Returns once none of them is left."""

    async def left() -> list[int]:
        return [pid for pid in processes if alive(pid)]

    try:
        await until(left, lambda pids: not pids)
    finally:
        for pid in await left():
            os.kill(pid, signal.SIGKILL)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory, centerface_path: Path) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    plane = PlaneProcess(folder, arguments=("--build-lease-s", str(LEASE_S)))
    plane.folder.mkdir(mode=0o700)
    model = centerface_path.read_bytes()
    await add_model(plane.folder, model)
    with contextlib.ExitStack() as stack:
        try:
            await plane.start()
            async with Client(plane.address, plane.operator) as operator:
                await operator.upload(model)
                made = Site(plane, operator)

                def start(number: int) -> subprocess.Popen[str]:
                    (folder / f"builder-{number}").mkdir()
                    return stack.enter_context(
                        builder(plane.address, folder / f"builder-{number}", token=plane.builder)
                    )

                for process in await asyncio.gather(*(asyncio.to_thread(start, n) for n in (1, 2, 3))):
                    made.builders[process.pid] = process
                yield made
        finally:
            await asyncio.to_thread(stack.close)
            await plane.kill()


@pytest.mark.slow
async def test_the_build_of_a_builder_that_is_killed_goes_to_another_one_and_the_release_becomes_ready(
    site: Site,
) -> None:
    pytest.importorskip("openvino")
    release = await site.release("ort-cpu", "openvino-cpu", input_width=320, input_height=256)
    build, killed, processes = await site.stopped_in_a_build(release)
    site.builders[killed].kill()
    await asyncio.to_thread(site.builders.pop(killed).wait, WAIT_S)
    await gone(processes)
    done = await until(lambda: site.get(release), lambda r: bool(r.state == READY))
    ended = {b.id: b for b in done.builds}
    assert {b.state for b in done.builds} == {SUCCEEDED}
    assert {b.id: b.attempts for b in done.builds} == {b.id: 2 if b.id == build.id else 1 for b in done.builds}
    assert int(ended[build.id].builder_id.rpartition("-")[2]) in site.builders, "another one built it"
    assert len({b.engine_digest for b in done.builds}) == 2


@pytest.mark.slow
async def test_a_release_that_is_canceled_stops_its_build_and_the_builder_takes_the_next(site: Site) -> None:
    release = await site.release("ort-cpu")
    build, pid, processes = await site.stopped_in_a_build(release)
    request = releases_service_pb2.CancelReleaseRequest(release_id=release)
    canceled = await site.operator.call(site.operator.releases.CancelRelease, request)
    assert canceled.release.state == CANCELED
    await gone(processes)
    assert site.builders[pid].poll() is None
    found = await site.get(release)
    assert [(b.state, b.id, b.engine_digest) for b in found.builds] == [(builds_pb2.BUILD_STATE_CANCELED, build.id, "")]
    following = await site.release("ort-cpu", input_width=320, input_height=256)
    await until(lambda: site.get(following), lambda r: bool(r.state == READY))
