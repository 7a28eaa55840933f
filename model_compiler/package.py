"""A package: a release in a folder, for an agent that has no plane.

``manifest.json`` is an envelope without signatures – who names a folder on the command line trusts it as that – and
``engines/<digest>`` are its engines. The manifest is written last, so that a folder with a manifest is whole.

Example::

    write_package(Path("out"), model_path, spec, [built], MaskPolicy(), now=SystemClock().now())
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from maskfleet.datadir import write_atomic
from maskfleet.errors import OutputError
from maskfleet.manifest import MANIFEST_TYPE, EngineEntry, Envelope, Manifest
from maskfleet.policy import MaskPolicy
from model_compiler.cache import Built

RELEASE_ID = "local"


def write_package(
    folder: Path, model: Path, decoder: str, built: Sequence[Built], policy: MaskPolicy, *, now: datetime
) -> Manifest:
    """Writes a package; one that is there already is replaced.

    Args:
        folder: made where it is missing; empty, or a package.
        model: the source file, for its name.
        decoder: its decoder.
        built: at least one engine, all of one model at one size.
        policy: complete.
        now: the time that the manifest shows.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    first = built[0].report
    manifest = Manifest(
        release_id=RELEASE_ID,
        counter=0,
        created=now.isoformat(timespec="seconds"),
        model_name=re.sub(r"[^A-Za-z0-9._-]", "-", model.stem).lstrip("._-")[:63] or "model",
        model_version=0,
        model_digest=first["model_digest"],
        decoder=decoder,
        input_width=first["prepared"]["width"],
        input_height=first["prepared"]["height"],
        policy=policy,
        engines=tuple(_entry(one) for one in built),
    )
    check_folder(folder)
    try:
        engines = folder / "engines"
        engines.mkdir(parents=True, exist_ok=True)
        kept = set()
        for one in built:
            name = one.engine_digest.removeprefix("sha256:")
            kept.add(name)
            with tempfile.TemporaryDirectory(dir=engines, prefix=".staged-") as staged:
                copy = Path(staged) / name
                assert one.engine is not None  # noqa: S101  # built on this machine
                shutil.copyfile(one.engine, copy)
                copy.replace(engines / name)
        write_atomic(folder / "manifest.json", Envelope(manifest.to_payload(), MANIFEST_TYPE, {}).to_bytes())
        for stale in engines.iterdir():
            if stale.name not in kept:
                stale.unlink()
    except OSError as error:
        raise OutputError(
            f"the package {folder} cannot be written ({error.strerror})", remedy="choose another folder with -o"
        ) from None
    return manifest


def check_folder(folder: Path) -> None:
    """Whether a package may go there: asked before the work as well as after.

    Raises:
        OutputError: it may not.
    """
    try:
        if folder.exists() and not (folder / "manifest.json").exists() and any(folder.iterdir()):
            raise OutputError(
                f"{folder} is not empty and holds no package", remedy="choose an empty or new folder with -o"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise OutputError(
            f"the package {folder} cannot be written ({error.strerror})", remedy="choose another folder with -o"
        ) from None


def _entry(built: Built) -> EngineEntry:
    report = built.report
    return EngineEntry(
        target=report["spec"]["target"],
        digest=built.engine_digest,
        size_bytes=built.size_bytes,
        backend=report["backend"],
        runtime_version=report["runtime_version"],
        precision=report["precision"],
        verified_on=report["verified_on"],
    )
