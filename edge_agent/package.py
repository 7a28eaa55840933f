"""A package: one release in a directory, masked with by itself, without a control plane.

``manifest.json`` is the envelope of its manifest, ``engines/<64 hexadecimal digits>`` are its engines. Whoever names it
on the command line trusts it, as the command line itself; its digests and the self-test still have to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_agent.serving import LoadedRelease
from edge_agent.updates.download import check
from edge_agent.updates.stage import Load, SelfTest
from maskfleet.decoding import decoder_spec
from maskfleet.errors import NotFoundError
from maskfleet.manifest import Envelope, Manifest, release_digest


def load_package(path: Path, targets: Sequence[str], load: Load, self_test: SelfTest) -> LoadedRelease:
    """The release of a package, loaded and tried.

    Args:
        path: the directory.
        targets: that this device runs, best first.
        load: target, file and decoder → engine.
        self_test: raises where the engine is not fit to serve.

    Raises:
        NotFoundError: the directory is no package.
        IntegrityError: its manifest cannot be read, an engine's digest is wrong, or the self-test failed.
        UnsupportedError: it has an engine for none of the targets.
        EngineError: the runtime refuses the engine.
    """
    try:
        envelope = Envelope.from_bytes((path / "manifest.json").read_bytes())
    except OSError as error:
        raise NotFoundError(
            f"{path} is no package ({error.strerror}: manifest.json)",
            remedy="give a directory that python -m model_compiler compile wrote",
        ) from None
    manifest = Manifest.from_payload(envelope.payload)
    entry = manifest.engine_for(targets)
    decoder = decoder_spec(manifest.decoder)
    file = path / "engines" / entry.digest.partition(":")[2]
    if not file.is_file():
        raise NotFoundError(f"package {path} lacks the engine for {entry.target}", remedy="compile it again")
    check(file, entry.digest)
    engine = load(entry.target, file, decoder)
    try:
        self_test(engine, decoder, manifest.policy)
    except BaseException:
        engine.close()
        raise
    return LoadedRelease(manifest.release_id, release_digest(envelope.payload), engine, decoder, manifest.policy)
