"""The agent's counts as OpenTelemetry metrics: the only module that imports it, when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_EXPORT_MS = 5_000


class OtelInstruments:
    """Counters and histograms behind a meter provider of their own.

    Args:
        meter: name of the meter.
        device_id: the resource's ``service.instance.id``; ``OTEL_RESOURCE_ATTRIBUTES`` goes before it.
        boot_id: of this run.
        version: of the agent.
        buckets: seconds; explicit, for an exponential histogram does not survive every exporter.
        reader: where metrics go; OTLP over gRPC by the environment's variables where it is None.
    """

    def __init__(
        self, meter: str, device_id: str, boot_id: str, version: str, *, buckets: Sequence[float], reader: Any = None
    ) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource

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
        ).merge(OTELResourceDetector().detect())
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

    def frame(self, outcome: str, reason: str, stages_s: Mapping[str, float]) -> None:
        """A frame is done."""
        self._frames.add(1, {"outcome": outcome, "reason": reason})
        for stage, seconds in stages_s.items():
            self._stages.record(seconds, {"stage": stage})

    def swap(self, result: str) -> None:
        """A release was put in place or taken back."""
        self._swaps.add(1, {"result": result})

    def close(self) -> None:
        """Sends what is left, for a few seconds at most."""
        self._provider.shutdown(timeout_millis=_EXPORT_MS)
