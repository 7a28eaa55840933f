"""How builds end, as their builders tell it; and whether what they tell can be true.

Rules
- A report names backend, runtime version and what passed the gate: a manifest needs them. Whatever else it lacks is not
  held against it: an older builder says less.
- What it does say must be the lease's: target, model and decoder of its spec, backend and version of the target's
  runtime, a number format that was asked for, the engine that was uploaded.
- An engine that was found in the cache may be of another file of the same model: one that prepares to the same. So the
  file is compared only where the engine was built for this very lease.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from control_plane.domain.release import Build, Release
from maskfleet.errors import InvalidInputError, PreconditionError
from maskfleet.manifest import VerifiedOn
from maskfleet.targets import target

AUTO = "auto"
"""A precision that is asked for: the fastest that passes the gate."""

MAX_REPORT = 1 << 20
_RTX = "tensorrt-rtx"
_RTX_MAGIC = b"vtrt"
_RTX_HEADER = 64  # bytes


@dataclasses.dataclass(frozen=True)
class Success:
    """A build that worked. The fields are those of the wire's ``BuildSuccess``; an older builder leaves out the last
    two.
    """

    engine_digest: str
    engine_size_bytes: int
    cache_key: str
    report_json: str
    cached: bool
    recipe: str = ""
    precision: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A build that did not."""

    kind: str
    reason: str
    retryable: bool


@dataclasses.dataclass(frozen=True)
class EngineFacts:
    """What a manifest needs of a report.

    Attributes:
        backend: what runs the engine.
        runtime_version: that it was built with.
        verified_on: what passed the gate.
    """

    backend: str
    runtime_version: str
    verified_on: VerifiedOn


def engine_facts(report_json: str) -> EngineFacts:
    """What a manifest needs of a builder's report.

    Raises:
        InvalidInputError: it is no JSON object, or lacks something.
    """
    said = _read(report_json)
    try:
        return EngineFacts(str(said["backend"]), str(said["runtime_version"]), VerifiedOn(said["verified_on"]))
    except (ValueError, KeyError):
        raise InvalidInputError(
            "the build's report names no backend, runtime_version and verified_on", remedy="update the builder"
        ) from None


def _read(report_json: str) -> dict[str, Any]:
    try:
        said = json.loads(report_json)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise InvalidInputError("the build's report is no JSON object", remedy="update the builder")
    return said


def _part(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = said.get(name)
    return found if isinstance(found, dict) else {}


def checked(success: Success, release: Release, build: Build, engine: Path) -> Success:
    """The success, complete, if it can be what the lease asked for.

    Args:
        success: as the builder says it.
        release: that it is for.
        build: that it is for.
        engine: the file that was uploaded.

    Raises:
        PreconditionError: something that is said is not the lease's, or not so.
        InvalidInputError: the report cannot be read.
    """
    if len(success.report_json) > MAX_REPORT:
        raise InvalidInputError(
            f"the build's report has {len(success.report_json)} characters", remedy=f"say it in {MAX_REPORT}"
        )
    said, facts, entry = _read(success.report_json), engine_facts(success.report_json), target(build.target)
    spec, told = _part(said, "spec"), _part(said, "engine")
    pairs: list[tuple[str, Any, Any]] = [
        ("target", spec.get("target"), build.target),
        ("decoder", spec.get("decoder"), release.decoder),
        ("backend", facts.backend, entry.backend),
        ("engine", told.get("digest"), success.engine_digest),
        ("engine's size", told.get("size_bytes"), success.engine_size_bytes),
        ("engine's size", engine.stat().st_size, success.engine_size_bytes),
    ]
    if not success.cached:
        pairs += [(name, values.get("model_digest"), release.model_digest) for name, values in
                  (("model", spec), ("model", said))]  # fmt: skip
    for name, found, due in pairs:
        if found is not None and found != due:
            raise _untrue(build, f"its {name} is {found}, {due} is due")
    if not facts.runtime_version.startswith(entry.version):
        raise _untrue(build, f"{entry.distribution} {facts.runtime_version} built it, {entry.version} is due")
    precision = _precision(success, said, release)
    known = entry.precisions if release.precision == AUTO else (release.precision,)
    if precision not in known:
        raise _untrue(build, f"its precision is {precision or 'not said'}, {' or '.join(known)} is due")
    if entry.backend == _RTX and not _whole_rtx(engine):
        raise _untrue(build, f"what was uploaded is no whole engine of {entry.backend}")
    return dataclasses.replace(success, precision=precision)


def _precision(success: Success, said: Mapping[str, Any], release: Release) -> str:
    if success.precision:
        return success.precision
    found = said.get("precision")
    if isinstance(found, dict):
        found = found.get("format")
    return str(found) if found else "" if release.precision == AUTO else release.precision


def _whole_rtx(engine: Path) -> bool:
    """A look at the header, as it was observed: magic, and the size of what follows."""
    with engine.open("rb") as file:
        head = file.read(_RTX_HEADER)
    size = int.from_bytes(head[16:24], "little")
    return len(head) == _RTX_HEADER and head[:4] == _RTX_MAGIC and size <= engine.stat().st_size


def _untrue(build: Build, why: str) -> PreconditionError:
    return PreconditionError(
        f"the report of build {build.id} is not what was leased: {why}",
        remedy="check the builder's installation, or stop it",
    )
