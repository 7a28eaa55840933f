"""The plane's OTLP receiver: the standard ``MetricsService/Export`` on the plane's own port, for devices.

The only module that sees OTLP's messages. Rules:

- Who sends is known by the credential, never by what a message says: a resource that names another device is refused.
- Sums and histograms must be cumulative; they outlive an outage of either side. What is refused (a delta, a NaN, a
  negative count, an unknown metric) is counted and told in ``partial_success``, and does not come again.
- What a device may send is bounded: bytes and values of a message, series of a device, values of a label.
"""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as wire
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2

from control_plane.auth import caller
from control_plane.domain.series import Point, RefusedPoint
from control_plane.fleet_metrics import FleetMetrics, labelled
from maskfleet.clock import Clock
from maskfleet.errors import InvalidInputError
from maskfleet.logs import get_logger

add_otlp = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
MAX_BYTES = 1 << 20
MAX_POINTS = 5_000
_CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
_TOLD = 3  # reasons that an answer names


class OtlpServicer(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Takes in what devices count."""

    def __init__(self, fleet: FleetMetrics, clock: Clock) -> None:
        self._fleet = fleet
        self._clock = clock
        self._started = clock.monotonic()
        self._log = get_logger(__name__)

    async def Export(
        self, request: wire.ExportMetricsServiceRequest, context: Any
    ) -> wire.ExportMetricsServiceResponse:
        """Adds up what is sound.

        Raises:
            InvalidInputError: the message is larger than any agent's.
        """
        device_id = caller().id
        metrics = [(r, m) for r in request.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
        size, points = request.ByteSize(), sum(_size(m) for _, m in metrics)
        if size > MAX_BYTES or points > MAX_POINTS:
            self._fleet.refused(points)
            raise InvalidInputError(
                f"the message has {size} bytes and {points} values",
                remedy=f"send at most {MAX_BYTES} bytes and {MAX_POINTS} values at a time",
            )
        uptime_ns = int((self._clock.monotonic() - self._started) * 1e9)
        refused: Counter[str] = Counter()
        for resource, metric in metrics:
            named = _texts(resource.resource.attributes).get("service.instance.id", device_id)
            if named != device_id:
                refused["its service.instance.id is another device's"] += _size(metric)
                self._fleet.refused(_size(metric))
                continue
            for data in _points(metric):
                try:
                    self._fleet.take(device_id, _point(metric, data), uptime_ns=uptime_ns)
                except RefusedPoint as error:
                    refused[f"{metric.name[:64]}: {error}"] += 1
                    self._fleet.refused()
        if not refused:
            return wire.ExportMetricsServiceResponse()
        reasons = "; ".join(f"{reason} ({number})" for reason, number in refused.most_common(_TOLD))
        self._log.warning("metrics refused", device=device_id, points=refused.total(), reasons=reasons)
        return wire.ExportMetricsServiceResponse(
            partial_success=wire.ExportMetricsPartialSuccess(
                rejected_data_points=refused.total(), error_message=reasons
            )
        )


def _points(metric: metrics_pb2.Metric) -> Iterable[Any]:
    kind = metric.WhichOneof("data")
    return getattr(metric, kind).data_points if kind else ()


def _size(metric: metrics_pb2.Metric) -> int:
    return len(list(_points(metric)))


def _texts(attributes: Iterable[common_pb2.KeyValue]) -> Mapping[str, str]:
    """The attributes that are texts."""
    return {a.key: a.value.string_value for a in attributes if a.value.WhichOneof("value") == "string_value"}


def _point(metric: metrics_pb2.Metric, data: Any) -> Point:
    """The wire's point as a value.

    Raises:
        RefusedPoint: it is of a kind that is not added up.
    """
    kind = metric.WhichOneof("data")
    labels = labelled(metric.name, _texts(data.attributes))
    if kind not in ("sum", "histogram"):
        raise RefusedPoint(f"a {kind} is not taken, send sums and histograms with explicit buckets")
    if getattr(metric, kind).aggregation_temporality != _CUMULATIVE:
        raise RefusedPoint("only cumulative temporality is taken, set the exporter's preference to cumulative")
    if kind == "histogram":
        if data.count != sum(data.bucket_counts):
            raise RefusedPoint("a histogram's parts do not fit together")
        return Point(
            metric.name,
            labels,
            data.start_time_unix_nano,
            data.time_unix_nano,
            (*map(float, data.bucket_counts), data.sum),
            tuple(data.explicit_bounds),
        )
    if not metric.sum.is_monotonic:
        raise RefusedPoint("a sum that may fall is not taken")
    value = float(data.as_int) if data.WhichOneof("value") == "as_int" else data.as_double
    return Point(metric.name, labels, data.start_time_unix_nano, data.time_unix_nano, (value,))
