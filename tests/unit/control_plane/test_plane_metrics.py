"""The plane's metrics as Prometheus reads them."""

from __future__ import annotations

import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from control_plane.telemetry import Metrics
from maskfleet.errors import UnavailableError


def scraped(address: str) -> dict[tuple[str, tuple[str, ...]], float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:  # our own server
        families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, tuple(sorted(s.labels.values()))): s.value for family in families for s in family.samples}


def test_numbers_and_calls_are_shown_and_a_state_that_is_gone_is_zero() -> None:
    metrics = Metrics()
    with metrics.serving("127.0.0.1:0") as address:
        metrics.show("builds", {"QUEUED": 2})
        metrics.show("builds", {"SUCCEEDED": 2})
        metrics.show("devices", {"online": 1, "enrolled": 3})
        metrics.call("DevicesService/ListDevices", grpc.StatusCode.OK, 0.01)
        metrics.call("DevicesService/Connect", grpc.StatusCode.CANCELLED, None)
        found = scraped(address)
        assert found["maskfleet_builds", ("QUEUED",)] == 0
        assert found["maskfleet_builds", ("SUCCEEDED",)] == 2
        assert found["maskfleet_devices", ("online",)] == 1
        assert found["maskfleet_rpc_total", ("CANCELLED", "DevicesService/Connect")] == 1
        assert found["maskfleet_rpc_seconds_count", ("DevicesService/ListDevices",)] == 1
        with pytest.raises(UnavailableError, match=address):
            with metrics.serving(address):
                pass
