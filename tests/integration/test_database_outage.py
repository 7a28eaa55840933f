"""The database gone for half a minute while a canary soaks: nobody is blamed for it, and every window arrives."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from maskfleet.v1 import decisions_pb2
from tests.integration.real_fleet import RealFleet
from tests.integration.test_agent_process import prepared
from tests.integration.test_plane_rollouts import decisions
from tests.postgres import Cluster

AWAY_S = 30
SILENCE_S = 15  # more than an agent may take until it connects again, and less than the outage


@pytest.fixture
async def fleet(tmp_path: Path, cluster: Cluster, centerface_path: Path) -> AsyncIterator[RealFleet]:
    server, name = sa.make_url(cluster.url), f"outage_{uuid.uuid4().hex}"
    engine = sa.create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    url = server.set(database=name).render_as_string(hide_password=False)
    try:
        async with RealFleet(tmp_path, prepared(centerface_path), url) as made:
            await made.begin("a", "b")
            yield made
    finally:
        with contextlib.suppress(Exception):
            cluster.start()


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
