"""The database gone for half a minute while a canary soaks: nobody is blamed for it, and every window arrives."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from google.protobuf.duration_pb2 import Duration

from control_plane.config import Config
from control_plane.plane import Plane
from control_plane.registry import Registry
from control_plane.telemetry import Metrics
from maskfleet.clock import FakeClock
from maskfleet.errors import UnavailableError
from maskfleet.v1 import decisions_pb2, strategy_pb2
from maskfleet.v1 import rollouts_service_pb2 as wire
from tests.integration.real_fleet import RealFleet
from tests.integration.test_agent_process import prepared
from tests.integration.test_plane import Kit, add_model
from tests.integration.test_plane_rollouts import (
    call,
    create,
    decisions,
    passes,
    strategy,
    three_on_a_first_release,
)
from tests.postgres import Cluster, NoPostgresError

AWAY_S = 30
SILENCE_S = 15  # more than an agent may take until it connects again, and less than the outage


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """An empty database in a server that may be stopped; it runs again afterwards."""
    server, name = sa.make_url(cluster.url), f"outage_{uuid.uuid4().hex}"
    engine = sa.create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    yield server.set(database=name).render_as_string(hide_password=False)
    with contextlib.suppress(NoPostgresError):
        cluster.start()


@pytest.fixture
async def fleet(tmp_path: Path, url: str, centerface_path: Path) -> AsyncIterator[RealFleet]:
    async with RealFleet(tmp_path, prepared(centerface_path), url) as made:
        await made.begin("a", "b")
        yield made


@pytest.fixture
async def kit(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    """A plane in this process, whose clock is the test's."""
    monkeypatch.setattr(Registry, "warm_up", lambda _self: None)
    await add_model(url)
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", store_url=url)
    clock = FakeClock(datetime.now(timezone.utc))
    async with Plane.running(config, tmp_path, clock=clock, metrics=Metrics()) as plane:
        made = Kit(plane, clock)
        yield made
        await made.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_database_that_is_gone_for_half_a_minute_makes_no_canary_silent_and_costs_no_window(
    fleet: RealFleet, cluster: Cluster
) -> None:
    rollout = await fleet.staged("a", soak=8, silence_after=SILENCE_S)
    await fleet.until(rollout.id, "SOAKING")
    before = (await decisions(fleet.operator, rollout.id)).decisions
    await asyncio.to_thread(cluster.stop, "immediate")
    await asyncio.sleep(AWAY_S)  # this is no wait for anything: so long it is gone
    kept = {name: fleet.kept(name) for name in fleet.agents}
    assert all(len(windows) > AWAY_S / 3 for windows in kept.values()), "the agents have gone on"
    await asyncio.to_thread(cluster.start)

    ended = await fleet.until(rollout.id, "SUCCEEDED")
    assert ended.strategy == rollout.strategy
    made = list((await decisions(fleet.operator, rollout.id)).decisions)[::-1]
    assert made[: len(before)] == list(before)[::-1]
    assert {d.verdict for d in made} == {decisions_pb2.VERDICT_INCONCLUSIVE, decisions_pb2.VERDICT_PASS}
    assert [d.action for d in made if d.action != "wait"] == ["advance", "succeed"]
    told = await fleet.explained(rollout.id)
    assert "silent" not in told
    assert "the rollout ended SUCCEEDED: all 2 devices committed r-2" in told
    for name, windows in kept.items():
        stored = [w.sequence for w in await fleet.handed_over(name, windows)]
        assert stored == list(range(windows[0][1], stored[-1] + 1)), "each once, none missing"


async def test_an_outage_that_is_a_little_longer_than_a_device_may_be_silent_is_no_silence_of_its(
    kit: Kit, cluster: Cluster
) -> None:
    devices, release_id = await three_on_a_first_release(kit)
    plan = strategy(soak=3600, silence_after=Duration(seconds=8), kind=strategy_pb2.JUDGE_KIND_NONE)
    plan.ClearField("control_holdout")  # which would be as silent, and nobody could tell
    rollout = await create(kit.operator, release_id, plan)
    canary = devices[next(d.device_name for d in rollout.devices if d.wave == 0)]
    await canary.say(await canary.desired(), "COMMITTED")
    await kit.until(rollout.id, "SOAKING")
    await asyncio.to_thread(cluster.stop, "immediate")
    for _ in range(12):
        assert isinstance(kit.clock, FakeClock)
        kit.clock.advance(timedelta(seconds=1))
        with pytest.raises(UnavailableError):
            await kit.plane.tick()
    await asyncio.to_thread(cluster.start)
    await passes(kit, 7)
    assert (await call(kit.operator, "Get", rollout.id)).state == wire.ROLLOUT_STATE_SOAKING
    while (found := await call(kit.operator, "Get", rollout.id)).state == wire.ROLLOUT_STATE_SOAKING:
        await passes(kit, 1)  # from here on it is silence
    assert found.state == wire.ROLLOUT_STATE_ROLLING_BACK
    assert f"{canary.name} has been silent for" in found.reason
