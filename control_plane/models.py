"""Models on their way into the registry: uploaded, checked, registered, written down."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from control_plane.artifacts import Artifacts
from control_plane.auth import actor
from control_plane.domain.release import Build, Model
from control_plane.events import note
from control_plane.registry import ModelFacts, Registry, inspect
from control_plane.release_making import find_model
from control_plane.requests import Asked, earlier
from control_plane.store.port import Store
from maskfleet.clock import Clock
from maskfleet.decoding import decoder_spec
from maskfleet.errors import BadModelError
from maskfleet.ids import check_name
from maskfleet.logs import get_logger


class Models:
    """Adds and finds model versions."""

    def __init__(self, store: Store, artifacts: Artifacts, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._artifacts = artifacts
        self._registry = registry
        self._clock = clock
        self._checking: Counter[str] = Counter()

    async def create(self, asked: Asked, name: str, decoder: str, digest: str, description: str) -> Model:
        """Checks an uploaded file and registers it as the next version of a name.

        Raises:
            InvalidInputError: the name is none, or there is no such decoder.
            NotFoundError: the file was not uploaded.
            BadModelError: it is no model, or not what its decoder reads; the file goes where nobody else needs it.
            UnsupportedError: it is a PyTorch model, and torch is not installed here.
            UnavailableError: the registry does not answer.
        """
        check_name("model", name)
        spec = decoder_spec(decoder)
        path = self._artifacts.path(digest)
        async with self._store.reading() as look:
            if (done := await earlier(look, asked)) is not None:
                return await find_model(look, done)
        # What is registered, built and named is ONNX, whatever was uploaded.
        source, (facts, digest) = digest, await self._inspected(digest, path, decoder)
        path = self._artifacts.path(digest)
        tags = {
            "maskfleet.decoder": decoder,
            "maskfleet.digest": digest,
            "maskfleet.source_digest": source,
            "maskfleet.rgb": str(spec.preprocessing.rgb).lower(),
            "maskfleet.mean": str(spec.preprocessing.mean),
            "maskfleet.scale": str(spec.preprocessing.scale),
        }
        version, uri = await self._registry.register(
            name, path, facts, request_id=asked.request_id, tags=tags, description=description
        )
        width, height = facts.fixed_size or facts.default_size
        now = self._clock.now()
        async with self._store.writing() as tx:
            # Two that asked with one id at the same time were given one version by the registry.
            if (done := await earlier(tx, asked)) is not None:
                return await find_model(tx, done)
            model = Model(
                name=name, version=version, number=await tx.next_number("model"), decoder=decoder,
                artifact_digest=digest, size_bytes=path.stat().st_size, source_uri=uri, inputs=facts.inputs,
                outputs=facts.outputs, input_width=width, input_height=height, resizable=facts.fixed_size is None,
                created=now, description=description[:1000],
            )  # fmt: skip
            await tx.put(model, asked.done(f"{name}/{version}", now))
            await note(
                tx, "model.created", f"{name}/{version}", f"model {name}/{version} ({decoder})", actor(), now=now
            )
        get_logger(__name__).info("model registered", model=f"{name}/{version}", decoder=decoder, digest=digest)
        return model

    async def _inspected(self, digest: str, path: Path, decoder: str) -> tuple[ModelFacts, str]:
        """What a file is, and the digest of its ONNX: its own, or that of what was made of it."""
        self._checking[digest] += 1
        try:
            with self._artifacts.scratch() as folder:
                facts = await inspect(path, decoder, folder / "model.onnx")
                return facts, await self._artifacts.keep(folder / "model.onnx") if facts.exported else digest
        except BadModelError:
            if self._checking[digest] == 1 and not await self._named(digest):
                self._artifacts.drop(digest)
            raise
        finally:
            self._checking[digest] -= 1

    async def _named(self, digest: str) -> bool:
        """Whether a model or an engine is this file."""
        async with self._store.reading() as look:
            models, builds = await look.select(Model), await look.select(Build)
        return digest in {m.artifact_digest for m in models} | {b.engine_digest for b in builds}

    async def find(self, name: str) -> Model:
        """The model that ``name`` (its newest version) or ``name/version`` names.

        Raises:
            NotFoundError: there is none.
        """
        async with self._store.reading() as look:
            return await find_model(look, name)
