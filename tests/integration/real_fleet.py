"""A fleet of real processes: a plane, and agents that reach it each through a network of their own that can be cut.

async with RealFleet(folder, engine) as fleet:
    await fleet.begin("a", "b")  # both run r-1, and r-2 is there
    rollout = await fleet.staged("a", silence_after=4)
    fleet.networks["a"].stall()
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from control_plane.domain.cohort import draw
from control_plane.domain.health import StoredWindow
from control_plane.domain.strategy import ALL, Share, Strategy, WaveSpec
from control_plane.store.sql import SqlStore
from maskfleet.v1 import devices_pb2, devices_service_pb2, releases_service_pb2, strategy_pb2
from maskfleet.v1 import rollouts_service_pb2 as wire
from tests.integration.planes import PlaneProcess, in_state, until
from tests.integration.proxy import Proxy
from tests.integration.test_agent_process import ROOT, Agent
from tests.integration.test_plane import Client, add_model, success_of
from tests.integration.test_plane_rollouts import call

FIRST, SECOND = "r-1", "r-2"


class RealFleet:
    """A plane, its agents, and what is between them.

    Args:
        folder: where everything is kept.
        engine: that both releases have, the second with a byte more.
        url: of the plane's database; one of its own where it is empty.
    """

    def __init__(self, folder: Path, engine: bytes, url: str = "") -> None:
        self.folder = folder
        self.plane = PlaneProcess(folder, url=url)
        self.operator: Client
        self.networks: dict[str, Proxy] = {}
        self.agents: dict[str, Agent] = {}
        self._engines = (engine, engine + b"\x72\x04\x0a\x02ab")  # one more entry of metadata_props
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> RealFleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        for agent in self.agents.values():
            self._ended(agent)
        await self._closing.aclose()
        await self.plane.kill()

    @staticmethod
    def _ended(agent: Agent) -> None:
        agent.kill()
        agent.channel.close()
        if agent.process.stdout:
            agent.process.stdout.close()

    async def begin(self, *names: str) -> None:
        """Starts a plane and agents, and rolls the first release out."""
        self.plane.folder.mkdir(mode=0o700)
        await add_model(self.plane.url)
        await self.plane.start()
        self.operator = await self._closing.enter_async_context(Client(self.plane.address, self.plane.operator))
        request = devices_service_pb2.CreateJoinTokenRequest(max_uses=len(names))
        token = (await self.operator.call(self.operator.devices.CreateJoinToken, request)).token
        (self.folder / "join.token").write_text(f"{token}\n")
        for name in names:
            self.networks[name] = await Proxy(self.plane.address).start()
            self._closing.push_async_callback(self.networks[name].close)
        await asyncio.gather(*map(self.start, names))
        for engine in self._engines:
            await self._release(engine)
        await until(self._enrolled, lambda count: bool(count == len(names)))
        plain = wire.CreateRolloutRequest(release_id=FIRST)
        first = (await self.operator.call(self.operator.rollouts.CreateRollout, plain)).rollout
        await self.until(first.id, "SUCCEEDED")

    async def start(self, name: str) -> Agent:
        """Starts an agent, also once more."""
        self.agents[name] = await asyncio.to_thread(self._started, name)
        return self.agents[name]

    def _started(self, name: str) -> Agent:
        log = self.folder / f"{name}.log"
        with log.open("a") as errors:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "edge_agent", "--data-dir", str(self.folder / name), "--name", name),
                    *("--plane", self.networks[name].address, "--join-token-file", str(self.folder / "join.token")),
                    *("--listen", "127.0.0.1:0", "--threads", "1", "--soak-s", "0.2", "--health-interval-s", "1"),
                ],
                stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=dict(os.environ),
            )  # fmt: skip
        return Agent(process, log)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._ended(self.agents.pop(name))

    async def _enrolled(self) -> int:
        listed = await self.operator.call(self.operator.devices.ListDevices, devices_service_pb2.ListDevicesRequest())
        return sum(device.online for device in listed.devices)

    async def _release(self, engine: bytes) -> None:
        create = releases_service_pb2.CreateReleaseRequest(
            model="centerface", targets=["ort-cpu"], input_width=320, input_height=256
        )
        await self.operator.call(self.operator.releases.CreateRelease, create)
        async with Client(self.plane.address, self.plane.builder) as builder:
            leased = await builder.lease()
            await builder.upload(engine)
            await builder.complete(leased.lease_id, success=success_of(leased.build, engine))

    async def staged(self, canary: str, *, soak: int = 3600, **judge: Any) -> wire.Rollout:
        """Rolls the second release out: to one agent, and to the others after that.

        Args:
            canary: name of the first one.
            soak: seconds that it is watched.
            judge: fields of the policy; spans in seconds.
        """
        ids: dict[str, dict[str, str]] = {agent.device: {} for agent in self.agents.values()}
        waves, wanted = (WaveSpec(Share(count=1)), WaveSpec(ALL)), self.agents[canary].device
        seed = next(n for n in itertools.count(1) if draw(Strategy(waves, seed=n), ids)[wanted].wave == 0)
        if "silence_after" in judge:
            judge["silence_after"] = Duration(seconds=judge["silence_after"])
        plan = strategy_pb2.RolloutStrategy(
            waves=[
                strategy_pb2.WaveSpec(share=strategy_pb2.Share(count=1), soak=Duration(seconds=soak)),
                strategy_pb2.WaveSpec(share=strategy_pb2.Share(percent=100)),
            ],
            seed=seed,
            judge=strategy_pb2.JudgePolicy(kind=strategy_pb2.JUDGE_KIND_NONE, **judge),
        )
        request = wire.CreateRolloutRequest(release_id=SECOND, strategy=plan)
        made = await self.operator.call(self.operator.rollouts.CreateRollout, request)
        assert isinstance(made.rollout, wire.Rollout)
        return made.rollout

    async def until(
        self, rollout_id: str, state: str, wanted: Callable[[wire.Rollout], bool] = lambda _: True
    ) -> wire.Rollout:
        """The rollout, once it is in a state and is what is wanted beyond that."""
        there = in_state(state)
        found = await until(lambda: call(self.operator, "Get", rollout_id), lambda r: there(r) and wanted(r))
        assert isinstance(found, wire.Rollout)
        return found

    async def explained(self, rollout_id: str) -> str:
        """What is said of it."""
        request = wire.ExplainRolloutRequest(rollout_id=rollout_id)
        return "\n".join((await self.operator.call(self.operator.rollouts.ExplainRollout, request)).sentences)

    async def device(self, name: str) -> devices_pb2.Device:
        """An agent as the operator sees it."""
        request = devices_service_pb2.GetDeviceRequest(device=name)
        found = (await self.operator.call(self.operator.devices.GetDevice, request)).device
        assert isinstance(found, devices_pb2.Device)
        return found

    async def serves(self, name: str, release: str, generation: int) -> None:
        """Returns once an agent says that it has committed a release."""

        def settled(device: devices_pb2.Device) -> bool:
            (engine,) = [c for c in device.reported.components if c.name == "engine"]
            said = (device.reported.generation, engine.release_id, engine.serving_release_id, engine.state)
            return said == (generation, release, release, devices_pb2.COMPONENT_STATE_COMMITTED)

        await until(lambda: self.device(name), settled)

    async def windows(self, name: str) -> list[StoredWindow]:
        """An agent's health windows in the plane's store, in the order of their receipt."""
        store = await SqlStore.opened(self.plane.url)
        async with store.reading() as look:
            found = await look.select(StoredWindow, {"device_id": self.agents[name].device})
        await store.close()
        return found

    def kept(self, name: str) -> list[tuple[str, int]]:
        """Health windows that an agent keeps on its disk because the plane does not have them."""
        with contextlib.closing(sqlite3.connect(self.folder / name / "health.db")) as database:
            return [(boot, n) for boot, n in database.execute("SELECT boot, sequence FROM windows ORDER BY id")]

    async def handed_over(self, name: str, kept: Sequence[tuple[str, int]]) -> list[StoredWindow]:
        """The plane's windows of an agent from the first of some on, once the agent need not keep these any more."""
        await until(lambda: asyncio.to_thread(self.kept, name), lambda rows: not set(rows) & set(kept))
        boot, first = kept[0]
        return [w for w in await self.windows(name) if w.boot_id == boot and w.sequence >= first]
