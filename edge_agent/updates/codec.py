"""Between the wire's messages and the values of :mod:`edge_agent.updates.messages`."""

from __future__ import annotations

from edge_agent.updates.messages import (
    Ack,
    Buckets,
    Desired,
    Facts,
    FromDevice,
    FromPlane,
    Hello,
    Report,
    Welcome,
    Window,
)
from edge_agent.updates.reconcile import State
from maskfleet.v1 import devices_pb2, devices_service_pb2

_STATES = {
    State.EMPTY: devices_pb2.COMPONENT_STATE_EMPTY,
    State.DOWNLOADING: devices_pb2.COMPONENT_STATE_DOWNLOADING,
    State.VERIFYING: devices_pb2.COMPONENT_STATE_VERIFYING,
    State.LOADING: devices_pb2.COMPONENT_STATE_LOADING,
    State.TESTING: devices_pb2.COMPONENT_STATE_TESTING,
    State.SOAKING: devices_pb2.COMPONENT_STATE_SOAKING,
    State.COMMITTED: devices_pb2.COMPONENT_STATE_COMMITTED,
    State.REVERTED: devices_pb2.COMPONENT_STATE_REVERTED,
}
COMPONENTS = ("engine", "policy")
"""Both come with a release, and so they move together."""


def facts_message(facts: Facts) -> devices_pb2.DeviceFacts:
    """Facts for the wire."""
    return devices_pb2.DeviceFacts(
        os=facts.os,
        arch=facts.arch,
        gpu=facts.gpu,
        compute_capability=facts.compute_capability,
        jetpack=facts.jetpack,
        runtimes=dict(facts.runtimes),
        agent_version=facts.agent_version,
        targets=facts.targets,
        driver=facts.driver,
        target_note=facts.target_note,
    )


def report_message(report: Report) -> devices_pb2.StateReport:
    """A report for the wire."""
    return devices_pb2.StateReport(
        generation=report.generation,
        components=[
            devices_pb2.ReportedComponent(
                name=name,
                state=_STATES[report.state],
                release_id=report.release_id,
                release_digest=report.release_digest,
                serving_release_id=report.serving_release_id,
                reason=report.reason,
                bytes_done=report.bytes_done if name == "engine" else 0,
                bytes_total=report.bytes_total if name == "engine" else 0,
                target=report.target,
            )
            for name in COMPONENTS
        ],
    )


def window_message(window: Window) -> devices_pb2.HealthWindow:
    """A health window for the wire and for the disk."""
    return devices_pb2.HealthWindow(
        boot_id=window.boot_id,
        sequence=window.sequence,
        start_monotonic_ns=window.start_monotonic_ns,
        end_monotonic_ns=window.end_monotonic_ns,
        release_id=window.release_id,
        frames_by_outcome=dict(window.frames_by_outcome),
        errors_by_kind=dict(window.errors_by_kind),
        latency_ms_by_stage={stage: _histogram(b) for stage, b in window.latency_ms_by_stage.items()},
        detections=window.detections,
        confidence=_histogram(window.confidence),
        engine_loads_by_result=dict(window.engine_loads_by_result),
        self_tests_by_result=dict(window.self_tests_by_result),
        starts=window.starts,
        temperatures_c=dict(window.temperatures_c),
        guard_actions_by_reason=dict(window.guard_actions_by_reason),
    )


def window_from(message: devices_pb2.HealthWindow) -> Window:
    """The reverse of :func:`window_message`."""
    return Window(
        boot_id=message.boot_id,
        sequence=message.sequence,
        start_monotonic_ns=message.start_monotonic_ns,
        end_monotonic_ns=message.end_monotonic_ns,
        release_id=message.release_id,
        frames_by_outcome=dict(message.frames_by_outcome),
        errors_by_kind=dict(message.errors_by_kind),
        latency_ms_by_stage={stage: _buckets(h) for stage, h in message.latency_ms_by_stage.items()},
        detections=message.detections,
        confidence=_buckets(message.confidence),
        engine_loads_by_result=dict(message.engine_loads_by_result),
        self_tests_by_result=dict(message.self_tests_by_result),
        guard_actions_by_reason=dict(message.guard_actions_by_reason),
        starts=message.starts,
        temperatures_c=dict(message.temperatures_c),
    )


def request(said: FromDevice) -> devices_service_pb2.ConnectRequest:
    """A device's message for the wire."""
    if isinstance(said, Hello):
        hello = devices_pb2.Hello(
            agent_version=said.facts.agent_version,
            protocol_version=said.protocol_version,
            features=said.features,
            facts=facts_message(said.facts),
            boot_id=said.boot_id,
            report=report_message(said.report),
        )
        return devices_service_pb2.ConnectRequest(hello=hello)
    if isinstance(said, Report):
        return devices_service_pb2.ConnectRequest(report=report_message(said))
    return devices_service_pb2.ConnectRequest(health=window_message(said))


def said_by_plane(message: devices_service_pb2.ConnectResponse) -> FromPlane | None:
    """A plane's message as a value; None for a kind that this version does not know."""
    kind = message.WhichOneof("kind")
    if kind == "welcome":
        welcome = message.welcome
        return Welcome(
            welcome.plane_version, welcome.protocol_version, tuple(welcome.features), welcome.report_interval_s
        )
    if kind == "desired":
        desired = message.desired
        return Desired(desired.generation, desired.assignment, desired.manifest, desired.correlation_id)
    if kind == "health_ack":
        return Ack(message.health_ack.boot_id, message.health_ack.sequence)
    return None


def _histogram(buckets: Buckets) -> devices_pb2.Histogram:
    return devices_pb2.Histogram(bounds=buckets.bounds, counts=buckets.counts, sum=buckets.sum)


def _buckets(message: devices_pb2.Histogram) -> Buckets:
    return Buckets(tuple(message.bounds), tuple(message.counts), message.sum)
