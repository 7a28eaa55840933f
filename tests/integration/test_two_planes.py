"""Two planes on one PostgreSQL: one drives, both serve; driver and database die, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from pathlib import Path

import grpc.aio
import pytest
import sqlalchemy as sa
from google.protobuf.duration_pb2 import Duration

from control_plane.driving import DRIVER_ONLY
from control_plane.leadership import AdvisoryLease, FencedStore, FileLease
from control_plane.store.sql import SqlStore, sqlite_url
from maskfleet import errors
from maskfleet.errors import FleetError, UnavailableError
from maskfleet.v1 import (
    devices_service_pb2,
    events_service_pb2,
    rollouts_service_pb2,
    strategy_pb2,
)
from tests.integration.planes import Pair, PlaneProcess, generations, in_state, pair, until, watched
from tests.integration.test_plane import WAIT_S, TestDevice, refused, state_of
from tests.postgres import Cluster

__all__ = ["pair"]  # the fixture


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
