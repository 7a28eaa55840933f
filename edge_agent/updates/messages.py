"""What a device and its plane say to each other, as values. :mod:`edge_agent.updates.codec` puts them on the wire."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from edge_agent.updates.reconcile import State


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a device is made of; texts are empty where there is nothing to say.

    Attributes:
        os: as ``debian 12``.
        arch: as ``x86_64``.
        gpu: name of the GPU.
        compute_capability: as ``SM86``.
        jetpack: JetPack release.
        runtimes: versions by name.
        agent_version: of this package.
        targets: what it can run, best first.
        driver: version of NVIDIA's driver.
        target_note: why the GPU is not used; empty where there is nothing to say.
    """

    os: str
    arch: str
    gpu: str
    compute_capability: str
    jetpack: str
    runtimes: Mapping[str, str]
    agent_version: str
    targets: tuple[str, ...]
    driver: str = ""
    target_note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """Where a device stands.

    Attributes:
        generation: that it works on or has settled.
        state: how far it has come.
        release_id: worked on, or serving when settled.
        release_digest: its digest.
        serving_release_id: what serves now; empty where nothing does.
        target: of the engine.
        reason: why it was refused or waits; empty otherwise.
        bytes_done: downloaded.
        bytes_total: to be downloaded.
    """

    generation: int = 0
    state: State = State.EMPTY
    release_id: str = ""
    release_digest: str = ""
    serving_release_id: str = ""
    target: str = ""
    reason: str = ""
    bytes_done: int = 0
    bytes_total: int = 0


@dataclasses.dataclass(frozen=True)
class Hello:
    """The device's first message."""

    protocol_version: int
    features: tuple[str, ...]
    facts: Facts
    boot_id: str
    report: Report


@dataclasses.dataclass(frozen=True)
class Welcome:
    """The plane's first message; the interval is in seconds, 0 for the device's own."""

    plane_version: str
    protocol_version: int
    features: tuple[str, ...]
    report_interval_s: int


@dataclasses.dataclass(frozen=True)
class Desired:
    """What the plane wants: two envelopes, not verified yet; both are empty where it wants nothing.

    The correlation id names the action behind it in logs, and nothing else.
    """

    generation: int
    assignment: bytes
    manifest: bytes
    correlation_id: str = ""


@dataclasses.dataclass(frozen=True)
class Ack:
    """Windows of a boot up to a sequence are in the plane's store."""

    boot_id: str
    sequence: int


@dataclasses.dataclass(frozen=True)
class Buckets:
    """A histogram: rising upper bounds, one count more than bounds, and the sum of what was observed."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclasses.dataclass(frozen=True)
class Window:
    """A device's counts and histograms for one release over one interval; fields as in the wire's ``HealthWindow``."""

    boot_id: str
    sequence: int
    start_monotonic_ns: int
    end_monotonic_ns: int
    release_id: str
    frames_by_outcome: Mapping[str, int]
    errors_by_kind: Mapping[str, int]
    latency_ms_by_stage: Mapping[str, Buckets]
    detections: int
    confidence: Buckets
    engine_loads_by_result: Mapping[str, int]
    self_tests_by_result: Mapping[str, int]
    guard_actions_by_reason: Mapping[str, int]
    starts: int
    temperatures_c: Mapping[str, float]


FromDevice = Hello | Report | Window
FromPlane = Welcome | Desired | Ack
