"""The control plane, as the command line speaks to it: stubs with a deadline, a credential and typed errors.

Example::

    with Plane("127.0.0.1:7700", token="mfo1.…") as plane:
        models = plane.call(plane.models.ListModels, models_service_pb2.ListModelsRequest())
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import grpc

from maskfleet.rpc.channel import connect, metadata
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import (
    artifacts_service_pb2_grpc,
    devices_service_pb2_grpc,
    events_service_pb2_grpc,
    models_service_pb2_grpc,
    releases_service_pb2_grpc,
    rollouts_service_pb2_grpc,
)

CALL_TIMEOUT_S = 20.0
"""Deadline of a unary call."""

SLOW_CALL_TIMEOUT_S = 180.0
"""Deadline of a call behind which a process of its own works, as registering a model."""

_T = TypeVar("_T")


class Plane:
    """A connection to a control plane. Connects with the first call.

    Args:
        address: ``host:port`` or ``unix:/path``.
        token: the operator's token.
    """

    def __init__(self, address: str, *, token: str) -> None:
        self.address = address
        self._token = token
        self._channel = connect(address)
        self.artifacts = artifacts_service_pb2_grpc.ArtifactsServiceStub(self._channel)
        self.devices = devices_service_pb2_grpc.DevicesServiceStub(self._channel)
        self.events = events_service_pb2_grpc.EventsServiceStub(self._channel)
        self.models = models_service_pb2_grpc.ModelsServiceStub(self._channel)
        self.releases = releases_service_pb2_grpc.ReleasesServiceStub(self._channel)
        self.rollouts = rollouts_service_pb2_grpc.RolloutsServiceStub(self._channel)

    def __enter__(self) -> Plane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and every call on it."""
        self._channel.close()

    @property
    def name(self) -> str:
        """For messages."""
        return f"the control plane at {self.address}"

    def call(self, method: Callable[..., _T], request: Any, *, timeout: float = CALL_TIMEOUT_S) -> _T:
        """Makes a unary call (or one that streams requests).

        Args:
            method: of one of the stubs.
            request: its message, or an iterator of messages.
            timeout: its deadline in seconds.

        Raises:
            FleetError: what the plane answered, as its own class; UnavailableError where it cannot be reached.
        """
        try:
            return method(request, timeout=timeout, metadata=metadata(self._token))
        except grpc.RpcError as error:
            raise from_rpc_error(error, peer=self.name) from None

    def watch(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """Makes a call that streams responses, without a deadline; closing the iterator cancels it.

        Raises:
            FleetError: as :meth:`call`.
        """
        responses = method(request, metadata=metadata(self._token))
        try:
            yield from responses
        except grpc.RpcError as error:
            raise from_rpc_error(error, peer=self.name) from None
        finally:
            responses.cancel()


def pages(plane: Plane, method: Callable[..., Any], request: Any) -> Iterator[Any]:
    """Every page of a list; ``request`` is changed.

    Raises:
        FleetError: as :meth:`Plane.call`.
    """
    while True:
        response = plane.call(method, request)
        yield response
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token
