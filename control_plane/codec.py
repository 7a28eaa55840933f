"""Between the wire's messages and the plane's values. Nothing else on this floor sees both."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from control_plane.builds import Shown
from control_plane.domain.builder import Builder
from control_plane.domain.cohort import Cohort
from control_plane.domain.device import Assignment, Component, ComponentState, Device, Facts, Report
from control_plane.domain.event import Event
from control_plane.domain.health import Histogram, Window
from control_plane.domain.judge import Verdict
from control_plane.domain.release import Build, BuildState, Known, Model, Release, ReleaseState, Verification
from control_plane.domain.rollout import MemberState, RolloutState
from control_plane.links import Ack, Desired
from maskfleet.codec import PRECISIONS, margins_message, policy_message
from maskfleet.errors import InvalidInputError
from maskfleet.v1 import (
    builds_pb2,
    builds_service_pb2,
    decisions_pb2,
    devices_pb2,
    devices_service_pb2,
    events_service_pb2,
    models_service_pb2,
    releases_service_pb2,
    rollouts_service_pb2,
)

_E = TypeVar("_E", bound=enum.Enum)

ENUMS: dict[type[enum.Enum], tuple[Any, str]] = {
    ComponentState: (devices_pb2.ComponentState, "COMPONENT_STATE_"),
    BuildState: (builds_pb2.BuildState, "BUILD_STATE_"),
    Verification: (builds_pb2.Verification, "VERIFICATION_"),
    ReleaseState: (releases_service_pb2.ReleaseState, "RELEASE_STATE_"),
    RolloutState: (rollouts_service_pb2.RolloutState, "ROLLOUT_STATE_"),
    MemberState: (rollouts_service_pb2.RolloutDeviceState, "ROLLOUT_DEVICE_STATE_"),
    Cohort: (decisions_pb2.Cohort, "COHORT_"),
    Verdict: (decisions_pb2.Verdict, "VERDICT_"),
}
"""Domain states carry the wire's names: wire type and prefix by domain type."""

_MANY = 256  # versions, targets, calibration sets of a builder

COMPONENTS = ("engine", "policy")
"""What a release consists of on a device; both move together."""


def wire_state(state: enum.Enum) -> Any:
    """A domain state as the wire's number."""
    wire, prefix = ENUMS[type(state)]
    return wire.Value(prefix + str(state.value))


def domain_state(cls: type[_E], number: int) -> _E:
    """The wire's number as a domain state; one that this version does not know is UNSPECIFIED."""
    wire, prefix = ENUMS[cls]
    name = wire.Name(number) if number in wire.values() else prefix + "UNSPECIFIED"
    return cls(name.removeprefix(prefix))


def precision_from(number: int) -> str:
    """Name of a number format; fp32 where none is said.

    Raises:
        InvalidInputError: this version does not know it.
    """
    if number == builds_pb2.PRECISION_UNSPECIFIED:
        return "fp32"
    if number not in PRECISIONS:
        raise InvalidInputError(
            f"there is no precision {number}", remedy=f"use one of {', '.join(PRECISIONS.values())}"
        )
    return PRECISIONS[number]  # type: ignore[index]  # checked above


def precision_message(name: str) -> Any:
    """A number format by its name; UNSPECIFIED for none."""
    return next((number for number, known in PRECISIONS.items() if known == name), builds_pb2.PRECISION_UNSPECIFIED)


def content(message: Message) -> bytes:
    """A create's request without its id: the same bytes for the same request."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField("request_id")
    return copy.SerializeToString(deterministic=True)


def span(message: Duration) -> timedelta:
    """A duration."""
    return timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def timestamp(when: datetime | None) -> Timestamp | None:
    """A time."""
    if when is None:
        return None
    message = Timestamp()
    message.FromDatetime(when)
    return message


def facts_from(message: devices_pb2.DeviceFacts) -> Facts:
    """What a device is made of."""
    return Facts(
        os=message.os,
        arch=message.arch,
        gpu=message.gpu,
        compute_capability=message.compute_capability,
        jetpack=message.jetpack,
        runtimes=dict(message.runtimes),
        agent_version=message.agent_version,
        targets=tuple(message.targets),
        driver=message.driver[:64],
        target_note=message.target_note[:1000],
    )


def builder_from(message: builds_service_pb2.BuilderFacts) -> Builder:
    """What a builder says of itself; it is cut to a sane length."""

    def cut(said: Mapping[str, str]) -> dict[str, str]:
        return {k[:128]: v[:128] for k, v in sorted(said.items())[:_MANY]}

    return Builder(
        id=message.builder_id[:128],
        targets=frozenset(message.targets[:_MANY]),
        versions=cut(message.versions),
        machine=facts_from(message.machine) if message.machine.arch else None,
        calibration_sets=cut(message.calibration_sets),
    )


def report_from(message: devices_pb2.StateReport) -> Report:
    """What a device says of itself; texts are cut to a sane length."""
    return Report(
        generation=message.generation,
        components=tuple(
            Component(
                name=c.name[:64],
                state=domain_state(ComponentState, c.state),
                release_id=c.release_id[:64],
                release_digest=c.release_digest[:128],
                serving_release_id=c.serving_release_id[:64],
                reason=c.reason[:1000],
                bytes_done=c.bytes_done,
                bytes_total=c.bytes_total,
                target=c.target[:64],
            )
            for c in message.components[:16]
        ),
    )


def window_from(message: devices_pb2.HealthWindow) -> Window:
    """A health window."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Window):
        value = getattr(message, field.name)
        if field.name == "latency_ms_by_stage":
            value = {stage: _histogram(h) for stage, h in value.items()}
        elif field.name == "confidence":
            value = _histogram(value)
        elif hasattr(value, "items"):
            value = dict(value)
        values[field.name] = value
    return Window(**values)


def _histogram(message: devices_pb2.Histogram) -> Histogram:
    return Histogram(tuple(message.bounds), tuple(message.counts), message.sum)


def to_device(item: Desired | Ack) -> devices_service_pb2.ConnectResponse:
    """What goes down a device's stream."""
    if isinstance(item, Ack):
        return devices_service_pb2.ConnectResponse(
            health_ack=devices_pb2.HealthAck(boot_id=item.boot_id, sequence=item.sequence)
        )
    return devices_service_pb2.ConnectResponse(
        desired=devices_pb2.DesiredState(
            assignment=item.assignment,
            manifest=item.manifest,
            generation=item.generation,
            components=_components(item.release_id, item.release_digest),
            correlation_id=item.correlation_id,
        )
    )


def _components(release_id: str, digest: str) -> list[devices_pb2.DesiredComponent]:
    if not release_id:
        return []
    return [
        devices_pb2.DesiredComponent(name=name, release_id=release_id, release_digest=digest) for name in COMPONENTS
    ]


def device_message(
    device: Device, *, online: bool, assignment: Assignment | None, digest: str = "", health: str = ""
) -> devices_pb2.Device:
    """A device as operators see it.

    Args:
        device: as it is.
        online: its stream is open.
        assignment: what is wanted of it; None for nothing.
        digest: digest of that release.
        health: its newest health window in a line; empty where there is none.
    """
    facts, report = device.facts, device.report
    return devices_pb2.Device(
        id=device.id,
        name=device.name,
        labels=dict(device.labels),
        facts=devices_pb2.DeviceFacts(**dataclasses.asdict(facts)),
        online=online,
        last_seen=timestamp(device.last_seen),
        reported=devices_pb2.StateReport(
            generation=report.generation,
            components=[
                devices_pb2.ReportedComponent(**dataclasses.asdict(c) | {"state": wire_state(c.state)})
                for c in report.components
            ],
        ),
        desired=_components(assignment.release_id, digest) if assignment else [],
        desired_generation=assignment.generation if assignment else 0,
        enrol_time=timestamp(device.enrolled),
        health=health,
    )


def model_message(model: Model) -> models_service_pb2.Model:
    """A model version."""
    return models_service_pb2.Model(
        name=model.name,
        version=model.version,
        decoder=model.decoder,
        artifact_digest=model.artifact_digest,
        size_bytes=model.size_bytes,
        source_uri=model.source_uri,
        inputs=[models_service_pb2.TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in model.inputs],
        outputs=[models_service_pb2.TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in model.outputs],
        create_time=timestamp(model.created),
        description=model.description,
        input_width=model.input_width,
        input_height=model.input_height,
        resizable=model.resizable,
    )


def build_message(release: Release, build: Build, known: Known | None = None) -> builds_pb2.Build:
    """A build with its work, and with what is known of it beyond its record."""
    known = known or Known()
    return builds_pb2.Build(
        id=build.id,
        release_id=build.release_id,
        spec=builds_pb2.BuildSpec(
            model_name=release.model_name,
            model_version=release.model_version,
            model_digest=release.model_digest,
            decoder=release.decoder,
            target=build.target,
            precision=precision_message(release.precision),
            input_width=release.input_width,
            input_height=release.input_height,
            min_confidence=release.policy.min_confidence,
            margins=margins_message(release.margins),
            calibration=release.calibration,
            nms_iou=release.policy.nms_iou,
            workspace_mb=release.workspace_mb,
        ),
        state=wire_state(build.state),
        phase=build.phase,
        progress=build.progress,
        reason=build.reason,
        attempts=build.attempts,
        engine_digest=build.engine_digest,
        engine_size_bytes=build.engine_size_bytes,
        report_json=build.report_json,
        cached=build.cached,
        builder_id=build.builder_id,
        end_time=timestamp(build.ended),
        log_tail=build.log_tail,
        precision=precision_message(build.precision),
        verification=wire_state(known.verification),
        verified_by=known.verified_by,
        missing_builder=known.missing_builder,
        correlation_id=release.correlation_id,
    )


def success_message(build: Build) -> builds_service_pb2.BuildSuccess:
    """How an earlier build ended, for a builder that is about to do the same."""
    return builds_service_pb2.BuildSuccess(
        engine_digest=build.engine_digest,
        engine_size_bytes=build.engine_size_bytes,
        cache_key=build.cache_key,
        report_json=build.report_json,
        cached=True,
        recipe=build.recipe,
        precision=precision_message(build.precision),
    )


def release_message(shown: Shown, *, whole: bool = True) -> releases_service_pb2.Release:
    """A release; in lists without manifest, reports and logs."""
    release = shown.release
    messages = [build_message(release, build, shown.known.get(build.id)) for build in shown.builds]
    if not whole:
        for message in messages:
            message.ClearField("log_tail")
            message.ClearField("report_json")
    return releases_service_pb2.Release(
        id=release.id,
        state=wire_state(release.state),
        model_name=release.model_name,
        model_version=release.model_version,
        policy=policy_message(release.policy),
        builds=messages,
        manifest_digest=release.manifest_digest,
        manifest=release.manifest if whole else b"",
        reason=release.reason,
        create_time=timestamp(release.created),
        counter=release.counter,
        margins=margins_message(release.margins),
        calibration=release.calibration,
    )


def event_message(event: Event) -> events_service_pb2.Event:
    """An event for operators."""
    return events_service_pb2.Event(
        number=event.number,
        time=timestamp(event.time),
        kind=event.kind,
        subject=event.subject,
        text=event.text,
        actor=event.actor,
    )
