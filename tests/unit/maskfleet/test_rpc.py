"""Servers and channels over real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from maskfleet.errors import BadFrameError, InvalidInputError, NoEngineError, UnavailableError
from maskfleet.logs import correlated, correlation_id
from maskfleet.rpc.channel import connect, connect_aio, metadata
from maskfleet.rpc.server import (
    add_standard_services,
    add_standard_services_aio,
    bind,
    check_listen,
    make_aio_server,
    make_server,
)
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import masking_pb2, masking_service_pb2, masking_service_pb2_grpc

SERVICE = "maskfleet.v1.MaskingService"
Request = masking_service_pb2.MaskRequest
Response = masking_service_pb2.MaskResponse


class Refusing(masking_service_pb2_grpc.MaskingServiceServicer):
    """Says the correlation id, then fails."""

    def MaskImage(  # noqa: N802  # gRPC's name
        self, request: masking_service_pb2.MaskImageRequest, context: grpc.ServicerContext
    ) -> masking_service_pb2.MaskImageResponse:
        raise NoEngineError("no engine is loaded", remedy="roll out a release")

    def Mask(  # noqa: N802
        self, request_iterator: Iterator[Request], context: grpc.ServicerContext
    ) -> Iterator[Response]:
        yield Response(result=masking_pb2.FrameResult(detail=correlation_id()))
        raise BadFrameError("frame 3 is no JPEG")


class RefusingAio(masking_service_pb2_grpc.MaskingServiceServicer):
    """The same in asyncio."""

    async def MaskImage(  # type: ignore[override]  # noqa: N802
        self, request: masking_service_pb2.MaskImageRequest, context: object
    ) -> masking_service_pb2.MaskImageResponse:
        raise NoEngineError("no engine is loaded", remedy="roll out a release")

    async def Mask(self, request_iterator: object, context: object):  # type: ignore[no-untyped-def,override]  # noqa: N802
        yield Response(result=masking_pb2.FrameResult(detail=correlation_id()))
        raise BadFrameError("frame 3 is no JPEG")


@pytest.fixture
def address() -> Iterator[str]:
    server = make_server(workers=4, max_message_bytes=1 << 20)
    masking_service_pb2_grpc.add_MaskingServiceServicer_to_server(Refusing(), server)
    health = add_standard_services(server, [SERVICE])
    where = bind(server, "127.0.0.1:0")
    server.start()
    health.set(serving=True)
    yield where
    server.stop(None).wait()


def check(address: str) -> None:
    """What both kinds of server must do."""
    with connect(address) as channel, correlated("c-test"):
        stub = masking_service_pb2_grpc.MaskingServiceStub(channel)
        with pytest.raises(grpc.RpcError) as unary:
            stub.MaskImage(masking_service_pb2.MaskImageRequest(), timeout=10, metadata=metadata())
        error = from_rpc_error(unary.value)
        assert (type(error), str(error)) == (NoEngineError, "no engine is loaded: roll out a release")
        results = stub.Mask(iter([Request()]), timeout=10, metadata=metadata())
        assert next(results).result.detail == "c-test"
        with pytest.raises(grpc.RpcError) as streamed:
            next(results)
        assert streamed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert type(from_rpc_error(streamed.value)) is BadFrameError


def test_errors_and_correlation_ids_cross_the_wire(address: str) -> None:
    check(address)


async def test_errors_and_correlation_ids_cross_the_wire_in_asyncio() -> None:
    server = make_aio_server(max_message_bytes=1 << 20)
    masking_service_pb2_grpc.add_MaskingServiceServicer_to_server(RefusingAio(), server)
    where = bind(server, "127.0.0.1:0")
    await server.start()
    async with connect_aio(where) as channel:
        stub = masking_service_pb2_grpc.MaskingServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await stub.MaskImage(masking_service_pb2.MaskImageRequest(), timeout=10)
        assert type(from_rpc_error(unary.value)) is NoEngineError
        with correlated("c-test"):
            results = stub.Mask(iter([Request()]), timeout=10, metadata=metadata())
        assert (await results.read()).result.detail == "c-test"  # type: ignore[union-attr]
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await results.read()
        assert type(from_rpc_error(streamed.value)) is BadFrameError
    await server.stop(None)


def test_health_says_no_until_it_is_told(address: str) -> None:
    with connect(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    server = make_server(workers=2, max_message_bytes=1 << 20)
    add_standard_services(server, [SERVICE])
    where = bind(server, "127.0.0.1:0")
    server.start()
    with connect(where) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    server.stop(None).wait()


def test_a_taken_port_and_a_dead_peer_are_named(address: str) -> None:
    server = make_server(workers=1, max_message_bytes=1 << 20)
    with pytest.raises(UnavailableError, match=address):
        bind(server, address)
    server.stop(None).wait()
    with connect("127.0.0.1:1") as channel:
        stub = masking_service_pb2_grpc.MaskingServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.MaskImage(masking_service_pb2.MaskImageRequest(), timeout=5)
    error = from_rpc_error(caught.value, peer="the agent at 127.0.0.1:1")
    assert isinstance(error, UnavailableError)
    assert "the agent at 127.0.0.1:1 cannot be reached" in str(error)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:7700", "[::1]:7700", "127.8.0.1:1", "unix:/tmp/x"])
def test_loopback_needs_no_permission(address: str) -> None:
    assert check_listen(address, allow_remote=False) == address


@pytest.mark.parametrize("address", ["0.0.0.0:7700", "[::]:7700", "192.0.2.1:7700", "example.org:7700"])
def test_other_machines_are_let_in_only_when_told(address: str) -> None:
    with pytest.raises(InvalidInputError, match="--allow-remote"):
        check_listen(address, allow_remote=False)
    assert check_listen(address, allow_remote=True) == address


@pytest.mark.parametrize("address", ["", "7700", ":7700", "localhost", "localhost:x", "localhost:70000"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match="is no address"):
        check_listen(address, allow_remote=True)


async def test_health_of_an_asyncio_server_answers_and_can_be_watched() -> None:
    server = make_aio_server(max_message_bytes=1 << 20)
    health = await add_standard_services_aio(server, [SERVICE])
    where = bind(server, "127.0.0.1:0")
    await server.start()
    async with connect_aio(where) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watched = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await health.set(serving=True)
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()
    await server.stop(None)


def test_watchers_of_health_hold_no_worker() -> None:
    server = make_server(workers=2, max_message_bytes=1 << 20)
    masking_service_pb2_grpc.add_MaskingServiceServicer_to_server(Refusing(), server)
    health = add_standard_services(server, [SERVICE])
    where = bind(server, "127.0.0.1:0")
    server.start()
    health.set(serving=True)
    with connect(where) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(4)]
        for watch in watches:
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status == health_pb2.HealthCheckResponse.SERVING
        for watch in watches:
            watch.cancel()
    server.stop(None).wait()
