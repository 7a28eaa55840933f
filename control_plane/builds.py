"""Releases and the queue of their builds, against the store.

Builders lease work and keep the lease with heartbeats; :meth:`BuildQueue.tick` gives back what was left lying. A
release is signed in the very transaction in which its last build succeeds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from control_plane.artifacts import Artifacts
from control_plane.auth import actor
from control_plane.changes import Changes
from control_plane.domain.release import (
    LEASE_TTL,
    MAX_LOG_TAIL,
    UNFINISHED,
    Build,
    BuildEvent,
    BuildState,
    Model,
    Release,
    ReleaseEvent,
    ReleaseState,
    expired,
    give_back,
    lease,
    next_event,
)
from control_plane.events import note
from control_plane.requests import Asked, earlier
from control_plane.signing import Signer
from control_plane.store.port import Reading, Store, Writing
from maskfleet.clock import Clock
from maskfleet.decoding import decoder_spec, input_size
from maskfleet.errors import InternalError, InvalidInputError, NotFoundError, PreconditionError
from maskfleet.ids import new_id
from maskfleet.logs import correlation_id, get_logger
from maskfleet.manifest import EngineEntry, Manifest
from maskfleet.targets import target

QUEUE = "builds"
MAX_WAIT = timedelta(seconds=30)


@dataclasses.dataclass(frozen=True)
class NewRelease:
    """What an operator asks for; the model as ``name`` or ``name/version``, sizes 0 for the default."""

    model: str
    policy_changes: dict[str, Any]
    targets: tuple[str, ...]
    precision: str
    input_width: int
    input_height: int


@dataclasses.dataclass(frozen=True)
class Success:
    """A build that worked."""

    engine_digest: str
    engine_size_bytes: int
    cache_key: str
    report_json: str
    cached: bool


@dataclasses.dataclass(frozen=True)
class Failure:
    """A build that did not."""

    kind: str
    reason: str
    retryable: bool


class BuildQueue:
    """Makes releases and hands out their builds."""

    def __init__(self, store: Store, artifacts: Artifacts, signer: Signer, changes: Changes, clock: Clock) -> None:
        self._store = store
        self._artifacts = artifacts
        self._signer = signer
        self._changes = changes
        self._clock = clock
        self._log = get_logger(__name__)

    async def create(self, asked: Asked, wanted: NewRelease) -> tuple[Release, list[Build]]:
        """A release, and a queued build for each target.

        Raises:
            NotFoundError: no such model.
            UnknownTargetError: no such target.
            InvalidInputError: no target, a precision that a target lacks, a size that does not suit the model.
            BadPolicyError: the policy is out of range.
        """
        targets = tuple(dict.fromkeys(wanted.targets))
        if not targets:
            raise InvalidInputError("a release needs a target", remedy="name at least one, as ort-cpu")
        for name in targets:
            if wanted.precision not in target(name).precisions:
                raise InvalidInputError(
                    f"target {name} has no precision {wanted.precision}",
                    remedy=f"use one of {', '.join(target(name).precisions)}",
                )
        async with self._store.writing() as tx:
            if (done := await earlier(tx, asked)) is not None:
                return await self._found(tx, done)
            model = await find_model(tx, wanted.model)
            spec = decoder_spec(model.decoder)
            policy = spec.default_policy().changed(**wanted.policy_changes)
            width, height = input_size(spec, model.fixed_size, wanted.input_width, wanted.input_height)
            counter, now = await tx.next_number("release"), self._clock.now()
            release = Release(
                id=f"r-{counter}", counter=counter, state=ReleaseState.BUILDING, model_name=model.name,
                model_version=model.version, model_digest=model.artifact_digest, decoder=model.decoder,
                precision=wanted.precision, input_width=width, input_height=height, policy=policy, targets=targets,
                created=now, correlation_id=correlation_id(),
            )  # fmt: skip
            builds = []
            for name in targets:
                number = await tx.next_number("build")
                builds.append(Build(id=f"b-{number}", number=number, release_id=release.id, target=name))
            await tx.put(release)
            await tx.put(*builds, asked.done(release.id, now))
            text = f"of {model.name}/{model.version}, {wanted.precision}, for {', '.join(targets)}"
            await note(tx, "release.created", release.id, text, actor(), now=now)
        self._log.info("release made", release=release.id, model=f"{model.name}/{model.version}", targets=targets)
        self._changes.touch(QUEUE)
        return release, builds

    async def get(self, release_id: str) -> tuple[Release, list[Build]]:
        """A release with its builds.

        Raises:
            NotFoundError: there is none.
        """
        async with self._store.reading() as look:
            return await self._found(look, release_id)

    @staticmethod
    async def _found(look: Reading, release_id: str) -> tuple[Release, list[Build]]:
        release = await look.get(Release, release_id)
        if release is None:
            raise NotFoundError(f"there is no release {release_id}", remedy="see fleet releases list")
        return release, await look.select(Build, {"release_id": release_id})

    async def cancel(self, release_id: str) -> tuple[Release, list[Build]]:
        """Stops a release that is being built.

        Raises:
            NotFoundError: there is none.
            PreconditionError: it is not being built any more.
        """
        async with self._store.writing() as tx:
            release, builds = await self._found(tx, release_id)
            if release.state is not ReleaseState.CANCELED:
                release = release.moved(ReleaseEvent.CANCEL, reason="an operator stopped it")
                await tx.put(release)
                await self._cancel_builds(tx, builds)
                await note(tx, "release.canceled", release.id, release.reason, actor(), now=self._clock.now())
            found = await self._found(tx, release_id)
        self._told(release)
        return found

    async def _cancel_builds(self, tx: Writing, builds: Collection[Build]) -> None:
        now = self._clock.now()
        for build in builds:
            if build.state in UNFINISHED:
                await tx.put(build.moved(BuildEvent.CANCEL, reason="the release was stopped", ended=now))

    async def lease(self, builder_id: str, targets: Collection[str], wait: timedelta) -> tuple[Release, Build] | None:
        """The oldest build that a builder can do; None where there is none within the wait.

        Args:
            builder_id: who takes it, for people.
            targets: what it can build.
            wait: at most 30 s.
        """
        until = self._clock.monotonic() + min(wait, MAX_WAIT).total_seconds()
        with self._changes.following(QUEUE) as change:
            while True:
                if (found := await self._leased(builder_id, targets)) is not None:
                    return found
                left = until - self._clock.monotonic()
                if left <= 0 or not await change.wait(left):
                    return None

    async def _leased(self, builder_id: str, targets: Collection[str]) -> tuple[Release, Build] | None:
        async with self._store.reading() as look:
            if not any(b.target in targets for b in await look.select(Build, {"state": BuildState.QUEUED.value})):
                return None
        async with self._store.writing() as tx:
            for build in await tx.select(Build, {"state": BuildState.QUEUED.value}):
                if build.target not in targets:
                    continue
                taken = lease(build, lease_id=new_id("l"), builder_id=builder_id[:128], now=self._clock.now())
                await tx.put(taken)
                release, _ = await self._found(tx, build.release_id)
                break
            else:
                return None
        self._log.info("build leased", build=taken.id, target=taken.target, builder=builder_id, attempt=taken.attempts)
        self._changes.touch(taken.release_id)
        return release, taken

    @staticmethod
    async def _held(tx: Reading, lease_id: str) -> Build:
        found = await tx.select(Build, {"lease_id": lease_id}) if lease_id else []
        if not found:
            raise NotFoundError("this lease does not hold any more", remedy="drop the work and lease another build")
        return found[0]

    async def heartbeat(self, lease_id: str, phase: str, progress: float) -> bool:
        """Keeps a lease; whether the builder should stop.

        Raises:
            NotFoundError: the lease does not hold any more.
        """
        async with self._store.writing() as tx:
            build = await self._held(tx, lease_id)
            if build.state is not BuildState.BUILDING:
                return True
            await tx.put(
                dataclasses.replace(
                    build,
                    phase=phase[:64],
                    progress=min(1.0, max(0.0, progress)),
                    lease_until=self._clock.now() + LEASE_TTL,
                )
            )
        self._changes.touch(build.release_id)
        return False

    async def complete(self, lease_id: str, result: Success | Failure, log_tail: str) -> None:
        """Ends a lease. Said twice, the second time changes nothing.

        Raises:
            NotFoundError: the lease does not hold any more, or the engine was not uploaded.
            InvalidInputError: the report is no JSON object with what a manifest needs.
            PreconditionError: the build was stopped, or given to somebody else.
        """
        tail, now = log_tail[-MAX_LOG_TAIL:], self._clock.now()
        async with self._store.writing() as tx:
            build = await self._held(tx, lease_id)
            if isinstance(result, Success):
                if build.state is BuildState.SUCCEEDED and build.engine_digest == result.engine_digest:
                    return
                size = self._artifacts.size(result.engine_digest)
                if size != result.engine_size_bytes:
                    raise PreconditionError(
                        f"engine {result.engine_digest} is not there with its {result.engine_size_bytes} bytes",
                        remedy="upload it first",
                    )
                _engine_facts(result.report_json)
                build = build.moved(
                    BuildEvent.SUCCEED, ended=now, progress=1.0, phase="", lease_until=None, log_tail=tail,
                    **dataclasses.asdict(result),
                )  # fmt: skip
            elif result.retryable:
                build = dataclasses.replace(give_back(build, reason=result.reason, now=now), log_tail=tail)
            else:
                if build.state is BuildState.FAILED:
                    return
                build = build.moved(BuildEvent.FAIL, ended=now, reason=result.reason, lease_until=None, log_tail=tail)
            await tx.put(build)
            release = await self._advanced(tx, build.release_id)
        self._log.info("build ended", build=build.id, target=build.target, state=build.state.value, reason=build.reason)
        self._told(release)

    async def _advanced(self, tx: Writing, release_id: str) -> Release:
        """The release after its builds changed."""
        release, builds = await self._found(tx, release_id)
        due = next_event(builds) if release.state is ReleaseState.BUILDING else None
        if due is None:
            return release
        event, reason = due
        release = release.moved(event, reason=reason)
        if event is ReleaseEvent.ALL_BUILT:
            manifest, digest = self._signer.manifest(_manifest(release, builds))
            release = dataclasses.replace(release, manifest=manifest, manifest_digest=digest)
        else:
            await self._cancel_builds(tx, builds)
        await tx.put(release)
        ready = event is ReleaseEvent.ALL_BUILT
        await note(
            tx,
            "release.ready" if ready else "release.failed",
            release.id,
            f"every build passed; manifest {release.manifest_digest}" if ready else reason,
            now=self._clock.now(),
        )
        self._log.info("release moved", release=release.id, state=release.state.value, reason=reason)
        return release

    def _told(self, release: Release) -> None:
        self._changes.touch(release.id)
        self._changes.touch(QUEUE)

    async def resume(self) -> None:
        """After a start: builders get a whole lease's time to come back, for it was the plane that was away."""
        async with self._store.writing() as tx:
            until = self._clock.now() + LEASE_TTL
            for build in await tx.select(Build, {"state": BuildState.BUILDING.value}):
                await tx.put(dataclasses.replace(build, lease_until=until))

    async def tick(self, now: datetime) -> None:
        """Gives back the builds whose builders have been silent for too long."""
        async with self._store.reading() as look:
            late = [b for b in await look.select(Build, {"state": BuildState.BUILDING.value}) if expired(b, now)]
        for build in late:
            async with self._store.writing() as tx:
                current = await tx.get(Build, build.id)
                if current is None or not expired(current, now):
                    continue
                reason = f"builder {current.builder_id} fell silent"
                await tx.put(give_back(current, reason=reason, now=now))
                release = await self._advanced(tx, current.release_id)
            self._log.warning("lease ended", build=build.id, builder=build.builder_id)
            self._told(release)


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


def _engine_facts(report_json: str) -> tuple[str, str, str]:
    """Backend, runtime version and what passed the gate, from a builder's report."""
    try:
        said = json.loads(report_json)
        return str(said["backend"]), str(said["runtime_version"]), str(said["verified_on"])
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(
            "the build's report names no backend, runtime_version and verified_on", remedy="update the builder"
        ) from None


def _manifest(release: Release, builds: Collection[Build]) -> Manifest:
    engines = []
    for build in builds:
        if not build.engine_digest:
            raise InternalError(f"build {build.id} has no engine", remedy="report this")
        backend, version, verified_on = _engine_facts(build.report_json)
        engines.append(
            EngineEntry(
                build.target,
                build.engine_digest,
                build.engine_size_bytes,
                backend,
                version,
                release.precision,
                verified_on,
            )
        )
    return Manifest(
        release_id=release.id, counter=release.counter, created=release.created.isoformat(),
        model_name=release.model_name, model_version=release.model_version, model_digest=release.model_digest,
        decoder=release.decoder, input_width=release.input_width, input_height=release.input_height,
        policy=release.policy, engines=tuple(engines),
    )  # fmt: skip
