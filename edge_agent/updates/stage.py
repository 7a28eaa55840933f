"""The committed release and the one that is being tried, both loaded, and which of them serves.

Each holds its engine by itself, apart from the frames that are under way, so that going back to the committed release
takes no load. A candidate with the committed release's engine shares it.

Example::

    stage.load_candidate(content)
    stage.test_candidate(self_test)
    stage.serve_candidate()      # from the next frame on
    stage.promote()              # or stage.abandon(), which goes back
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from edge_agent.engines.engine import Engine
from edge_agent.serving import LoadedRelease, Serving
from edge_agent.updates.shared_engine import SharedEngine
from edge_agent.updates.slots import Content
from maskfleet.decoding import DecoderSpec, decoder_spec
from maskfleet.errors import EngineError
from maskfleet.policy import MaskPolicy

Load = Callable[[str, Path, DecoderSpec], Engine]
SelfTest = Callable[[Engine, DecoderSpec, MaskPolicy], None]
Noted = Callable[[str, str], None]


@dataclasses.dataclass(frozen=True)
class _Loaded:
    content: Content
    engine: SharedEngine

    def release(self) -> LoadedRelease:
        manifest = self.content.manifest
        return LoadedRelease(
            release_id=manifest.release_id,
            release_digest=self.content.release_digest,
            engine=self.engine.lease(),
            decoder=decoder_spec(manifest.decoder),
            policy=manifest.policy,
        )


class Stage:
    """Up to two loaded releases. Used by one thread.

    Args:
        serving: what the frames are masked with.
        load: target, file and decoder → engine.
        noted: told of loads, self-tests and swaps: what it was, and how it ended.
    """

    def __init__(self, serving: Serving, load: Load, noted: Noted) -> None:
        self._serving = serving
        self._load = load
        self._noted = noted
        self._committed: _Loaded | None = None
        self._candidate: _Loaded | None = None
        self._candidate_serves = False

    @property
    def committed_digest(self) -> str:
        """Digest of the committed release where it is loaded; empty otherwise."""
        return self._committed.content.release_digest if self._committed is not None else ""

    def restore(self, content: Content, self_test: SelfTest) -> None:
        """Loads the committed release, tries it on the golden frames and lets it serve, unless a candidate does.

        The runtime under it may have changed since it was committed.

        Raises:
            SelfTestError: it does not find what it should.
            FleetError: it cannot be loaded, or cannot run.
        """
        loaded = self._loaded(content)
        try:
            self._test(loaded, self_test)
        except BaseException:
            loaded.engine.release()
            raise
        self._committed = loaded
        if not self._candidate_serves:
            self._serving.swap(self._committed.release())

    def load_candidate(self, content: Content) -> None:
        """Loads a release beside the committed one; with the same engine it is not loaded again.

        Raises:
            FleetError: it cannot be loaded.
        """
        mine = self._committed
        if mine is not None and _engine_of(mine.content) == _engine_of(content):
            mine.engine.hold()
            self._candidate = _Loaded(content, mine.engine)
        else:
            self._candidate = self._loaded(content)

    def test_candidate(self, self_test: SelfTest) -> None:
        """Tries the candidate on the golden frames.

        Raises:
            SelfTestError: it does not find what it should.
            EngineError: it cannot run.
        """
        self._test(self._required(), self_test)

    def _test(self, loaded: _Loaded, self_test: SelfTest) -> None:
        release = loaded.release()
        try:
            self_test(release.engine, release.decoder, release.policy)
        except BaseException:
            self._noted("self_test", "failed")
            raise
        finally:
            release.engine.close()
        self._noted("self_test", "passed")

    def serve_candidate(self) -> None:
        """Lets the candidate serve from the next frame on."""
        self._serving.swap(self._required().release())
        self._candidate_serves = True
        self._noted("swap", "swapped")

    def check_candidate(self) -> None:
        """Makes sure that there is a candidate, and that it serves.

        Raises:
            EngineError: it is not so.
        """
        if not self._candidate_serves or self._candidate is None:
            raise EngineError("the release that is tried does not serve", remedy="assign it again")

    def promote(self) -> None:
        """The candidate is the committed release now; the other one is let go."""
        if self._committed is not None:
            self._committed.engine.release()
        self._committed, self._candidate, self._candidate_serves = self._required(), None, False

    def abandon(self) -> None:
        """Lets the candidate go; the committed release, or none, serves from the next frame on."""
        if self._candidate_serves:
            self._serving.swap(self._committed.release() if self._committed is not None else None)
            self._noted("swap", "reverted")
        if self._candidate is not None:
            self._candidate.engine.release()
        self._candidate, self._candidate_serves = None, False

    def _required(self) -> _Loaded:
        if self._candidate is None:
            raise EngineError("the release that is tried is no longer loaded", remedy="assign it again")
        return self._candidate

    def _loaded(self, content: Content) -> _Loaded:
        decoder = decoder_spec(content.manifest.decoder)
        try:
            engine = SharedEngine(self._load(content.entry.target, content.engine, decoder))
        except BaseException:
            self._noted("engine_load", "failed")
            raise
        self._noted("engine_load", "loaded")
        return _Loaded(content, engine)


def _engine_of(content: Content) -> tuple[str, str, str]:
    return content.entry.digest, content.entry.target, content.manifest.decoder
