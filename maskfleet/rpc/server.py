"""Servers: errors become statuses, correlation ids are bound, health and reflection are there.

Health says NOT_SERVING from the start until :meth:`Health.set`, and again while the process stops.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from maskfleet.errors import InvalidInputError, UnavailableError
from maskfleet.logs import CORRELATION_KEY, correlated
from maskfleet.rpc.channel import options
from maskfleet.rpc.status import wire_error


class Health:
    """What the standard health service says, for the server as a whole and for each of its services."""

    def __init__(self, services: Sequence[str]) -> None:
        self.servicer = health.HealthServicer()
        self._services = ("", *services)
        self.set(serving=False)

    def set(self, *, serving: bool) -> None:
        """Says SERVING or NOT_SERVING."""
        word = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            self.servicer.set(service, word)


class AioHealth:
    """The same for a server of asyncio, made by :func:`add_standard_services_aio`."""

    def __init__(self, services: Sequence[str]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._services = ("", *services)

    async def set(self, *, serving: bool) -> None:
        """Says SERVING or NOT_SERVING."""
        word = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, word)


def _correlation(details: Any) -> str:
    for key, value in details or ():
        if key == CORRELATION_KEY:
            return str(value)
    return ""


def _replaced(handler: Any, behaviour: Callable[..., Any]) -> Any:
    """The handler with another behaviour of the same kind."""
    kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
    return getattr(grpc, f"{kind}_rpc_method_handler")(
        behaviour, handler.request_deserializer, handler.response_serializer
    )


def _behaviour(handler: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return found


class Translating(grpc.ServerInterceptor):
    """For threads: binds the correlation id and turns errors of the catalogue into statuses."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/maskfleet."):
            # Health and reflection are not ours to wrap: a watcher of health holds no worker as long as nobody does.
            return handler
        behaviour = _behaviour(handler)
        value = _correlation(handler_call_details.invocation_metadata)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            with correlated(value):
                try:
                    return behaviour(request, context)
                except Exception as error:  # noqa: BLE001  # the edge of the process: everything becomes a status
                    _abort(context, error)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with correlated(value):
                try:
                    yield from behaviour(request, context)
                except Exception as error:  # noqa: BLE001  # the edge of the process: everything becomes a status
                    _abort(context, error)

        return _replaced(handler, stream if handler.response_streaming else unary)


def _abort(context: grpc.ServicerContext, error: Exception) -> None:
    if not context.is_active():
        return  # the caller is gone; there is nobody to tell
    if not str(error) and type(error) is Exception:
        raise error  # context.abort() itself, called in the behaviour
    code, message, trailing = wire_error(error)
    context.set_trailing_metadata(trailing)
    context.abort(code, message)


_OURS = ("/maskfleet.", "/opentelemetry.")


class TranslatingAio(grpc.aio.ServerInterceptor):
    """For asyncio: the same."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OURS):
            return handler  # health and reflection are written in another manner and raise none of our errors
        behaviour = _behaviour(handler)
        value = _correlation(handler_call_details.invocation_metadata)

        async def unary(request: Any, context: Any) -> Any:
            with correlated(value):
                try:
                    return await behaviour(request, context)
                except Exception as error:  # noqa: BLE001  # the edge of the process: everything becomes a status
                    await _abort_aio(context, error)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            with correlated(value):
                try:
                    async for response in behaviour(request, context):
                        yield response
                except Exception as error:  # noqa: BLE001  # the edge of the process: everything becomes a status
                    await _abort_aio(context, error)

        return _replaced(handler, stream if handler.response_streaming else unary)


async def _abort_aio(context: Any, error: Exception) -> None:
    if isinstance(error, (grpc.aio.AbortError, grpc.aio.BaseError)):
        raise error
    code, message, trailing = wire_error(error)
    await context.abort(code, message, trailing)


def check_listen(address: str, *, allow_remote: bool) -> str:
    """The address to listen on, if it may be: loopback or a Unix socket, unless told otherwise.

    Raises:
        InvalidInputError: it is reachable from other machines and nobody said that it should be.
    """
    if address.startswith("unix:"):
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidInputError(f"{address!r} is no address", remedy="give host:port, as 127.0.0.1:7700, or unix:/path")
    bare = host.strip("[]")
    try:
        loopback = ipaddress.ip_address(bare).is_loopback
    except ValueError:
        loopback = bare == "localhost"
    if not loopback and not allow_remote:
        raise InvalidInputError(
            f"{address} can be reached from other machines",
            remedy="listen on 127.0.0.1, or add --allow-remote behind a proxy that speaks TLS",
        )
    return address


def make_server(
    *, workers: int, max_message_bytes: int, interceptors: Sequence[grpc.ServerInterceptor] = ()
) -> grpc.Server:
    """A server for threads. Each stream holds a worker for as long as it lasts."""
    return grpc.server(
        futures.ThreadPoolExecutor(max_workers=workers, thread_name_prefix="rpc"),
        options=options(max_message_bytes),
        interceptors=[Translating(), *interceptors],
    )


def make_aio_server(
    *, max_message_bytes: int, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> grpc.aio.Server:
    """A server for asyncio."""
    return grpc.aio.server(options=options(max_message_bytes), interceptors=[TranslatingAio(), *interceptors])


def add_standard_services(server: grpc.Server, services: Sequence[str]) -> Health:
    """Adds health and reflection for the named services, to a server of threads."""
    state = Health(services)
    health_pb2_grpc.add_HealthServicer_to_server(state.servicer, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return state


async def add_standard_services_aio(server: grpc.aio.Server, services: Sequence[str]) -> AioHealth:
    """:func:`add_standard_services` for a server of asyncio, which the other kind's health servicer does not suit."""
    state = AioHealth(services)
    await state.set(serving=False)
    health_pb2_grpc.add_HealthServicer_to_server(state.servicer, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return state


def bind(server: Any, address: str) -> str:
    """Binds a server and gives the address with the port that it got.

    Raises:
        UnavailableError: the port is taken, or the address is none of this machine's.
    """
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if address.startswith("unix:"):
        return address
    if not port:
        raise UnavailableError(f"nothing can listen on {address}", remedy="choose another port, or stop who holds it")
    return f"{address.rpartition(':')[0]}:{port}"
