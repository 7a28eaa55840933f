"""An agent put together: masking, updates, the link to the plane, and what is counted, from start to drain.

Order of the start: data directory, identity, engine slots; then the masking server, which answers from the first moment
and fails closed while there is no engine; then the committed release and the plane. The end goes backwards.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc

from edge_agent.config import Config
from edge_agent.engines.engine import Engine
from edge_agent.engines.loading import load
from edge_agent.facts import gather, temperatures
from edge_agent.identity import Identity
from edge_agent.masking.outcomes import Reason
from edge_agent.package import load_package
from edge_agent.pipeline import FrameRecord
from edge_agent.servicer import MaskingServicer
from edge_agent.serving import Serving
from edge_agent.telemetry import Instruments, PlaneReceiver, Telemetry, otel_instruments, otel_wanted
from edge_agent.updates.messages import Ack, Facts, Report, Window
from edge_agent.updates.plane_link import Handlers, PlaneLink
from edge_agent.updates.selftest import run_self_test
from edge_agent.updates.session import Session
from edge_agent.updates.slots import Slots
from edge_agent.updates.steps import Tools
from edge_agent.updates.updater import Updater
from edge_agent.updates.windows import Counts, WindowStore
from maskfleet.clock import SystemClock
from maskfleet.datadir import DataDir
from maskfleet.decoding import DecoderSpec
from maskfleet.enrolment import JoinToken
from maskfleet.errors import FleetError, InvalidInputError, PreconditionError, UnavailableError
from maskfleet.ids import new_id
from maskfleet.logs import get_logger
from maskfleet.rpc.channel import MAX_FRAME_BYTES
from maskfleet.rpc.server import Health, add_standard_services, bind, make_server
from maskfleet.v1 import masking_service_pb2_grpc

_log = get_logger(__name__)
DRAIN_S = 5.0
_JOIN_S = 2.0
_SERVICE = "maskfleet.v1.MaskingService"

Ready = Callable[[Mapping[str, str]], None]


def run(config: Config, environ: Mapping[str, str], stop: threading.Event, *, ready: Ready) -> None:
    """Runs an agent until ``stop`` is set.

    Args:
        config: as :class:`Config` checked it.
        environ: where OpenTelemetry's variables are.
        stop: ends it.
        ready: told once the masking server answers: ``listen``, ``metrics``, ``device_id``.

    Raises:
        FleetError: it cannot start, or the plane does not take the device in.
    """
    with contextlib.ExitStack() as closing:
        data = closing.enter_context(DataDir.opened(config.data_dir, owner="edge_agent"))
        identity = Identity.opened(data.path)
        join_token = _join_token(config.join_token_file) if identity.credential is None else None  # used up otherwise
        slots = Slots.opened(data.path / "updates")
        _check_purpose(config, identity, slots, join_token)
        facts, boot_id = gather(), new_id("boot")
        counts = Counts(boot_id, starts=slots.record.starts, start_ns=time.monotonic_ns())
        telemetry = Telemetry(counts, _otel(config, environ, identity, boot_id, facts.agent_version))
        closing.callback(telemetry.close)
        metrics = closing.enter_context(telemetry.served(config.metrics_listen)) if config.metrics_listen else ""
        serving = Serving()
        closing.callback(serving.swap, None)
        agent = _Agent(config, identity, slots, facts, boot_id, counts, telemetry, serving, stop)
        if config.package is not None:
            agent.serve_package(config.package)
        listen = closing.enter_context(agent.masking())
        ready({"listen": listen, "metrics": metrics, "device_id": identity.device_id})
        _log.info("ready", listen=listen, metrics=metrics, device=identity.device_id, targets=facts.targets)
        if facts.target_note:
            _log.warning("engines do not run where they could", reason=facts.target_note)
        if config.package is not None:
            stop.wait()
        else:
            closing.enter_context(agent.updating(data.path, join_token))
            agent.beat()
        _log.info("stopping")
        agent.drain()
    if agent.refused is not None:
        raise agent.refused


def _otel(
    config: Config, environ: Mapping[str, str], identity: Identity, boot_id: str, version: str
) -> Instruments | None:
    """OpenTelemetry's instruments, where somebody wants them."""
    if config.otlp == "plane":

        def credential() -> str:  # which the device has once it has enrolled
            return identity.credential.token if identity.credential is not None else ""

        plane = PlaneReceiver(config.plane, credential)
        return otel_instruments(identity.device_id, boot_id, version, plane=plane)
    if config.otlp == "env" and otel_wanted(environ):
        return otel_instruments(identity.device_id, boot_id, version)
    return None


def _join_token(path: Path | None) -> JoinToken | None:
    if path is None:
        return None
    try:
        return JoinToken.parse(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"the join token file {path} cannot be read ({error})", remedy="check --join-token-file"
        ) from None


def _check_purpose(config: Config, identity: Identity, slots: Slots, join_token: JoinToken | None) -> None:
    """An agent that could never mask anything does not start."""
    if config.package is not None:
        return
    if config.plane:
        if identity.credential is None and join_token is None:
            raise PreconditionError(
                "this device is not enrolled", remedy="give --join-token-file with a join token of the plane"
            )
    elif not slots.record.committed:
        raise InvalidInputError(
            "there is nothing to mask with: no release is committed here, and no plane could bring one",
            remedy="give --plane and --join-token-file, or --package",
        )


class _Agent:
    """The parts of a running agent and how they tell each other."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        slots: Slots,
        facts: Facts,
        boot_id: str,
        counts: Counts,
        telemetry: Telemetry,
        serving: Serving,
        stop: threading.Event,
    ) -> None:
        self.refused: FleetError | None = None
        self._config = config
        self._identity = identity
        self._facts = facts
        self._boot_id = boot_id
        self._counts = counts
        self._telemetry = telemetry
        self._serving = serving
        self._stop = stop
        self._health: Health | None = None
        self._shown = ""
        self._link: PlaneLink | None = None
        self._store: WindowStore | None = None
        self._updater = Updater(
            slots,
            serving,
            Tools(
                fetch=self._fetch,
                load=self._load,
                self_test=run_self_test,
                trusted=identity.trusted,
                report=self._reported,
                noted=telemetry.noted,
            ),
            device_id=identity.device_id,
            targets=facts.targets,
            soak_s=config.soak_s,
            clock=SystemClock(),
        )
        self._server: grpc.Server | None = None
        self._servicer = MaskingServicer(serving, max_streams=config.max_streams, observe=self._frame)
        self._drained: threading.Event | None = None

    def serve_package(self, path: Path) -> None:
        """Puts a package in place.

        Raises:
            FleetError: it is none, or its engine is not fit to serve.
        """
        release = load_package(path, self._facts.targets, self._load, run_self_test)
        self._serving.swap(release)
        _log.info("a package serves", release=release.release_id, digest=release.release_digest)

    @contextlib.contextmanager
    def masking(self) -> Iterator[str]:
        """Answers streams for the block; gives the address with its port."""
        server = make_server(workers=self._servicer.workers, max_message_bytes=MAX_FRAME_BYTES)
        masking_service_pb2_grpc.add_MaskingServiceServicer_to_server(self._servicer, server)
        health = add_standard_services(server, [_SERVICE])
        listen = bind(server, self._config.listen)
        server.start()
        self._server, self._health = server, health
        self._show()
        try:
            yield listen
        finally:
            self.drain()
            if self._drained is not None:
                self._drained.wait(DRAIN_S + _JOIN_S)

    def drain(self) -> None:
        """Says NOT_SERVING and takes nothing new; what is under way is finished within :data:`DRAIN_S`."""
        self._stop.set()
        if self._drained is None and self._server is not None:
            self._show()
            self._servicer.stop()
            self._drained = self._server.stop(DRAIN_S)

    @contextlib.contextmanager
    def updating(self, path: Path, join_token: JoinToken | None) -> Iterator[None]:
        """Keeps the release up to date for the block, and the plane informed where there is one."""
        if self._config.plane:
            self._store = WindowStore(path / "health.db")
            session = Session(self._facts, self._boot_id, Report(), self._store.pending())
            self._link = PlaneLink(
                self._config.plane,
                self._identity,
                session,
                self._facts,
                Handlers(self._updater.desire, self._acked, self._updater.poke, self._refuse),
                join_token=join_token,
                name=self._config.name,
                clock=SystemClock(),
            )
        self._updater.start()
        if self._link is not None:
            self._link.start()
        self._close_windows()  # the plane learns of this start at once: an agent in a crash loop has no second window
        try:
            yield
        finally:
            self._close_windows()
            self._updater.stop(_JOIN_S)
            if self._link is not None:
                self._link.stop(_JOIN_S)
            if self._store is not None:
                self._store.close()

    def beat(self) -> None:
        """Closes health windows until the end."""
        while not self._stop.wait(self._config.health_interval_s):
            self._close_windows()

    def _close_windows(self) -> None:
        serving = self._serving.current()
        name = serving.release_id if serving is not None else ""
        for window in self._counts.closed(time.monotonic_ns(), serving=name, temperatures=temperatures()):
            self._keep(window)

    def _keep(self, window: Window) -> None:
        if self._store is None or self._link is None:
            return
        try:
            self._store.add(window)
        except FleetError as error:  # it is still sent, and only a restart before that would lose it
            _log.warning("a health window is not on disk", error=str(error))
        self._link.closed_window(window)

    def _acked(self, ack: Ack) -> None:
        if self._store is None:
            return
        try:
            self._store.forget(ack.boot_id, ack.sequence)
        except FleetError as error:  # it is sent again after a restart, and the plane knows it
            _log.warning("health windows stay on disk", error=str(error))

    def _refuse(self, error: FleetError) -> None:
        self.refused = error
        self._stop.set()

    def _reported(self, report: Report) -> None:
        if report.serving_release_id != self._shown:
            self._shown = report.serving_release_id
            self._show()
        if self._link is not None:
            self._link.reported(report)

    def _show(self) -> None:
        """Health and metrics say what serves."""
        current = self._serving.current()
        if self._health is not None:
            self._health.set(serving=current is not None and not self._stop.is_set())
        release, target = (current.release_id, current.engine.info.target) if current is not None else ("", "")
        self._telemetry.release(release, target)

    def _frame(self, record: FrameRecord) -> None:
        self._telemetry.frame(record)
        if record.reason is Reason.ENGINE_FAILED:
            self._updater.engine_failed(record.release_id, "the engine failed on a frame while it was watched")

    def _load(self, target: str, path: Path, decoder: DecoderSpec) -> Engine:
        return load(target, path, decoder=decoder, threads=self._config.threads or os.cpu_count() or 1)

    def _fetch(self, digest: str, offset: int) -> Iterator[tuple[int, bytes]]:
        if self._link is None:
            raise UnavailableError("there is no control plane", remedy="start the agent with --plane")
        return self._link.fetch(digest, offset)
