"""What the agent counts, and for whom: Prometheus, OpenTelemetry, and the plane's health windows.

- Prometheus metrics live in a registry of their own, served on loopback.
- OpenTelemetry starts only where its standard environment variables or ``--otlp plane`` ask for it. Metrics are
  cumulative, with explicit buckets: an outage of the collector loses nothing.
- No picture, no box and no score of a single face leaves this module; they are counted.

Example::

    telemetry = Telemetry(counts, otel=otel_wanted(os.environ))
    with telemetry.served("127.0.0.1:0") as address: ...
    telemetry.frame(record)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from edge_agent.updates.windows import Counts
from maskfleet.errors import InvalidInputError, UnavailableError
from maskfleet.logs import get_logger

if TYPE_CHECKING:
    from edge_agent.pipeline import FrameRecord

_log = get_logger(__name__)
STAGE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.033, 0.05, 0.066, 0.1, 0.25, 0.5, 1.0, 2.5)
_METER = "maskfleet.edge_agent"


class Instruments(Protocol):
    """Somewhere else that counts go."""

    def frame(
        self, outcome: str, reason: str, stages_s: Mapping[str, float], *, release: str = "", target: str = ""
    ) -> None:
        """A frame is done, by this release on this target; both are empty where there was none."""
        ...

    def swap(self, result: str) -> None:
        """A release was put in place or taken back."""
        ...

    def close(self) -> None:
        """Sends what is left."""
        ...


@dataclasses.dataclass(frozen=True)
class PlaneReceiver:
    """The OTLP receiver of the device's plane.

    Attributes:
        address: of the plane.
        credential: gives the device's credential; empty as long as it has none.
    """

    address: str
    credential: Callable[[], str]


class Telemetry:
    """Counts frames and swaps for everybody who wants to know. Safe to use from several threads.

    Args:
        counts: of the health windows.
        otel: OpenTelemetry's instruments; None where they are not wanted.
    """

    def __init__(self, counts: Counts, otel: Instruments | None = None) -> None:
        self.registry = CollectorRegistry()
        self._counts = counts
        self._otel = otel
        self._frames = Counter(
            "maskfleet_frames", "Frames by what was done with them", ["outcome", "reason"], registry=self.registry
        )
        self._stages = Histogram(
            "maskfleet_stage_seconds",
            "Time by stage of masking",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self._swaps = Counter(
            "maskfleet_engine_swaps", "Releases put in place or taken back", ["result"], registry=self.registry
        )
        self._release = Gauge(
            "maskfleet_release_info", "The release that serves", ["release", "target"], registry=self.registry
        )

    def frame(self, record: FrameRecord) -> None:
        """A frame is done."""
        outcome, reason = record.outcome.name, record.reason.name
        stages = {stage.name: seconds for stage, seconds in record.stages_s.items()}
        self._frames.labels(outcome, reason).inc()
        for stage, seconds in stages.items():
            self._stages.labels(stage).observe(seconds)
        self._counts.frame(
            record.release_id,
            outcome=outcome,
            reason=reason,
            stages_ms={stage: seconds * 1000 for stage, seconds in stages.items()},
            scores=record.scores,
        )
        if self._otel is not None:
            self._otel.frame(outcome, reason, stages, release=record.release_id, target=record.target)

    def noted(self, what: str, result: str) -> None:
        """Something happened to a release: ``engine_load``, ``self_test``, ``swap`` or ``update``, and how it ended."""
        self._counts.noted(what, result)
        if what == "swap":
            self._swaps.labels(result).inc()
            if self._otel is not None:
                self._otel.swap(result)

    def release(self, release: str, target: str) -> None:
        """This release serves; none where it is empty."""
        self._release.clear()
        if release:
            self._release.labels(release, target).set(1)

    @contextlib.contextmanager
    def served(self, address: str) -> Iterator[str]:
        """Serves ``/metrics`` for the block; gives the address with its port.

        Raises:
            InvalidInputError: it is no ``host:port``.
            UnavailableError: nothing can listen there.
        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidInputError(f"{address!r} is no address for metrics", remedy="give host:port")
        try:
            server, thread = start_http_server(int(port), addr=host.strip("[]"), registry=self.registry)
        except (OSError, OverflowError) as error:
            raise UnavailableError(
                f"metrics cannot be served on {address} ({error})", remedy="choose another --metrics-listen"
            ) from None
        try:
            yield f"{host}:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(1)

    def close(self) -> None:
        """Sends what is left to OpenTelemetry, where it is wanted."""
        if self._otel is not None:
            self._otel.close()


def otel_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the standard environment variables ask for metrics by OTLP."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_METRICS_EXPORTER", "").strip().lower()
    if exporter:
        return "otlp" in exporter.split(",")
    return any(
        environ.get(name, "").strip() for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    )


def otel_instruments(
    device_id: str, boot_id: str, version: str, *, plane: PlaneReceiver | None = None, reader: Any = None
) -> Instruments:
    """OpenTelemetry's instruments; the SDK reads endpoint, headers and interval from its own environment variables.

    Args:
        device_id: the resource's ``service.instance.id``, unless the environment says another.
        boot_id: of this run.
        version: of the agent.
        plane: where they go to the device's own plane.
        reader: where metrics go instead of OTLP over gRPC.

    Raises:
        InvalidInputError: the packages are missing, or the variables are wrong.
    """
    try:
        from edge_agent.otel import OtelInstruments
    except ImportError as error:
        raise InvalidInputError(
            f"OpenTelemetry is asked for and cannot be imported ({error})",
            remedy="install maskfleet[agent], or set OTEL_SDK_DISABLED=true",
        ) from None
    return OtelInstruments(_METER, device_id, boot_id, version, buckets=STAGE_BUCKETS_S, plane=plane, reader=reader)
