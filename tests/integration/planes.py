"""Planes as processes, for tests that kill them, starve them of their database, or put two of them on one.

They start without a registry: MLflow costs seconds, and a test that is about it starts its plane otherwise.

    plane = await PlaneProcess(tmp_path).start()
    operator = Client(plane.address, plane.operator)
    await plane.kill()  # SIGKILL
    await plane.start()  # on the same data, at the same address
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from control_plane.domain.device import Assignment
from control_plane.store.sql import SqlStore, sqlite_url
from maskfleet.errors import UnavailableError
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import devices_service_pb2, releases_service_pb2, rollouts_service_pb2
from tests.integration.test_plane import WAIT_S, Client, TestDevice, add_model, eventually

START_S = 60


class PlaneProcess:
    """A plane on a data directory, and on a database of its own where it is given no other.

    Planes of one folder share their artifacts.
    """

    def __init__(self, folder: Path, name: str = "plane", url: str = "", arguments: tuple[str, ...] = ()) -> None:
        self.folder = folder / name
        self.url = url or sqlite_url(self.folder / "plane.db")
        self.log = folder / f"{name}.log"
        self.address = ""
        self._arguments = ("--artifacts-dir", str(folder / "artifacts"), *arguments)
        if url:
            self._arguments += ("--store-url", url)
        self._process: asyncio.subprocess.Process | None = None
        self._no_registry = folder / "no-registry"

    async def start(self) -> PlaneProcess:
        """Starts it: at any port the first time, at the same one from then on."""
        self._no_registry.mkdir(exist_ok=True)
        (self._no_registry / "mlflow.py").write_text("raise ImportError('this plane has no registry')\n")
        with self.log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "control_plane", "--data-dir", str(self.folder),
                "--listen", self.address or "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *self._arguments,
                stdout=asyncio.subprocess.PIPE, stderr=log,
                env=os.environ | {"PYTHONPATH": f"{self._no_registry}:{os.environ.get('PYTHONPATH', '')}"},
            )  # fmt: skip
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START_S)
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
