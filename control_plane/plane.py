"""The plane, wired: everything in one process and one event loop.

Example::

    async with Plane.running(config, data_dir, clock=SystemClock()) as plane:
        print(plane.address)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio

from control_plane.artifacts import Artifacts
from control_plane.auth import Authenticating, Tokens, token_from
from control_plane.builds import BuildQueue
from control_plane.changes import Change, Changes
from control_plane.config import Config
from control_plane.controller import Controller
from control_plane.domain.device import Device
from control_plane.domain.judge import DecisionRecord
from control_plane.domain.release import Build, Release, ReleaseState
from control_plane.domain.rollout import Rollout
from control_plane.driving import DrivenElsewhere, Seat
from control_plane.enrolment import Enrolment
from control_plane.events import Events
from control_plane.fleet import Fleet
from control_plane.leadership import FencedStore, lease_for
from control_plane.links import Links
from control_plane.models import Models
from control_plane.provenance import Provenance
from control_plane.registry import Registry
from control_plane.servicers.artifacts import ArtifactsServicer
from control_plane.servicers.builds import BuildsServicer
from control_plane.servicers.devices import DevicesServicer
from control_plane.servicers.events import EventsServicer
from control_plane.servicers.models import ModelsServicer
from control_plane.servicers.releases import ReleasesServicer
from control_plane.servicers.rollouts import RolloutsServicer
from control_plane.signing import Signer
from control_plane.store.port import Store
from control_plane.store.sql import SqlStore, sqlite_url
from control_plane.telemetry import Counting, Metrics
from maskfleet.clock import Clock
from maskfleet.errors import UnavailableError
from maskfleet.keys import load_or_make
from maskfleet.logs import get_logger
from maskfleet.rpc.channel import MAX_CONTROL_BYTES
from maskfleet.rpc.server import AioHealth, add_standard_services_aio, bind, check_listen, make_aio_server
from maskfleet.v1 import (
    artifacts_service_pb2_grpc,
    builds_service_pb2_grpc,
    devices_service_pb2_grpc,
    events_service_pb2_grpc,
    models_service_pb2_grpc,
    releases_service_pb2_grpc,
    rollouts_service_pb2_grpc,
)

SERVICES = (
    *(
        f"maskfleet.v1.{name}Service"
        for name in ("Artifacts", "Builds", "Devices", "Events", "Models", "Releases", "Rollouts")
    ),
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
)
TICK_S = 1.0
GATHER_S = 0.05  # news of other planes that comes together is looked at together
COUNT_EVERY = 5  # ticks
GRACE_S = 4.0
SHOWN_ROLLOUTS = 20  # in metrics


class Plane:
    """A running plane.

    Attributes:
        address: where the API listens.
        signer: the plane's key.
        operator_token_file: for whoever runs it.
        builder_token_file: for its builders.
    """

    def __init__(self, config: Config, folder: Path, store: Store, clock: Clock, metrics: Metrics) -> None:
        self.operator_token_file = folder / "operator.token"
        self.builder_token_file = folder / "builder.token"
        self.signer = Signer(load_or_make(folder / "plane.key"))
        self.address = ""
        self._config = config
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._changes = Changes()
        store.follow(self._changes.hear)
        self._links = Links()
        self._artifacts = Artifacts(config.artifacts_dir or folder / "artifacts")
        self._registry = Registry(folder / "mlflow", tracking_uri=config.mlflow_tracking_uri)
        self._provenance = Provenance(store, self._registry, clock)
        self._fleet = Fleet(store, self._links, clock)
        self._queue = BuildQueue(
            store, self._artifacts, self.signer, self._changes, clock, lease_ttl=timedelta(seconds=config.build_lease_s)
        )
        lease = lease_for(store)
        self._controller = Controller(
            FencedStore(store, lease), self._fleet, self._links, self.signer, self._changes, clock
        )
        self._seat = Seat(store, lease, self._controller, self._fleet, self._links, self._changes)
        store.follow_others(self._heard)
        self._due = Change()
        self._stopping = asyncio.Event()
        self._ticks = 0
        self._log = get_logger(__name__)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, config: Config, folder: Path, *, clock: Clock, metrics: Metrics) -> AsyncIterator[Plane]:
        """A plane that serves for the block.

        Args:
            config: as it was given.
            folder: the data directory, held by the caller.
            clock: where time comes from.
            metrics: where numbers go.

        Raises:
            FleetError: it cannot start, and why.
        """
        check_listen(config.listen, allow_remote=config.allow_remote)
        store = await SqlStore.opened(
            config.store_url or sqlite_url(folder / "plane.db"), shared=bool(config.store_url)
        )
        try:
            plane = cls(config, folder, store, clock, metrics)
            await plane._check_key()
            await plane._queue.resume()
            await plane._seat.tick()
            server, health = await plane._serving()
            tasks = [asyncio.create_task(plane._ticking()), asyncio.create_task(plane._catching_up())]
            plane._registry.warm_up()
            await health.set(serving=True)
            try:
                yield plane
            finally:
                await health.set(serving=False)
                plane._links.end_all(UnavailableError("the plane is stopping", remedy="connect again"))
                await server.stop(GRACE_S)
                # A round ends by itself: one that is cut off in a transaction leaves a connection in no known state.
                plane._stopping.set()
                plane._due.mark()
                _, late = await asyncio.wait(tasks, timeout=GRACE_S)
                for task in late:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await plane._provenance.close()
                await plane._registry.close()
                await plane._fleet.tick(clock.now(), at_once=True)
                await plane._seat.leave()
        finally:
            await store.close()

    async def _check_key(self) -> None:
        async with self._store.reading() as look:
            ready = await look.select(Release, {"state": ReleaseState.READY.value}, descending=True, limit=1)
        for release in ready:
            self.signer.check_signed(release.manifest)

    async def _serving(self) -> tuple[grpc.aio.Server, AioHealth]:
        from control_plane.otlp import OtlpServicer, add_otlp  # brings opentelemetry

        tokens = Tokens(
            operator=token_from(self.operator_token_file, "mfo1"),
            builder=token_from(self.builder_token_file, "mfb1"),
            plane_public_key=self.signer.public_key,
        )
        server = make_aio_server(
            max_message_bytes=MAX_CONTROL_BYTES,
            interceptors=[Counting(self._metrics), Authenticating(tokens), DrivenElsewhere(self._seat)],
        )
        store, changes = self._store, self._changes
        enrolment = Enrolment(store, self.signer, self._clock)
        models = Models(store, self._artifacts, self._registry, self._clock)
        devices = DevicesServicer(enrolment, self._fleet, self._seat, self.signer, store)
        rollouts = RolloutsServicer(self._controller, self._fleet, store, changes, self._clock)
        added: list[tuple[Any, Any]] = [
            (artifacts_service_pb2_grpc.add_ArtifactsServiceServicer_to_server, ArtifactsServicer(self._artifacts)),
            (builds_service_pb2_grpc.add_BuildsServiceServicer_to_server, BuildsServicer(self._queue)),
            (devices_service_pb2_grpc.add_DevicesServiceServicer_to_server, devices),
            (events_service_pb2_grpc.add_EventsServiceServicer_to_server, EventsServicer(Events(store, changes))),
            (models_service_pb2_grpc.add_ModelsServiceServicer_to_server, ModelsServicer(models, store)),
            (
                releases_service_pb2_grpc.add_ReleasesServiceServicer_to_server,
                ReleasesServicer(self._queue, store, changes),
            ),
            (rollouts_service_pb2_grpc.add_RolloutsServiceServicer_to_server, rollouts),
            (add_otlp, OtlpServicer(self._metrics.fleet, self._clock)),
        ]
        for add, servicer in added:
            add(servicer, server)
        health = await add_standard_services_aio(server, SERVICES)
        self.address = bind(server, self._config.listen)
        await server.start()
        return server, health

    async def _ticking(self) -> None:
        """What time brings about; a failure (the database is away) is logged, and the next tick tries again."""
        while not self._stopping.is_set():
            try:
                await self.tick()
            except Exception as error:  # noqa: BLE001  # the loop must outlive whatever one round meets
                self._log.error("a round failed; the next one tries again", reason=str(error), exc_info=error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_S)

    async def _catching_up(self) -> None:
        """News of other planes is looked at when it comes; after a failure the next round looks at it."""
        while not self._stopping.is_set():
            await self._due.wait()
            await asyncio.sleep(GATHER_S)
            try:
                await self._seat.catch_up()
            except Exception as error:  # noqa: BLE001  # the loop must outlive whatever one round meets
                self._log.warning("another plane's news waits for the next round", reason=str(error))

    def _heard(self, topic: str | None) -> None:
        self._seat.hear(topic)
        if self._seat.behind:
            self._due.mark()

    async def tick(self) -> None:
        """One round.

        Raises:
            UnavailableError: the database does not answer; what devices would say is not heard meanwhile.
        """
        now = self._clock.now()
        try:
            await self._queue.tick(now)
            self._provenance.tick()
            if await self._seat.tick():
                await self._controller.tick(now)
            await self._fleet.tick(now)
        except UnavailableError:
            self._fleet.hears_nothing()
            raise
        if self._ticks % COUNT_EVERY == 0:
            await self._count()
        self._ticks += 1

    async def _count(self) -> None:
        async with self._store.reading() as look:
            builds = await look.counts(Build, "state")
            releases = await look.counts(Release, "state")
            rollouts = await look.counts(Rollout, "active")
            devices = await look.total(Device)
            newest = await look.select(Rollout, descending=True, limit=SHOWN_ROLLOUTS)
            verdicts = await look.counts(DecisionRecord, "verdict")
        self._metrics.fleet.show(
            devices=await self._fleet.spread(), rollouts={r.id: r.state.value for r in newest}, verdicts=verdicts
        )
        windows = self._fleet.windows
        self._metrics.show("builds", builds)
        self._metrics.show("releases", releases)
        self._metrics.show("rollouts", {"active": rollouts.get(1, 0), "ended": rollouts.get(0, 0)})
        self._metrics.show("devices", {"online": self._fleet.online_count(), "enrolled": devices})
        self._metrics.show(
            "health_windows",
            {
                "stored": windows.stored,
                "repeated": windows.repeated,
                "refused": windows.refused,
                "missing": windows.missing,
            },
        )
