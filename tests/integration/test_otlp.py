"""The plane's OTLP receiver over real gRPC: who may send, what is added up, and what is refused with a reason."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as wire
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from prometheus_client import generate_latest

from control_plane.plane import Plane
from maskfleet import errors
from maskfleet.clock import FakeClock
from maskfleet.rpc.channel import connect_aio, metadata
from tests.integration.test_events import kit
from tests.integration.test_plane import WAIT_S, Kit, TestDevice, refused

__all__ = ["kit"]  # the fixture
CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = metrics_pb2.AGGREGATION_TEMPORALITY_DELTA
LABELS = {"outcome": "MASKED", "reason": "DETECTED", "release": "r-3", "target": "ort-cpu"}


def attributes(values: dict[str, str]) -> list[common_pb2.KeyValue]:
    return [common_pb2.KeyValue(key=k, value=common_pb2.AnyValue(string_value=v)) for k, v in values.items()]


def frames(value: float, time: int = 10, *, temporality: Any = CUMULATIVE, **labels: str) -> metrics_pb2.Metric:
    data = metrics_pb2.NumberDataPoint(
        attributes=attributes(LABELS | labels), start_time_unix_nano=1, time_unix_nano=time, as_double=value
    )
    sums = metrics_pb2.Sum(data_points=[data], aggregation_temporality=temporality, is_monotonic=True)
    return metrics_pb2.Metric(name="maskfleet.frames", sum=sums)


def durations(counts: list[int], total: float, time: int = 10) -> metrics_pb2.Metric:
    data = metrics_pb2.HistogramDataPoint(
        attributes=attributes({"stage": "TOTAL", "release": "r-3", "target": "ort-cpu"}),
        start_time_unix_nano=1, time_unix_nano=time, count=sum(counts), sum=total, bucket_counts=counts,
        explicit_bounds=[0.01, 0.02],
    )  # fmt: skip
    return metrics_pb2.Metric(
        name="maskfleet.stage.duration",
        histogram=metrics_pb2.Histogram(data_points=[data], aggregation_temporality=CUMULATIVE),
    )


def request(*metrics: metrics_pb2.Metric, instance: str = "") -> wire.ExportMetricsServiceRequest:
    return wire.ExportMetricsServiceRequest(
        resource_metrics=[
            metrics_pb2.ResourceMetrics(
                resource=resource_pb2.Resource(
                    attributes=attributes({"service.instance.id": instance} if instance else {})
                ),
                scope_metrics=[metrics_pb2.ScopeMetrics(metrics=metrics)],
            )
        ]
    )


class Receiver:
    """The plane's receiver, and what it shows."""

    def __init__(self, kit: Kit, device: TestDevice) -> None:
        self.kit = kit
        self.device = device
        self.channel = connect_aio(kit.plane.address)
        self.stub: Any = metrics_service_pb2_grpc.MetricsServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def export(self, message: wire.ExportMetricsServiceRequest, credential: str | None = None) -> Any:
        said = metadata(self.device.credential if credential is None else credential)
        return self.stub.Export(message, timeout=WAIT_S, metadata=said)

    async def told(self, *metrics: metrics_pb2.Metric) -> tuple[int, str]:
        partial = (await self.export(request(*metrics))).partial_success
        return partial.rejected_data_points, partial.error_message

    def shown(self, start: str) -> list[str]:
        return [line for line in text(self.kit.plane).splitlines() if line.startswith(start)]


def text(plane: Plane) -> str:
    return generate_latest(plane._metrics.registry).decode()


@pytest.fixture
async def receiver(kit: Kit) -> AsyncIterator[Receiver]:
    made = Receiver(kit, await kit.device("cam-1"))
    assert isinstance(kit.clock, FakeClock)
    kit.clock.advance(timedelta(seconds=1))  # what the devices below count began after the plane did
    yield made
    await made.channel.close()


async def test_what_devices_count_is_added_up_by_release_and_target(receiver: Receiver) -> None:
    assert await receiver.told(
        frames(7),
        frames(2, outcome="FULL_MASK", reason="DEADLINE_MISSED"),
        durations([1, 2, 1], 0.06),
        frames(4, outcome="DROPPED", reason="SUPERSEDED"),
        frames(1, outcome="DROPPED", reason="SHUTTING_DOWN"),
    ) == (0, "")
    assert await receiver.told(frames(10, time=20)) == (0, "")
    other = Receiver(receiver.kit, await receiver.kit.device("cam-2"))
    assert await other.told(frames(5)) == (0, "")
    await other.channel.close()
    assert receiver.shown("maskfleet_fleet_frames_total") == [
        'maskfleet_fleet_frames_total{outcome="MASKED",release="r-3",target="ort-cpu"} 15.0',
        'maskfleet_fleet_frames_total{outcome="FULL_MASK",release="r-3",target="ort-cpu"} 2.0',
        'maskfleet_fleet_frames_total{outcome="DROPPED",release="r-3",target="ort-cpu"} 5.0',
    ]
    assert receiver.shown("maskfleet_fleet_guard_actions_total") == [
        'maskfleet_fleet_guard_actions_total{reason="DEADLINE_MISSED",release="r-3",target="ort-cpu"} 2.0'
    ]
    place = 'release="r-3",stage="TOTAL",target="ort-cpu"'
    seconds = receiver.shown("maskfleet_fleet_stage_seconds")
    assert f'maskfleet_fleet_stage_seconds_bucket{{le="0.01",{place}}} 1.0' in seconds
    assert f'maskfleet_fleet_stage_seconds_bucket{{le="0.025",{place}}} 3.0' in seconds
    assert f'maskfleet_fleet_stage_seconds_bucket{{le="+Inf",{place}}} 4.0' in seconds
    assert f"maskfleet_fleet_stage_seconds_sum{{{place}}} 0.06" in seconds
    assert receiver.shown('maskfleet_otlp_points_total{result="taken"}')[0].endswith(" 7.0")


REFUSED = {
    "a delta": (frames(1, temporality=DELTA), "cumulative"),
    "a NaN": (frames(math.nan), "no number"),
    "a negative count": (frames(-1), "negative"),
    "an unknown metric": (metrics_pb2.Metric(name="cpu.time", sum=frames(1).sum), "'cpu.time' is no metric"),
    "a gauge": (
        metrics_pb2.Metric(
            name="maskfleet.frames", gauge=metrics_pb2.Gauge(data_points=[metrics_pb2.NumberDataPoint()])
        ),
        "a gauge is not taken",
    ),
    "a histogram under a counter's name": (
        metrics_pb2.Metric(name="maskfleet.frames", histogram=durations([1, 0, 0], 0.1).histogram),
        "another kind",
    ),
    "a label that is a story": (frames(1, release="r-3\n" * 40), "release has a value that is none"),
    "a histogram that does not add up": (durations([1, 2], 0.1), "do not fit"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_refused_is_counted_and_told_and_the_rest_is_taken(receiver: Receiver, name: str) -> None:
    metric, why = REFUSED[name]
    number, message = await receiver.told(metric, frames(3, release="r-good"))
    assert (number, why in message) == (1, True), message
    assert receiver.shown('maskfleet_otlp_points_total{result="refused"}')[0].endswith(" 1.0")
    assert len(receiver.shown("maskfleet_fleet_frames_total")) == 1


async def test_nobody_speaks_for_another_device(receiver: Receiver) -> None:
    answer = await receiver.export(request(frames(7), instance="d-another"))
    assert answer.partial_success.rejected_data_points == 1
    assert "another device" in answer.partial_success.error_message
    assert receiver.shown("maskfleet_fleet_frames_total") == []
    assert not (await receiver.export(request(frames(7), instance=receiver.device.id))).HasField("partial_success")


async def test_only_devices_send_metrics_and_health_stays_open(receiver: Receiver) -> None:
    nobody = await refused(receiver.export(request(frames(1)), credential=""))
    assert isinstance(nobody, errors.AuthenticationError)
    operator = receiver.kit.plane.operator_token_file.read_text().strip()
    assert isinstance(await refused(receiver.export(request(frames(1)), credential=operator)), errors.ForbiddenError)
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    health = health_pb2_grpc.HealthStub(receiver.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)).status == 1


async def test_a_message_larger_than_any_agent_s_is_refused_whole(receiver: Receiver) -> None:
    many = metrics_pb2.Metric(
        name="maskfleet.frames",
        sum=metrics_pb2.Sum(data_points=[metrics_pb2.NumberDataPoint() for _ in range(5001)]),
    )
    error = await refused(receiver.export(request(many)))
    assert isinstance(error, errors.InvalidInputError)
    assert "5001 values" in str(error)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await receiver.export(request(frames(1, release="x" * (5 << 20))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_devices_and_rollouts_are_shown_with_what_they_run(receiver: Receiver) -> None:
    release = await receiver.kit.release()
    rollout = await receiver.kit.roll_out(release.id)
    desired = await receiver.device.desired()
    await receiver.device.say(desired, "COMMITTED")
    await receiver.kit.until(rollout.id, "SUCCEEDED")
    await receiver.kit.plane._count()
    assert receiver.shown("maskfleet_rollout_state") == [
        f'maskfleet_rollout_state{{rollout="{rollout.id}",state="SUCCEEDED"}} 1.0'
    ]
    assert receiver.shown("maskfleet_fleet_devices") == [
        'maskfleet_fleet_devices{release="none",state="COMMITTED",target="none"} 1.0'
    ]
    await receiver.device.disconnect()
