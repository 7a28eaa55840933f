"""The agent's counts as OpenTelemetry metrics: the only module that imports it, when it is asked for.

They go where the standard environment variables say, or to the device's own plane with its credential. Counts are
cumulative: what one message could not bring, the next one does, and nothing is sent twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from maskfleet.logs import get_logger
from maskfleet.rpc.channel import connect, metadata
from maskfleet.rpc.status import from_rpc_error

if TYPE_CHECKING:
    from edge_agent.telemetry import PlaneReceiver

_EXPORT_MS = 5_000
_PLANE_INTERVAL_MS = 10_000
_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"


class PlaneExporter(MetricExporter):
    """Sends metrics to the device's plane. A failure is said once and not tried again: the next message says it all."""

    def __init__(self, plane: PlaneReceiver) -> None:
        super().__init__()
        self._plane = plane
        self._channel = connect(plane.address)
        self._stub = metrics_service_pb2_grpc.MetricsServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._said = ""
        self._log = get_logger(__name__)

    def export(self, metrics_data: MetricsData, timeout_millis: float = _EXPORT_MS, **_: Any) -> MetricExportResult:
        """Sends everything that was counted; a failure where the device has no credential yet."""
        credential = self._plane.credential()
        if not credential:
            return MetricExportResult.FAILURE
        timeout_s = min(timeout_millis, _EXPORT_MS) / 1000
        try:
            answer = self._stub.Export(encode_metrics(metrics_data), timeout=timeout_s, metadata=metadata(credential))
        except (grpc.RpcError, ValueError) as error:  # a ValueError: the channel was closed meanwhile
            self._say(str(from_rpc_error(error, peer="the plane") if isinstance(error, grpc.RpcError) else error))
            return MetricExportResult.FAILURE
        self._say(answer.partial_success.error_message)
        return MetricExportResult.SUCCESS

    def _say(self, wrong: str) -> None:
        if wrong != self._said:
            self._said = wrong
            if wrong:
                self._log.warning("the plane did not take all metrics", reason=wrong)
            else:
                self._log.info("the plane takes the metrics again")

    def force_flush(self, timeout_millis: float = _EXPORT_MS) -> bool:
        """Nothing waits here."""
        return True

    def shutdown(self, timeout_millis: float = _EXPORT_MS, **_: Any) -> None:
        """Closes the channel."""
        self._channel.close()


class OtelInstruments:
    """Counters and histograms behind a meter provider of their own.

    Args:
        meter: name of the meter.
        device_id: the resource's ``service.instance.id``; ``OTEL_RESOURCE_ATTRIBUTES`` goes before it.
        boot_id: of this run.
        version: of the agent.
        buckets: seconds; explicit, for an exponential histogram does not survive every exporter.
        plane: the plane's receiver; then no variable names another device or receiver.
        reader: where metrics go; OTLP over gRPC by the environment's variables where it is None.
    """

    def __init__(
        self,
        meter: str,
        device_id: str,
        boot_id: str,
        version: str,
        *,
        buckets: Sequence[float],
        plane: PlaneReceiver | None = None,
        reader: Any = None,
    ) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource

        if reader is None and plane is not None:
            interval = None if os.environ.get(_INTERVAL) else _PLANE_INTERVAL_MS
            reader = PeriodicExportingMetricReader(PlaneExporter(plane), export_interval_millis=interval)
        if reader is None:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

            # The exporter's own default is cumulative: counts outlive an outage of the collector.
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        resource = Resource.create(
            {
                "service.name": "maskfleet-agent",
                "service.instance.id": device_id,
                "service.version": version,
                "maskfleet.boot_id": boot_id,
            }
        )
        if plane is None:
            resource = resource.merge(OTELResourceDetector().detect())
        self._provider = MeterProvider(
            [reader],
            resource=resource,
            views=[
                View(
                    instrument_name="maskfleet.stage.duration",
                    aggregation=ExplicitBucketHistogramAggregation(tuple(buckets)),
                )
            ],
            shutdown_on_exit=False,
        )
        mine = self._provider.get_meter(meter, version)
        self._frames = mine.create_counter("maskfleet.frames", "{frame}", "Frames by what was done with them")
        self._stages = mine.create_histogram("maskfleet.stage.duration", "s", "Time by stage of masking")
        self._swaps = mine.create_counter("maskfleet.engine.swaps", "{swap}", "Releases put in place or taken back")

    def frame(
        self, outcome: str, reason: str, stages_s: Mapping[str, float], *, release: str = "", target: str = ""
    ) -> None:
        """A frame is done, by this release on this target; both are empty where there was none."""
        whose = {"release": release, "target": target}
        self._frames.add(1, {"outcome": outcome, "reason": reason, **whose})
        for stage, seconds in stages_s.items():
            self._stages.record(seconds, {"stage": stage, **whose})

    def swap(self, result: str) -> None:
        """A release was put in place or taken back."""
        self._swaps.add(1, {"result": result})

    def close(self) -> None:
        """Sends what is left, for a few seconds at most."""
        self._provider.shutdown(timeout_millis=_EXPORT_MS)
