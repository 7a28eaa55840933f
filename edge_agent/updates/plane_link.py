"""Holds the one stream to the plane: joins the fleet, connects, and connects again, for as long as the agent runs.

What is said is :class:`edge_agent.updates.session.Session`'s business; this module has the threads and the wire. Delays
between connections grow and are drawn at random, so that a restarted plane is not met by its whole fleet at once.

Example::

    link = PlaneLink("127.0.0.1:7700", identity, session, join_token=token, name="cam-3", handlers…)
    link.start()
    link.reported(report)
    link.stop(timeout_s=2)
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator

import grpc

from edge_agent.identity import Credential, Identity
from edge_agent.updates import codec
from edge_agent.updates.messages import Ack, Desired, Facts, Report, Window
from edge_agent.updates.session import Session
from maskfleet.clock import Clock
from maskfleet.enrolment import JoinToken, proof_message
from maskfleet.errors import (
    AuthenticationError,
    FleetError,
    ForbiddenError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from maskfleet.logs import correlated, get_logger
from maskfleet.rpc import channel as rpc_channel
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import (
    artifacts_service_pb2,
    artifacts_service_pb2_grpc,
    devices_service_pb2,
    devices_service_pb2_grpc,
)

_log = get_logger(__name__)
CALL_S = 15.0
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 10.0
SILENT_S = 60.0
"""A download that brings no byte for so long is ended."""
_REFUSED = (AuthenticationError, ForbiddenError, IntegrityError, InvalidInputError, NotFoundError, PreconditionError)


@dataclasses.dataclass(frozen=True)
class Handlers:
    """Who is told what; each is called on the link's thread and should be quick.

    Attributes:
        desired: the plane wants this.
        acked: the plane has these windows.
        connected: the plane said Welcome.
        refused: the plane does not take this device in; nothing more is tried.
    """

    desired: Callable[[Desired], None]
    acked: Callable[[Ack], None]
    connected: Callable[[], None]
    refused: Callable[[FleetError], None]


class PlaneLink:
    """The agent's connection to its plane.

    Args:
        address: of the plane, ``host:port``.
        identity: of this device.
        session: what is said.
        facts: for enrolment.
        handlers: who is told what.
        join_token: for enrolment; None where the device is enrolled already.
        name: for people.
        clock: where time comes from.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        session: Session,
        facts: Facts,
        handlers: Handlers,
        *,
        join_token: JoinToken | None,
        name: str,
        clock: Clock,
    ) -> None:
        self._address = address
        self._peer = f"the control plane at {address}"
        self._identity = identity
        self._session = session
        self._facts = facts
        self._handlers = handlers
        self._join_token = join_token
        self._name = name
        self._clock = clock
        self._channel = rpc_channel.connect(address)
        self._devices = devices_service_pb2_grpc.DevicesServiceStub(self._channel)
        self._artifacts = artifacts_service_pb2_grpc.ArtifactsServiceStub(self._channel)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._failures = 0
        self._connection = 0
        self._thread = threading.Thread(target=self._run, name="plane-link", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends the stream, after what is due was handed to it, and every download."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._channel.close()

    def reported(self, report: Report) -> None:
        """The device's state is this now. From any thread."""
        with self._changed:
            self._session.reported(report)
            self._changed.notify_all()

    def closed_window(self, window: Window) -> None:
        """A health window is over. From any thread."""
        with self._changed:
            self._session.closed_window(window)
            self._changed.notify_all()

    def fetch(self, digest: str, offset: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of an engine; see :class:`edge_agent.updates.download.Fetch`.

        Raises:
            FleetError: as the plane says, or the way there.
        """
        call = None
        heard, silent = threading.Event(), threading.Event()

        def watch(call: grpc.Call) -> None:
            """Ends a download that brings nothing: whoever waits for it waits for newer wishes too."""
            while heard.wait(SILENT_S):
                heard.clear()
                if not call.is_active():
                    return
            silent.set()
            call.cancel()

        try:
            call = self._artifacts.DownloadArtifact(
                artifacts_service_pb2.DownloadArtifactRequest(digest=digest, offset=offset), metadata=self._metadata()
            )
            threading.Thread(target=watch, args=(call,), name="download-watch", daemon=True).start()
            for piece in call:
                if piece.chunk:  # an empty piece is no sign of progress
                    heard.set()
                yield piece.size_bytes, piece.chunk
        except grpc.RpcError as error:
            if silent.is_set():
                raise UnavailableError(
                    f"{self._peer} sent nothing of an engine for {SILENT_S:g} s", remedy="it is gone on with later"
                ) from None
            raise from_rpc_error(error, peer=self._peer) from None
        except ValueError:  # the channel is closed: the agent stops
            raise UnavailableError(f"the connection to {self._peer} is closed") from None
        finally:
            if call is not None:
                call.cancel()
            heard.set()

    def _metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        credential = self._identity.credential
        return rpc_channel.metadata(credential.token if credential is not None else "")

    def _run(self) -> None:
        while not self._stopping.is_set():
            with correlated():
                try:
                    if self._identity.credential is None:
                        self._enrol()
                    self._talk()
                except FleetError as error:
                    if self._identity.credential is None and isinstance(error, _REFUSED):
                        _log.error("this device was not taken in", plane=self._address, error=str(error))
                        self._handlers.refused(error)
                        return
                    if not self._stopping.is_set():
                        _log.warning("no connection to the plane", plane=self._address, error=str(error))
                except Exception as error:  # noqa: BLE001  # masking goes on whatever the plane says
                    _log.error("the link to the plane failed unexpectedly", exc_info=error)
            self._failures += 1
            longest = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._failures - 1, 16))
            self._stopping.wait(longest * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load, guards nothing

    def _enrol(self) -> Credential:
        token = self._join_token
        if token is None:
            raise PreconditionError(
                "this device is not enrolled", remedy="give --join-token-file with a token of the plane"
            )
        try:
            challenge = self._devices.CreateChallenge(devices_service_pb2.CreateChallengeRequest(), timeout=CALL_S)
            response = self._devices.Enrol(
                devices_service_pb2.EnrolRequest(
                    join_token=str(token),
                    public_key=self._identity.public_key,
                    nonce=challenge.nonce,
                    proof=self._identity.key.sign(proof_message(challenge.nonce, str(token))),
                    name=self._name,
                    facts=codec.facts_message(self._facts),
                ),
                timeout=CALL_S,
                metadata=rpc_channel.metadata(),
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, peer=self._peer) from None
        credential = self._identity.accept(response.credential, response.plane_public_key, token)
        _log.info("enrolled", device=self._identity.device_id, plane=self._address)
        return credential

    def _talk(self) -> None:
        """One connection, until it ends."""
        with self._changed:
            self._connection += 1
            mine = self._connection
        call = None
        try:
            call = self._devices.Connect(self._said(mine), metadata=self._metadata())
            for message in call:
                said = codec.said_by_plane(message)
                if said is None:
                    continue
                with self._changed:
                    was_open = self._session.is_open
                    told = self._session.received(said, self._clock.monotonic())
                    self._changed.notify_all()
                if not was_open:
                    self._failures = 0
                    _log.info("connected", plane=self._address)
                    self._handlers.connected()
                if isinstance(told, Desired):
                    self._handlers.desired(told)
                elif isinstance(told, Ack):
                    self._handlers.acked(told)
            if not self._stopping.is_set():
                raise UnavailableError(f"{self._peer} ended the stream", remedy="the agent connects again by itself")
        except grpc.RpcError as error:
            raise from_rpc_error(error, peer=self._peer) from None
        except ValueError:  # the channel is closed: the agent stops
            return
        finally:
            with self._changed:
                self._connection += 1  # ends the generator below
                self._session.disconnected()
                self._changed.notify_all()
            if call is not None:
                call.cancel()

    def _said(self, mine: int) -> Iterator[devices_service_pb2.ConnectRequest]:
        """What the device says on one connection. On a thread of gRPC's."""
        with self._changed:
            hello = self._session.connected()
        yield codec.request(hello)
        while True:
            with self._changed:
                while True:
                    if self._connection != mine:
                        return
                    now = self._clock.monotonic()
                    due = self._session.outgoing(now)
                    if due or self._stopping.is_set():
                        break
                    self._changed.wait(max(0.01, self._session.due_at(now) - now))
            for said in due:
                yield codec.request(said)
            if not due:
                return  # the agent stops, and all that was due is said
