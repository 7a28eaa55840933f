"""Two planes on one PostgreSQL: one drives, both serve; driver and database die, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import sqlalchemy as sa
from google.protobuf.duration_pb2 import Duration

from control_plane.domain.device import Assignment
from control_plane.domain.release import Model, Tensor
from control_plane.driving import DRIVER_ONLY
from control_plane.leadership import AdvisoryLease, FencedStore, FileLease
from control_plane.store.sql import SqlStore, sqlite_url
from maskfleet import errors
from maskfleet.errors import FleetError, UnavailableError
from maskfleet.ids import digest_bytes
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import (
    devices_service_pb2,
    events_service_pb2,
    releases_service_pb2,
    rollouts_service_pb2,
    strategy_pb2,
)
from tests.integration.test_plane import MODEL, WAIT_S, Client, TestDevice, eventually, refused, state_of
from tests.postgres import Cluster


async def add_model(url: str) -> None:
    store = await SqlStore.opened(url)
    tensors = (Tensor("input", "float32", ("N", "3", "H", "W")),)
    model = Model(
        "centerface", 1, 1, "centerface", digest_bytes(MODEL), len(MODEL), "models:/centerface/1", tensors, (), 640,
        352, True, datetime.now(timezone.utc),
    )  # fmt: skip
    async with store.writing() as tx:
        await tx.put(model)
        assert await tx.next_number("model") == 1
    await store.close()


class PlaneProcess:
    """A plane of a pair: one key, one set of tokens and one artifact folder, one database."""

    def __init__(self, folder: Path, name: str, url: str) -> None:
        self.folder = folder / name
        self._artifacts = folder / "artifacts"
        self._url = url
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""
        self.log = folder / f"{name}.log"

    async def start(self) -> PlaneProcess:
        with self.log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "control_plane", "--data-dir", str(self.folder),
                "--listen", self.address or "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
                "--store-url", self._url, "--artifacts-dir", str(self._artifacts),
                stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        assert line, self.log.read_text()[-3000:]
        self.address = json.loads(line)["listen"]
        return self

    @property
    def operator(self) -> str:
        return (self.folder / "operator.token").read_text().strip()

    @property
    def builder(self) -> str:
        return (self.folder / "builder.token").read_text().strip()

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Pair:
    """Two planes, a release, and callers."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.one = PlaneProcess(folder, "one", url)
        self.two = PlaneProcess(folder, "two", url)
        self._closing = contextlib.AsyncExitStack()
        self.release = ""

    async def start(self) -> None:
        await add_model(self.url)
        await self.one.start()
        self.two.folder.mkdir(mode=0o700)
        for name in ("plane.key", "operator.token", "builder.token"):
            shutil.copy2(self.one.folder / name, self.two.folder / name)
        await self.two.start()

    async def client(self, plane: PlaneProcess, token: str = "") -> Client:
        return await self._closing.enter_async_context(Client(plane.address, token or plane.operator))

    async def device(self, name: str, plane: PlaneProcess) -> TestDevice:
        operator = await self.client(plane)
        answer = await operator.call(operator.devices.CreateJoinToken, devices_service_pb2.CreateJoinTokenRequest())
        device = TestDevice(plane.address, name)
        self._closing.push_async_callback(device.disconnect)
        return await (await device.enrol(answer.token)).connect()

    async def made_release(self, plane: PlaneProcess) -> str:
        operator, builder = await self.client(plane), await self.client(plane, plane.builder)
        create = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
        release = (await operator.call(operator.releases.CreateRelease, create)).release
        await builder.build()
        return str(release.id)

    async def rolled_out(self, plane: PlaneProcess) -> str:
        operator, release = await self.client(plane), await self.made_release(self.two)
        request = rollouts_service_pb2.CreateRolloutRequest(release_id=release)
        return str((await operator.call(operator.rollouts.CreateRollout, request)).rollout.id)

    async def close(self) -> None:
        await self._closing.aclose()
        await self.one.kill()
        await self.two.kill()


@pytest.fixture
async def pair(tmp_path: Path, postgres_url: str) -> AsyncIterator[Pair]:
    made = Pair(tmp_path, postgres_url)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def until(look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool] = bool) -> Any:
    """What a look finds, once it is wanted; calls that are refused meanwhile are made again."""

    async def looking() -> Any:
        while True:
            try:
                if wanted(found := await look()):
                    return found
            except grpc.aio.AioRpcError as error:
                if not isinstance(from_rpc_error(error), UnavailableError):
                    raise
            await asyncio.sleep(0.1)

    return await asyncio.wait_for(looking(), 2 * WAIT_S)


async def watched(client: Client, rollout_id: str, wanted: Callable[[Any], bool]) -> Any:
    request = rollouts_service_pb2.WatchRolloutRequest(rollout_id=rollout_id)
    stream = client.rollouts.WatchRollout(request, timeout=WAIT_S, metadata=client.said)
    return (await eventually(stream, lambda m: wanted(m.rollout))).rollout


def in_state(name: str) -> Callable[[Any], bool]:
    number = rollouts_service_pb2.RolloutState.Value(f"ROLLOUT_STATE_{name}")
    return lambda rollout: bool(rollout.state == number)


async def generations(url: str) -> dict[str, int]:
    store = await SqlStore.opened(url)
    async with store.reading() as look:
        found = {a.device_id: a.generation for a in await look.select(Assignment)}
    await store.close()
    return found


async def test_one_plane_drives_and_the_other_one_s_devices_take_part(pair: Pair) -> None:
    here, there = await pair.device("here", pair.one), await pair.device("there", pair.two)
    rollout = await pair.rolled_out(pair.one)
    other = await pair.client(pair.two)
    for device in (here, there):
        await device.say(await device.desired(), "COMMITTED")
    done = await watched(other, rollout, in_state("SUCCEEDED"))  # seen from the plane that does not drive
    assert state_of(done) == {"here": "COMMITTED", "there": "COMMITTED"}
    assert await generations(pair.url) == {here.id: 1, there.id: 1}, "each device was told once"
    abort = rollouts_service_pb2.AbortRolloutRequest(rollout_id=rollout)
    error = await refused(other.call(other.rollouts.AbortRollout, abort))
    assert isinstance(error, errors.UnavailableError)
    assert "another plane on this database drives the rollouts" in str(error)


async def test_the_other_plane_takes_over_from_a_driver_that_was_killed(pair: Pair) -> None:
    here, there = await pair.device("here", pair.one), await pair.device("there", pair.two)
    rollout = await pair.rolled_out(pair.one)
    wanted = {device.id: await device.desired() for device in (here, there)}
    await here.say(wanted[here.id], "COMMITTED")
    operator = await pair.client(pair.one)
    await watched(operator, rollout, lambda r: state_of(r)["here"] == "COMMITTED")
    await pair.one.kill()
    # It reports to a plane that has just become the driver, or is about to.
    await there.say(wanted[there.id], "COMMITTED")
    await here.disconnect()
    other = await pair.client(pair.two)
    done = await watched(other, rollout, in_state("SUCCEEDED"))
    assert state_of(done) == {"here": "COMMITTED", "there": "COMMITTED"}
    assert await generations(pair.url) == {here.id: 1, there.id: 1}, "nobody was told twice"
    told = await other.call(other.events.ListEvents, events_service_pb2.ListEventsRequest())
    assert {e.kind for e in told.events} >= {"device.enrolled", "release.ready"}
    # And the one that was killed comes back as the one that does not drive.
    await pair.one.start()
    error = await refused(
        (await pair.client(pair.one)).rollouts.AbortRollout(
            rollouts_service_pb2.AbortRolloutRequest(rollout_id=rollout), metadata=operator.said, timeout=WAIT_S
        )
    )
    assert isinstance(error, errors.UnavailableError)


async def test_a_device_at_the_plane_that_does_not_drive_does_not_expire_beside_one_that_is_gone(pair: Pair) -> None:
    operator = await pair.client(pair.one)
    token = await operator.call(operator.devices.CreateJoinToken, devices_service_pb2.CreateJoinTokenRequest())
    await TestDevice(pair.one.address, "gone").enrol(token.token)  # and never comes back
    there = await pair.device("there", pair.two)
    plan = strategy_pb2.RolloutStrategy(
        waves=[strategy_pb2.WaveSpec(share=strategy_pb2.Share(percent=100))], expire_after=Duration(seconds=2)
    )
    request = rollouts_service_pb2.CreateRolloutRequest(release_id=await pair.made_release(pair.two), strategy=plan)
    rollout = (await operator.call(operator.rollouts.CreateRollout, request)).rollout
    wanted = await there.desired()
    left = await watched(operator, rollout.id, lambda r: state_of(r)["gone"] == "EXPIRED")
    assert state_of(left) == {"gone": "EXPIRED", "there": "UPDATING"}, "both were assigned at the same time"
    await there.say(wanted, "COMMITTED")
    done = await watched(operator, rollout.id, in_state("SUCCEEDED"))
    assert state_of(done) == {"gone": "EXPIRED", "there": "COMMITTED"}


async def test_a_database_that_goes_away_for_a_while_costs_nothing_but_the_while(
    tmp_path: Path, cluster: Cluster
) -> None:
    name = f"away_{uuid.uuid4().hex}"
    server = sa.make_url(cluster.url)
    engine = sa.create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    pair = Pair(tmp_path, server.set(database=name).render_as_string(hide_password=False))
    try:
        await pair.start()
        device = await pair.device("cam-1", pair.two)
        rollout = await pair.rolled_out(pair.one)
        wanted = await device.desired()
        operator = await pair.client(pair.one)
        get = rollouts_service_pb2.ListRolloutsRequest()
        cluster.stop("immediate")
        error: FleetError = await refused(operator.call(operator.rollouts.ListRollouts, get))
        assert isinstance(error, errors.UnavailableError)
        assert "the store does not answer" in str(error)
        assert "check the database" in error.remedy
        # What the device says meanwhile ends its stream: it comes back and says it again.
        await device.say(wanted, "COMMITTED")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await device.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        await device.disconnect()
        with pytest.raises(grpc.aio.AioRpcError):
            await device.connect()
        await device.disconnect()
        cluster.start()
        await until(lambda: operator.call(operator.rollouts.ListRollouts, get))
        await device.connect()
        drivers = [await pair.client(plane) for plane in (pair.one, pair.two)]
        done = await watched(drivers[0], rollout, in_state("SUCCEEDED"))
        assert state_of(done) == {"cam-1": "COMMITTED"}
        assert await generations(pair.url) == {device.id: 1}
        abort = rollouts_service_pb2.AbortRolloutRequest(rollout_id="ro-99")

        async def who_drives() -> list[str]:
            kinds = []
            for client in drivers:
                found = await refused(client.call(client.rollouts.AbortRollout, abort))
                kinds.append(type(found).__name__)
            return sorted(kinds)

        await until(who_drives, lambda kinds: kinds == ["NotFoundError", "UnavailableError"])
    finally:
        await pair.close()
        with contextlib.suppress(Exception):
            cluster.start()


async def test_a_lease_that_was_cut_lets_no_transaction_of_its_former_holder_through(postgres_url: str) -> None:
    first, second = await SqlStore.opened(postgres_url), await SqlStore.opened(postgres_url)
    old, new = AdvisoryLease(first.engine), AdvisoryLease(second.engine)
    assert (await old.hold(), await new.hold()) == (True, False)
    async with second.writing() as tx:
        await tx.connection.execute(sa.text(f"SELECT pg_terminate_backend({old._pid})"))
    assert await new.hold()

    async def write() -> None:
        async with FencedStore(first, old).writing() as tx:  # it has not noticed yet
            await tx.next_number("rollout")

    with pytest.raises(UnavailableError, match="another plane"):
        await write()
    assert not await old.hold()
    async with FencedStore(second, new).writing() as tx:
        assert await tx.next_number("rollout") == 1
    await new.release()
    assert await old.hold()
    await old.release()
    await first.close()
    await second.close()


async def test_on_sqlite_one_of_two_drives_and_sees_what_the_other_wrote(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "plane.db")
    first, second = await SqlStore.opened(url), await SqlStore.opened(url)
    changed = asyncio.Event()
    second.follow_others(lambda topic: changed.set() if topic is None else None)
    await asyncio.sleep(0.2)  # it has asked once
    async with first.writing() as tx:
        await tx.next_number("rollout")
    await asyncio.wait_for(changed.wait(), WAIT_S)
    one, two = FileLease(tmp_path / "driver"), FileLease(tmp_path / "driver")
    assert (await one.hold(), await two.hold(), await one.hold()) == (True, False, True)
    await one.release()
    assert await two.hold()
    await two.release()
    await first.close()
    await second.close()


async def test_a_plane_with_another_key_than_the_releases_does_not_start(pair: Pair, tmp_path: Path) -> None:
    await pair.made_release(pair.one)
    stranger = PlaneProcess(tmp_path, "stranger", pair.url)
    with pytest.raises(AssertionError, match=r"signed by another key than plane\.key"):
        await stranger.start()
    await stranger.kill()


def test_what_only_the_driver_does_is_every_method_that_moves_a_rollout() -> None:
    service = rollouts_service_pb2.DESCRIPTOR.services_by_name["RolloutsService"]
    moving = {m.name for m in service.methods if not m.name.startswith(("List", "Get", "Watch", "Explain"))}
    assert {f"/{service.full_name}/{name}" for name in moving} == DRIVER_ONLY
