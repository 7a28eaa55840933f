"""What builds found goes back to the model that they are of: tags and files in the model registry.

Rules
- Once a release is READY, each of its engines is logged at the model's version: a file with everything that is known of
  the build, and after it a tag that says the most important of it in a line.
- The registry never holds up a release. One that is away is asked again, ever more rarely; what it has not heard of is
  read from the store, so a plane that is killed forgets nothing. Logging twice changes nothing.
- The registry's process is not started for this: it starts with the plane (:meth:`Registry.warm_up`).

>>> entry_of(release, build).tag
'maskfleet.r-3.ort-cpu'
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from control_plane.domain.release import Build, Release
from control_plane.events import note
from control_plane.registry import LogEntry, Registry
from control_plane.store.port import Store
from maskfleet.clock import Clock
from maskfleet.errors import FleetError
from maskfleet.logs import get_logger

BACKOFF_S = (5.0, 600.0)
_AT_ONCE = 20  # releases in a round


def entry_of(release: Release, build: Build) -> LogEntry:
    """What the registry is told of an engine.

    Args:
        release: READY.
        build: one of its builds.
    """
    report = _object(build.report_json)
    known = {
        "release": release.id,
        "manifest_digest": release.manifest_digest,
        "model": {"name": release.model_name, "version": release.model_version, "digest": release.model_digest},
        "engine": {
            "target": build.target,
            "digest": build.engine_digest,
            "size_bytes": build.engine_size_bytes,
            "precision": build.precision or release.precision,
        },
        "build": {
            "id": build.id,
            "builder_id": build.builder_id,
            "attempts": build.attempts,
            "cached": build.cached,
            "recipe": build.recipe,
            "cache_key": build.cache_key,
            "ended": build.ended.isoformat() if build.ended is not None else None,
        },
        "report": report,
        "log": build.log_tail,
    }
    return LogEntry(
        tag=f"maskfleet.{release.id}.{build.target}",
        line=_line(release, build, report),
        file=f"maskfleet/{release.id}/{build.target}.json",
        text=json.dumps(known, indent=1, sort_keys=True),
    )


def _line(release: Release, build: Build, report: Mapping[str, Any]) -> str:
    """As ``int8 sha256:… 12.1 ms recall 1``; what the report does not say is left out."""
    words = [build.precision or release.precision, build.engine_digest]
    tried = report.get("candidates")
    for candidate in tried if isinstance(tried, list) else []:
        won = isinstance(candidate, dict) and candidate.get("verdict") == "won"
        if won and isinstance(candidate.get("ms"), (int, float)):
            words.append(f"{candidate['ms']:.3g} ms")
    gate = report.get("gate")
    figures = gate.get("figures") if isinstance(gate, dict) else None
    if isinstance(figures, dict) and isinstance(figures.get("recall"), (int, float)):
        words.append(f"recall {figures['recall']:.4g}")
    return " ".join(words)


def _object(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        said = json.loads(text)
        if isinstance(said, dict):
            return said
    return {}


class Provenance:
    """Tells the registry what it has not heard of."""

    def __init__(self, store: Store, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._due = clock.monotonic()
        self._pause = 0.0
        self._round: asyncio.Task[None] | None = None
        self._log = get_logger(__name__)

    def tick(self) -> None:
        """Begins a round where one is due. The registry may take minutes to answer: nobody waits for it."""
        busy = self._round is not None and not self._round.done()
        if not busy and self._registry.started and self._clock.monotonic() >= self._due:
            self._round = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        failures: list[str] = []
        try:
            async with self._store.reading() as look:
                found = [
                    (release, await look.select(Build, {"release_id": release.id}))
                    for release in await look.select(Release, {"unlogged": 1}, limit=_AT_ONCE, descending=True)
                ]
            for release, builds in found:
                try:
                    await self._logged(release, builds)
                except Exception as error:  # noqa: BLE001  # whatever one release meets, the others may do
                    failures.append(f"{release.id}: {error}")
        except FleetError as error:
            failures.append(str(error))
        self._pause = min(max(BACKOFF_S[0], 2 * self._pause), BACKOFF_S[1]) if failures else 0.0
        self._due = self._clock.monotonic() + self._pause
        if failures:
            self._log.warning("the registry was not told of releases", reasons=failures, again_in_s=self._pause)

    async def _logged(self, release: Release, builds: list[Build]) -> None:
        entries = [entry_of(release, build) for build in builds]
        await self._registry.log(release.model_name, release.model_version, entries)
        async with self._store.writing() as tx:
            current = await tx.get(Release, release.id)
            if current is None or current.logged:
                return
            await tx.put(dataclasses.replace(current, logged=True))
            text = f"{len(entries)} engines are in the registry, at model {release.model_name}/{release.model_version}"
            await note(tx, "release.logged", release.id, text, now=self._clock.now())
        self._log.info("the registry was told of a release", release=release.id)

    async def close(self) -> None:
        """Ends a round that is under way; what it has not told is told after the next start."""
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)
