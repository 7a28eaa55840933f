"""What the agent counts, for Prometheus and for OpenTelemetry, and when the latter is wanted."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from edge_agent.masking.outcomes import Outcome, Reason, Stage
from edge_agent.pipeline import FrameRecord
from edge_agent.telemetry import Telemetry, otel_instruments, otel_wanted
from edge_agent.updates.windows import Counts
from maskfleet.errors import InvalidInputError, UnavailableError

RECORD = FrameRecord(
    Outcome.MASKED, Reason.DETECTED, {Stage.INFER: 0.012, Stage.TOTAL: 0.02}, 1, (0.9,), "r-1", "ort-cpu"
)


def telemetry() -> Telemetry:
    return Telemetry(Counts("boot-1", starts=1, start_ns=0))


def test_metrics_say_what_was_done_and_what_serves() -> None:
    mine = telemetry()
    mine.frame(RECORD)
    mine.noted("swap", "swapped")
    mine.release("r-1", "ort-cpu")
    mine.release("r-2", "ort-cpu")
    with mine.served("127.0.0.1:0") as address:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    for line in (
        'maskfleet_frames_total{outcome="MASKED",reason="DETECTED"} 1.0',
        'maskfleet_stage_seconds_bucket{le="0.015",stage="INFER"} 1.0',
        'maskfleet_engine_swaps_total{result="swapped"} 1.0',
        'maskfleet_release_info{release="r-2",target="ort-cpu"} 1.0',
    ):
        assert line in text
    assert "r-1" not in text


def test_two_agents_in_one_process_do_not_share_their_counts() -> None:
    one, other = telemetry(), telemetry()
    one.frame(RECORD)
    labels = {"outcome": "MASKED", "reason": "DETECTED"}
    assert one.registry.get_sample_value("maskfleet_frames_total", labels) == 1.0
    assert other.registry.get_sample_value("maskfleet_frames_total", labels) is None


def test_an_address_that_is_none_or_taken_is_refused() -> None:
    for address in ("nowhere", "127.0.0.1:"):
        with pytest.raises(InvalidInputError), telemetry().served(address):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError, match="another --metrics-listen"):
            with telemetry().served(f"127.0.0.1:{taken.getsockname()[1]}"):
                pass


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, True),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_METRICS_EXPORTER": "otlp"}, False),
    ],
)
def test_opentelemetry_runs_only_where_its_variables_ask_for_it(environ: dict[str, str], wanted: bool) -> None:
    assert otel_wanted(environ) is wanted


def test_opentelemetry_gets_cumulative_counts_with_explicit_buckets() -> None:
    pytest.importorskip("opentelemetry.sdk.metrics")
    from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

    reader = InMemoryMetricReader()
    mine = Telemetry(Counts("boot-1", starts=1, start_ns=0), otel_instruments("d-1", "boot-1", "0.1.0", reader=reader))
    for _ in range(3):
        mine.frame(RECORD)
        reader.collect()
    mine.noted("swap", "reverted")
    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    assert resource.resource.attributes["service.instance.id"] == "d-1"
    metrics = {metric.name: metric.data for metric in resource.scope_metrics[0].metrics}
    frames, stages = metrics["maskfleet.frames"], metrics["maskfleet.stage.duration"]
    assert frames.data_points[0].value == 3
    assert frames.data_points[0].attributes == {
        "outcome": "MASKED", "reason": "DETECTED", "release": "r-1", "target": "ort-cpu",
    }  # fmt: skip
    assert frames.aggregation_temporality is AggregationTemporality.CUMULATIVE  # type: ignore[union-attr]  # a sum
    assert {point.attributes["stage"]: point.count for point in stages.data_points} == {"INFER": 3, "TOTAL": 3}
    assert len(stages.data_points[0].explicit_bounds) == 15
    assert metrics["maskfleet.engine.swaps"].data_points[0].attributes == {"result": "reverted"}
    mine.close()
