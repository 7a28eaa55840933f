"""Models, releases and their builds, and how they move: two tables.

A release is BUILDING until every build SUCCEEDED (READY) or one did not (FAILED). A build is leased to a builder; a
lease that ends without a word gives the work back, and the third attempt is the last.

>>> lease(build, lease_id="l-1", builder_id="host/7", now=now).state
<BuildState.BUILDING: 'BUILDING'>
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from datetime import datetime, timedelta

from maskfleet.errors import PreconditionError
from maskfleet.gate import Margins
from maskfleet.manifest import VerifiedOn
from maskfleet.policy import MaskPolicy

MAX_ATTEMPTS = 3
LEASE_TTL = timedelta(seconds=30)
MAX_LOG_TAIL = 64 << 10


class ReleaseState(enum.Enum):
    """Where a release stands. Names are those of the wire."""

    BUILDING = "BUILDING"
    READY = "READY"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class ReleaseEvent(enum.Enum):
    """What moves a release."""

    ALL_BUILT = "every build succeeded"
    BUILD_FAILED = "a build failed"
    CANCEL = "an operator stops it"


RELEASE_TABLE: dict[tuple[ReleaseState, ReleaseEvent], ReleaseState] = {
    (ReleaseState.BUILDING, ReleaseEvent.ALL_BUILT): ReleaseState.READY,
    (ReleaseState.BUILDING, ReleaseEvent.BUILD_FAILED): ReleaseState.FAILED,
    (ReleaseState.BUILDING, ReleaseEvent.CANCEL): ReleaseState.CANCELED,
}


class BuildState(enum.Enum):
    """Where a build stands. Names are those of the wire."""

    QUEUED = "QUEUED"
    BUILDING = "BUILDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class BuildEvent(enum.Enum):
    """What moves a build."""

    LEASE = "a builder takes it"
    SUCCEED = "its engine passed"
    FAIL = "it cannot be built"
    GIVE_BACK = "the lease ended, or another try could help"
    CANCEL = "the release was stopped"


BUILD_TABLE: dict[tuple[BuildState, BuildEvent], BuildState] = {
    (BuildState.QUEUED, BuildEvent.LEASE): BuildState.BUILDING,
    (BuildState.QUEUED, BuildEvent.CANCEL): BuildState.CANCELED,
    (BuildState.BUILDING, BuildEvent.SUCCEED): BuildState.SUCCEEDED,
    (BuildState.BUILDING, BuildEvent.FAIL): BuildState.FAILED,
    (BuildState.BUILDING, BuildEvent.GIVE_BACK): BuildState.QUEUED,
    (BuildState.BUILDING, BuildEvent.CANCEL): BuildState.CANCELED,
}
UNFINISHED = frozenset({BuildState.QUEUED, BuildState.BUILDING})


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a model; a dimension is a number or a symbol, as text."""

    name: str
    dtype: str
    shape: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Model:
    """A version in the registry. The fields are those of the wire's ``Model``; ``number`` orders all versions."""

    name: str
    version: int
    number: int
    decoder: str
    artifact_digest: str
    size_bytes: int
    source_uri: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    input_width: int
    input_height: int
    resizable: bool
    created: datetime
    description: str = ""

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Width and height that the graph is made for; None where it works at any size."""
        return None if self.resizable else (self.input_width, self.input_height)


@dataclasses.dataclass(frozen=True)
class Release:
    """One model version, one policy, its engines.

    Attributes:
        id: ``r-`` and the counter.
        counter: grows with each release.
        state: where it stands.
        model_name: in the registry.
        model_version: in the registry.
        model_digest: of the ONNX file.
        decoder: how its outputs are read.
        precision: ``fp32``, ``fp16``, ``int8``, or ``auto`` for the fastest of them that passes the gate.
        input_width: of its engines, pixels.
        input_height: of its engines, pixels.
        policy: complete.
        targets: what it is built for.
        created: when.
        reason: why it failed.
        manifest: the signed manifest's envelope; empty until READY.
        manifest_digest: digest of its payload; empty until READY.
        margins: of the gate, complete.
        calibration: folder of pictures from which ranges for 8 bits are learnt; empty for the compiler's own.
        workspace_mb: scratch memory that TensorRT may plan with, in MiB; 0 for all that there is.
        logged: what its builds found is in the model registry, at the model that it is of.
        correlation_id: of the action that asked for it: its builds are logged under that.
    """

    id: str
    counter: int
    state: ReleaseState
    model_name: str
    model_version: int
    model_digest: str
    decoder: str
    precision: str
    input_width: int
    input_height: int
    policy: MaskPolicy
    targets: tuple[str, ...]
    created: datetime
    reason: str = ""
    manifest: bytes = b""
    manifest_digest: str = ""
    margins: Margins = Margins()
    calibration: str = ""
    workspace_mb: int = 0
    logged: bool = False
    correlation_id: str = ""

    def moved(self, event: ReleaseEvent, *, reason: str = "") -> Release:
        """The release after an event.

        Raises:
            PreconditionError: the table does not know this move.
        """
        state = RELEASE_TABLE.get((self.state, event))
        if state is None:
            raise PreconditionError(
                f"release {self.id} is {self.state.value}", remedy="only one that builds can change"
            )
        return dataclasses.replace(self, state=state, reason=reason)


@dataclasses.dataclass(frozen=True)
class Build:
    """One build of a release; most fields are those of the wire's ``Build``.

    Attributes:
        number: orders all builds; the oldest is leased first.
        lease_id: of the last lease, also after its end; empty before the first.
        lease_until: when that lease ends.
        precision: the number format of the engine; empty until it is built.
        cache_key: over what the engine is made of.
        recipe: over what went in before anything was computed.
    """

    id: str
    number: int
    release_id: str
    target: str
    state: BuildState = BuildState.QUEUED
    phase: str = ""
    progress: float = 0.0
    reason: str = ""
    attempts: int = 0
    builder_id: str = ""
    lease_id: str = ""
    lease_until: datetime | None = None
    engine_digest: str = ""
    engine_size_bytes: int = 0
    cache_key: str = ""
    report_json: str = ""
    cached: bool = False
    ended: datetime | None = None
    log_tail: str = ""
    precision: str = ""
    recipe: str = ""

    def moved(self, event: BuildEvent, **fields: object) -> Build:
        """The build after an event, with other fields changed.

        Raises:
            PreconditionError: the table does not know this move.
        """
        state = BUILD_TABLE.get((self.state, event))
        if state is None:
            raise PreconditionError(f"build {self.id} is {self.state.value}", remedy="drop the work and lease another")
        return dataclasses.replace(self, state=state, **fields)  # type: ignore[arg-type]  # checked by the dataclass


class Verification(enum.Enum):
    """What is known of an engine beyond its build. Names are those of the wire."""

    UNSPECIFIED = "UNSPECIFIED"
    ON_BUILDER = "ON_BUILDER"
    UNVERIFIED_ON_HARDWARE = "UNVERIFIED_ON_HARDWARE"
    ON_DEVICE = "ON_DEVICE"


@dataclasses.dataclass(frozen=True)
class EngineProof:
    """An engine that a device of its target has tested on golden frames and committed, the first one.

    Attributes:
        engine_digest: of which engine.
        target: that it is for.
        device_id: which device.
        device_name: its name, for people.
        release_id: with which it came.
        proven: when, by the plane's clock.
    """

    engine_digest: str
    target: str
    device_id: str
    device_name: str
    release_id: str
    proven: datetime


def verification(engine_digest: str, verified_on: VerifiedOn | None, proof: EngineProof | None) -> Verification:
    """What is known of an engine.

    Args:
        engine_digest: empty where it is not built yet.
        verified_on: what passed the gate on the builder; None where nobody knows.
        proof: by a device; None for none.
    """
    if not engine_digest:
        return Verification.UNSPECIFIED
    if verified_on is VerifiedOn.ENGINE:
        return Verification.ON_BUILDER
    return Verification.UNVERIFIED_ON_HARDWARE if proof is None else Verification.ON_DEVICE


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of a build beyond its record.

    Attributes:
        verification: of its engine.
        verified_by: the device that tested it; empty for none.
        missing_builder: which builder it waits for in vain, in a sentence; empty where one is there.
    """

    verification: Verification = Verification.UNSPECIFIED
    verified_by: str = ""
    missing_builder: str = ""


def lease(build: Build, *, lease_id: str, builder_id: str, now: datetime, ttl: timedelta = LEASE_TTL) -> Build:
    """The build, taken by a builder; ``ttl`` is how long it may be silent."""
    return build.moved(
        BuildEvent.LEASE,
        lease_id=lease_id,
        builder_id=builder_id,
        lease_until=now + ttl,
        attempts=build.attempts + 1,
        phase="",
        progress=0.0,
        reason="",
    )


def give_back(build: Build, *, reason: str, now: datetime) -> Build:
    """The build after a lease that brought nothing: queued again, or failed where it was the last attempt."""
    if build.attempts >= MAX_ATTEMPTS:
        return build.moved(BuildEvent.FAIL, reason=f"{reason} (attempt {build.attempts}, the last)", ended=now)
    return build.moved(BuildEvent.GIVE_BACK, reason=reason, phase="", progress=0.0, lease_until=None)


def expired(build: Build, now: datetime) -> bool:
    """Whether the builder has been silent for longer than its lease."""
    return build.state is BuildState.BUILDING and build.lease_until is not None and build.lease_until <= now


def next_event(builds: Iterable[Build]) -> tuple[ReleaseEvent, str] | None:
    """What a release's builds come to, with a reason; None while they go on."""
    listed = list(builds)
    for build in listed:
        if build.state is BuildState.FAILED:
            return ReleaseEvent.BUILD_FAILED, f"{build.target}: {build.reason}"
    if listed and all(build.state is BuildState.SUCCEEDED for build in listed):
        return ReleaseEvent.ALL_BUILT, ""
    return None
