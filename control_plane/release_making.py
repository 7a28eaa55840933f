"""Makes releases: which model, which targets, and why not; and, once everything is built, what their manifest says."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from datetime import datetime
from typing import Any

from control_plane.build_results import AUTO, engine_facts
from control_plane.domain.release import Build, Model, Release, ReleaseState
from control_plane.store.port import Reading, Writing
from maskfleet.decoding import decoder_spec, input_size
from maskfleet.errors import InternalError, InvalidInputError, NotFoundError
from maskfleet.gate import Margins
from maskfleet.ids import check_versioned
from maskfleet.logs import correlation_id
from maskfleet.manifest import EngineEntry, Manifest
from maskfleet.targets import target

MAX_WORKSPACE_MB = 1 << 20


@dataclasses.dataclass(frozen=True)
class NewRelease:
    """What an operator asks for; the model as ``name`` or ``name/version``, sizes 0 for the default."""

    model: str
    policy_changes: dict[str, Any]
    targets: tuple[str, ...]
    precision: str
    input_width: int
    input_height: int
    margins: Margins = Margins()
    calibration: str = ""
    workspace_mb: int = 0


def targets_of(wanted: NewRelease) -> tuple[str, ...]:
    """The targets of a release, each once, if what is asked for can be had on them.

    Raises:
        UnknownTargetError: no such target.
        InvalidInputError: no target, a precision that a target lacks, a calibration set that is none, too much scratch
            memory.
    """
    targets = tuple(dict.fromkeys(wanted.targets))
    if not targets:
        raise InvalidInputError("a release needs a target", remedy="name at least one, as ort-cpu")
    for name in targets:
        known = (*target(name).precisions, AUTO)
        if wanted.precision not in known:
            raise InvalidInputError(
                f"target {name} has no precision {wanted.precision}", remedy=f"use one of {', '.join(known)}"
            )
    if wanted.calibration:
        check_versioned("calibration set", wanted.calibration)
    if wanted.workspace_mb > MAX_WORKSPACE_MB:
        raise InvalidInputError(
            f"workspace_mb is {wanted.workspace_mb}", remedy=f"use at most {MAX_WORKSPACE_MB}, or 0 for all there is"
        )
    return targets


async def make(
    tx: Writing, wanted: NewRelease, targets: tuple[str, ...], *, now: datetime
) -> tuple[Release, list[Build]]:
    """A new release and a queued build for each target, written down.

    Args:
        tx: the transaction.
        wanted: what was asked for.
        targets: as of :func:`targets_of` them.
        now: by the plane's clock.

    Raises:
        NotFoundError: no such model.
        InvalidInputError: a size that does not suit the model.
        BadPolicyError: the policy is out of range.
    """
    model = await find_model(tx, wanted.model)
    spec = decoder_spec(model.decoder)
    policy = spec.default_policy().changed(**wanted.policy_changes)
    width, height = input_size(spec, model.fixed_size, wanted.input_width, wanted.input_height)
    counter = await tx.next_number("release")
    release = Release(
        id=f"r-{counter}", counter=counter, state=ReleaseState.BUILDING, model_name=model.name,
        model_version=model.version, model_digest=model.artifact_digest, decoder=model.decoder,
        precision=wanted.precision, input_width=width, input_height=height, policy=policy, targets=targets,
        created=now, margins=wanted.margins, calibration=wanted.calibration, workspace_mb=wanted.workspace_mb,
        correlation_id=correlation_id(),
    )  # fmt: skip
    builds = []
    for name in targets:
        number = await tx.next_number("build")
        builds.append(Build(id=f"b-{number}", number=number, release_id=release.id, target=name))
    await tx.put(release)
    await tx.put(*builds)
    return release, builds


async def find_model(look: Reading, name: str) -> Model:
    """The model that ``name`` (its newest version) or ``name/version`` names.

    Raises:
        NotFoundError: there is none.
    """
    remedy = "see fleet models list"
    base, slash, version = name.partition("/")
    if slash:
        model = await look.get(Model, name)
        if model is None:
            raise NotFoundError(f"there is no model {base} with version {version}", remedy=remedy)
        return model
    newest = await look.select(Model, {"name": base}, descending=True, limit=1)
    if not newest:
        raise NotFoundError(f"there is no model {base!r}", remedy=remedy)
    return newest[0]


def manifest_of(release: Release, builds: Collection[Build]) -> Manifest:
    """What a release comes to once each of its builds has an engine."""
    engines = []
    for build in builds:
        if not build.engine_digest:
            raise InternalError(f"build {build.id} has no engine", remedy="report this")
        facts = engine_facts(build.report_json)
        engines.append(
            EngineEntry(
                build.target,
                build.engine_digest,
                build.engine_size_bytes,
                facts.backend,
                facts.runtime_version,
                build.precision or release.precision,
                facts.verified_on.value,
            )
        )
    return Manifest(
        release_id=release.id, counter=release.counter, created=release.created.isoformat(),
        model_name=release.model_name, model_version=release.model_version, model_digest=release.model_digest,
        decoder=release.decoder, input_width=release.input_width, input_height=release.input_height,
        policy=release.policy, engines=tuple(engines),
    )  # fmt: skip
