"""The plane's own metrics, for Prometheus.

- ``maskfleet_devices{state="online|enrolled"}``, ``maskfleet_builds{state}``, ``maskfleet_releases{state}``,
  ``maskfleet_rollouts{state="active|ended"}``: how many there are.
- ``maskfleet_health_windows{result="stored|repeated|refused|missing"}``: since the start of the process.
- ``maskfleet_rpc_total{method,code}``, ``maskfleet_rpc_seconds{method}``: calls, and how long unary ones took.
- What the devices of the fleet count: :mod:`control_plane.fleet_metrics`.

>>> # with Metrics().serving("127.0.0.1:7701") as address: ...
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from control_plane.fleet_metrics import FleetMetrics
from control_plane.interception import PREFIXES, around
from maskfleet.errors import FleetError, UnavailableError
from maskfleet.rpc.status import status_of

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """All of the plane's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._shown: dict[str, set[str]] = {}
        self._numbers = {
            name: Gauge(f"maskfleet_{name}", about, [label], registry=self.registry)
            for name, label, about in (
                ("devices", "state", "Devices that are enrolled, and of these those whose stream is open"),
                ("builds", "state", "Builds by state"),
                ("releases", "state", "Releases by state"),
                ("rollouts", "state", "Rollouts that are under way, and those that ended"),
                ("health_windows", "result", "Health windows since the start of the process"),
            )
        }
        self.fleet = FleetMetrics()
        self.registry.register(self.fleet)
        self._calls = Counter("maskfleet_rpc", "Calls", ["method", "code"], registry=self.registry)
        self._seconds = Histogram(
            "maskfleet_rpc_seconds", "Unary calls", ["method"], buckets=_BUCKETS, registry=self.registry
        )

    def show(self, name: str, numbers: Mapping[str, int]) -> None:
        """Sets the numbers of one kind; a state that is gone shows 0."""
        gauge = self._numbers[name]
        shown = self._shown.setdefault(name, set())
        shown.update(numbers)
        for state in shown:
            gauge.labels(state).set(numbers.get(state, 0))

    def call(self, method: str, code: grpc.StatusCode, seconds: float | None) -> None:
        """Counts a call; ``seconds`` is None for streams, whose length says nothing."""
        self._calls.labels(method, code.name).inc()
        if seconds is not None:
            self._seconds.labels(method).observe(seconds)

    @contextlib.contextmanager
    def serving(self, address: str) -> Iterator[str]:
        """Serves ``/metrics`` from a thread of its own for the block; gives the address with its port.

        Raises:
            UnavailableError: the port is taken.
        """
        host, _, port = address.rpartition(":")
        try:
            server, thread = start_http_server(int(port), host.strip("[]"), self.registry)
        except OSError as error:
            raise UnavailableError(
                f"metrics cannot listen on {address} ({error.strerror})", remedy="choose another port"
            ) from None
        try:
            yield f"{host}:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Counting(grpc.aio.ServerInterceptor):
    """Counts calls by method and outcome. Comes after the interceptor that turns errors into statuses."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(PREFIXES):
            return handler
        name, timed = (
            method.removeprefix("/maskfleet.v1.").removeprefix("/opentelemetry.proto.collector.metrics.v1."),
            not (handler.request_streaming or handler.response_streaming),
        )

        @contextlib.contextmanager
        def counted() -> Iterator[None]:
            start, code = time.monotonic(), grpc.StatusCode.OK
            try:
                yield
            except FleetError as error:
                code = status_of(error)
                raise
            except BaseException as error:
                code = grpc.StatusCode.INTERNAL if isinstance(error, Exception) else grpc.StatusCode.CANCELLED
                raise
            finally:
                self._metrics.call(name, code, time.monotonic() - start if timed else None)

        return around(handler, counted)
