"""Releases and the queue of their builds, against the store.

Builders lease work and keep the lease with heartbeats; :meth:`BuildQueue.tick` gives back what was left lying. A
release is signed in the very transaction in which its last build succeeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from control_plane.artifacts import Artifacts
from control_plane.auth import actor
from control_plane.build_results import Failure, Success, checked, engine_facts
from control_plane.builders import Builders
from control_plane.changes import Changes
from control_plane.domain.builder import Builder, check_claims
from control_plane.domain.release import (
    LEASE_TTL,
    MAX_LOG_TAIL,
    UNFINISHED,
    Build,
    BuildEvent,
    BuildState,
    EngineProof,
    Known,
    Release,
    ReleaseEvent,
    ReleaseState,
    Verification,
    expired,
    give_back,
    lease,
    next_event,
    verification,
)
from control_plane.events import note
from control_plane.release_making import NewRelease, make, manifest_of, targets_of
from control_plane.requests import Asked, earlier
from control_plane.signing import Signer
from control_plane.store.port import Reading, Store, Writing
from maskfleet.clock import Clock
from maskfleet.errors import FleetError, NotFoundError, PreconditionError
from maskfleet.ids import new_id
from maskfleet.logs import get_logger

QUEUE = "builds"
MAX_WAIT = timedelta(seconds=30)
FOUND = 10  # earlier builds that are looked at for an engine that is still there


@dataclasses.dataclass(frozen=True)
class Shown:
    """A release as operators see it.

    Attributes:
        release: its record.
        builds: its builds, oldest first.
        known: what is known of them beyond their records, by id.
    """

    release: Release
    builds: Sequence[Build]
    known: Mapping[str, Known] = dataclasses.field(default_factory=dict)


class BuildQueue:
    """Makes releases and hands out their builds.

    Attributes:
        lease_ttl: for how long a builder may be silent.
    """

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        signer: Signer,
        changes: Changes,
        clock: Clock,
        *,
        lease_ttl: timedelta = LEASE_TTL,
    ) -> None:
        self.lease_ttl = lease_ttl
        self._store = store
        self._artifacts = artifacts
        self._signer = signer
        self._changes = changes
        self._clock = clock
        self._builders = Builders(clock)
        self._missing: dict[str, str] = {}
        self._log = get_logger(__name__)

    async def create(self, asked: Asked, wanted: NewRelease) -> Shown:
        """A release, and a queued build for each target.

        Raises:
            NotFoundError: no such model.
            UnknownTargetError: no such target.
            InvalidInputError: no target, a precision that a target lacks, a size that does not suit the model, a
                calibration set that is none, too much scratch memory.
            BadPolicyError: the policy is out of range.
        """
        targets = targets_of(wanted)
        async with self._store.writing() as tx:
            if (done := await earlier(tx, asked)) is not None:
                return await self._shown(tx, done)
            now = self._clock.now()
            release, builds = await make(tx, wanted, targets, now=now)
            await tx.put(asked.done(release.id, now))
            model = f"{release.model_name}/{release.model_version}"
            text = f"of {model}, {release.precision}, for {', '.join(targets)}"
            await note(tx, "release.created", release.id, text, actor(), now=now)
            shown = await self.shown(tx, release, builds)
        self._log.info("release made", release=release.id, model=model, targets=targets)
        self._changes.touch(QUEUE)
        return shown

    async def get(self, release_id: str) -> Shown:
        """A release with its builds.

        Raises:
            NotFoundError: there is none.
        """
        async with self._store.reading() as look:
            return await self._shown(look, release_id)

    async def _shown(self, look: Reading, release_id: str) -> Shown:
        return await self.shown(look, *await self._found(look, release_id))

    async def shown(self, look: Reading, release: Release, builds: Sequence[Build]) -> Shown:
        """A release with what is known of its builds."""
        return Shown(release, builds, {build.id: await self._known(look, release, build) for build in builds})

    async def _known(self, look: Reading, release: Release, build: Build) -> Known:
        if build.state is BuildState.QUEUED:
            return Known(missing_builder=self._builders.missing(build.target, release.calibration))
        if not build.engine_digest:
            return Known()
        proof = await look.get(EngineProof, build.engine_digest)
        found = verification(build.engine_digest, engine_facts(build.report_json).verified_on, proof)
        return Known(found, proof.device_id if proof and found is Verification.ON_DEVICE else "")

    @staticmethod
    async def _found(look: Reading, release_id: str) -> tuple[Release, list[Build]]:
        release = await look.get(Release, release_id)
        if release is None:
            raise NotFoundError(f"there is no release {release_id}", remedy="see fleet releases list")
        return release, await look.select(Build, {"release_id": release_id})

    async def cancel(self, release_id: str) -> Shown:
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
            shown = await self._shown(tx, release_id)
        self._told(release)
        return shown

    async def _cancel_builds(self, tx: Writing, builds: Collection[Build]) -> None:
        now = self._clock.now()
        for build in builds:
            if build.state in UNFINISHED:
                await tx.put(build.moved(BuildEvent.CANCEL, reason="the release was stopped", ended=now))

    async def lease(self, builder: Builder, wait: timedelta) -> tuple[Release, Build] | None:
        """The oldest build that a builder can do; None where there is none within the wait.

        Args:
            builder: who takes it.
            wait: at most 30 s.

        Raises:
            InvalidInputError: it claims what it cannot build.
        """
        check_claims(builder)
        until = self._clock.monotonic() + min(wait, MAX_WAIT).total_seconds()
        with self._changes.following(QUEUE) as change:
            while True:
                self._builders.heard(builder)
                if (found := await self._leased(builder)) is not None:
                    return found
                left = until - self._clock.monotonic()
                if left <= 0 or not await change.wait(left):
                    self._builders.heard(builder)
                    return None

    async def _leased(self, builder: Builder) -> tuple[Release, Build] | None:
        async with self._store.reading() as look:
            if await self._first(look, builder) is None:
                return None
        async with self._store.writing() as tx:
            if (found := await self._first(tx, builder)) is None:
                return None
            release, build = found
            now = self._clock.now()
            taken = lease(build, lease_id=new_id("l"), builder_id=builder.id, now=now, ttl=self.lease_ttl)
            await tx.put(taken)
        self._log.info("build leased", build=taken.id, target=taken.target, builder=builder.id, attempt=taken.attempts)
        self._changes.touch(taken.release_id)
        return release, taken

    @staticmethod
    async def _first(look: Reading, builder: Builder) -> tuple[Release, Build] | None:
        """The oldest build that waits for such a builder."""
        for build in await look.select(Build, {"state": BuildState.QUEUED.value}):
            if build.target in builder.targets:
                release = await look.get(Release, build.release_id)
                if release is not None and builder.can(build.target, release.calibration):
                    return release, build
        return None

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
            self._builders.heard_again(build.builder_id)
            if build.state is not BuildState.BUILDING:
                return True
            await tx.put(
                dataclasses.replace(
                    build,
                    phase=phase[:64],
                    progress=min(1.0, max(0.0, progress)),
                    lease_until=self._clock.now() + self.lease_ttl,
                )
            )
        self._changes.touch(build.release_id)
        return False

    async def find_engine(self, lease_id: str, recipe: str, cache_key: str) -> Build | None:
        """The newest build of the whole fleet that made what a lease is about to make, if its engine is still there.

        Args:
            lease_id: that it is for.
            recipe: over what goes in, before anything is computed; empty for not asked.
            cache_key: over what the engine is made of; empty for not asked.

        Raises:
            NotFoundError: the lease does not hold any more.
            PreconditionError: the build was stopped.
        """
        async with self._store.reading() as look:
            leased = await self._held(look, lease_id)
            if leased.state is not BuildState.BUILDING:
                raise PreconditionError(f"build {leased.id} is {leased.state.value}", remedy="drop the work")
            for column, key in (("recipe", recipe), ("cache_key", cache_key)):
                where = {column: key, "target": leased.target, "state": BuildState.SUCCEEDED.value}
                for build in await look.select(Build, where, descending=True, limit=FOUND) if key else []:
                    if await self._artifacts.whole(build.engine_digest) == build.engine_size_bytes:
                        self._log.info("engine found", build=leased.id, as_of=build.id, engine=build.engine_digest)
                        return build
        return None

    async def complete(self, lease_id: str, result: Success | Failure, log_tail: str) -> None:
        """Ends a lease. Said twice, the second time changes nothing.

        A success that cannot be true is a failed attempt: the build goes back to the queue, and the builder is told.

        Raises:
            NotFoundError: the lease does not hold any more.
            InvalidInputError: the report cannot be read.
            PreconditionError: the engine was not uploaded, or is not what was leased; or the build was stopped, or
                given to somebody else.
        """
        tail, now, untrue = log_tail[-MAX_LOG_TAIL:], self._clock.now(), None
        async with self._store.writing() as tx:
            build = await self._held(tx, lease_id)
            self._builders.heard_again(build.builder_id)
            if isinstance(result, Success):
                if build.state is BuildState.SUCCEEDED and build.engine_digest == result.engine_digest:
                    return
                try:
                    build = await self._succeeded(tx, build, result, now)
                except FleetError as error:
                    if build.state is not BuildState.BUILDING or self._artifacts.size(result.engine_digest) is None:
                        raise
                    untrue = error
                    build = give_back(build, reason=f"builder {build.builder_id}: {error.message}", now=now)
            elif result.retryable:
                build = give_back(build, reason=result.reason, now=now)
            else:
                if build.state is BuildState.FAILED:
                    return
                build = build.moved(BuildEvent.FAIL, ended=now, reason=result.reason, lease_until=None)
            await tx.put(dataclasses.replace(build, log_tail=tail))
            release = await self._advanced(tx, build.release_id)
        self._log.info("build ended", build=build.id, target=build.target, state=build.state.value, reason=build.reason)
        self._told(release)
        if untrue is not None:
            raise untrue

    async def _succeeded(self, tx: Reading, build: Build, success: Success, now: datetime) -> Build:
        """The build with its engine."""
        if self._artifacts.size(success.engine_digest) is None:
            raise PreconditionError(f"engine {success.engine_digest} is not there", remedy="upload it first")
        release, _ = await self._found(tx, build.release_id)
        whole = checked(success, release, build, self._artifacts.path(success.engine_digest))
        return build.moved(
            BuildEvent.SUCCEED, ended=now, progress=1.0, phase="", lease_until=None, **dataclasses.asdict(whole)
        )

    async def _advanced(self, tx: Writing, release_id: str) -> Release:
        """The release after its builds changed."""
        release, builds = await self._found(tx, release_id)
        due = next_event(builds) if release.state is ReleaseState.BUILDING else None
        if due is None:
            return release
        event, reason = due
        release = release.moved(event, reason=reason)
        if event is ReleaseEvent.ALL_BUILT:
            manifest, digest = self._signer.manifest(manifest_of(release, builds))
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
            until = self._clock.now() + self.lease_ttl
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
        await self._look_for_builders()

    async def _look_for_builders(self) -> None:
        """Tells the watchers of releases where a builder is missing, or is there again."""
        found: dict[str, str] = {}
        async with self._store.reading() as look:
            for build in await look.select(Build, {"state": BuildState.QUEUED.value}):
                release = await look.get(Release, build.release_id)
                if release is None:
                    continue
                found[build.id] = self._builders.missing(build.target, release.calibration)
                if found[build.id] != self._missing.get(build.id, ""):
                    self._changes.touch(build.release_id)
        self._missing = found
