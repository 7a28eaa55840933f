"""A folder in, a masked folder out: every picture and video of a tree, through one agent.

Rules:

- The output mirrors the tree. Nothing is copied: what is no picture or video is left out and counted, and so is what is
  hidden (``.git``, ``.thumbnails``).
- An output that is there already is whole, because outputs are put in place when they are; it stays, unless asked
  otherwise. So a run that was interrupted goes on where it stopped.
- A file that fails is told and the next one is masked. Only an agent that is gone ends the run.

Example::

    with MaskingClient(address) as client:
        report = mask_folder(client, Path("photos"), Path("masked"))
        print(len(report.done), report.failed, report.skipped)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fleet.client import MaskingClient
from fleet.codec import PolicyChanges
from fleet.masking_job import Progress, Report, mask_file
from fleet.pictures import IMAGE_SUFFIXES
from fleet.video import VIDEO_SUFFIXES
from maskfleet.errors import FleetError, InvalidInputError, NotFoundError, OutputError, UnavailableError

_MEDIA = frozenset((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))


@dataclasses.dataclass
class FolderReport:
    """What became of each file.

    Attributes:
        source: the folder that was read.
        output: the folder that was written.
        done: reports of the files that were masked.
        failed: files that were not, with the reason in a sentence.
        kept: how many outputs were there already.
        skipped: how many files are no pictures or videos, or hidden.
    """

    source: Path
    output: Path
    done: list[Report] = dataclasses.field(default_factory=list)
    failed: list[tuple[Path, str]] = dataclasses.field(default_factory=list)
    kept: int = 0
    skipped: int = 0

    def summary(self) -> dict[str, Any]:
        """Totals over all files."""
        outcomes: dict[str, int] = {}
        for report in self.done:
            for word, count in report.summary()["outcomes"].items():
                outcomes[word] = outcomes.get(word, 0) + count
        return {
            "masked": len(self.done),
            "failed": len(self.failed),
            "kept": self.kept,
            "skipped": self.skipped,
            "frames": sum(len(report.frames) for report in self.done),
            "outcomes": outcomes,
            "seconds": round(sum(report.seconds for report in self.done), 3),
        }

    def uncertain(self) -> int:
        """How many frames were masked whole or dropped."""
        return sum(report.uncertain() for report in self.done)

    def to_json(self, *, model: Any, policy: Any) -> dict[str, Any]:
        """The report file."""
        return {
            "input": str(self.source),
            "output": str(self.output),
            "kind": "folder",
            "summary": self.summary(),
            "failed": [{"input": str(path), "reason": reason} for path, reason in self.failed],
            "files": [report.to_json(model=model, policy=policy) for report in self.done],
        }


def check_folders(source: Path, output: Path) -> None:
    """Looks at both names before any work is done.

    Raises:
        NotFoundError: there is no source.
        InvalidInputError: one lies in the other in a way that would mask outputs again, or write over sources.
        OutputError: the output cannot be a folder there.
    """
    if not source.is_dir():
        raise NotFoundError(f"there is no folder {source}", remedy="check the path")
    here, there = source.resolve(), output.resolve()
    if here == there or there in here.parents:
        raise InvalidInputError(f"the output {output} is the input, or holds it", remedy="give another folder with -o")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is no folder", remedy="give a folder with -o, as the input is one")
    if not output.absolute().parent.is_dir():
        raise OutputError(f"there is no folder {output.parent}", remedy="make it, or give another one with -o")


def find_media(source: Path, output: Path) -> tuple[list[Path], int]:
    """Pictures and videos below a folder, sorted, relative to it; and how many files are something else.

    Args:
        source: the folder.
        output: left out where it lies in the source.
    """
    found: list[Path] = []
    skipped = 0
    excluded = output.resolve()
    for folder, folders, names in os.walk(source):
        below = Path(folder)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (below / name).resolve() != excluded
        )
        for name in names:
            if name.startswith(".") or Path(name).suffix.lower() not in _MEDIA:
                skipped += 1
            else:
                found.append((below / name).relative_to(source))
    return sorted(found), skipped


def mask_folder(
    client: MaskingClient,
    source: Path,
    output: Path,
    *,
    policy: PolicyChanges = None,
    force: bool = False,
    progress: Callable[[str, int, int], AbstractContextManager[Progress]] = (
        lambda _name, _number, _count: contextlib.nullcontext(lambda _done, _total: None)
    ),
    told: Callable[[str], None] = lambda _text: None,
) -> FolderReport:
    """Masks every picture and video of a tree.

    Args:
        client: connected to an agent that has a release.
        source: the folder to read.
        output: the folder to write; it is made where it is missing.
        policy: differences from the release's own policy.
        force: mask again what is there already.
        progress: makes what is told how far a file is, from its name, its number from 1 and how many there are.
        told: is told of a file that fails, in a sentence.

    Raises:
        FleetError: as :func:`check_folders`.
    """
    check_folders(source, output)
    found, skipped = find_media(source, output)
    report = FolderReport(source, output, skipped=skipped)
    for number, path in enumerate(found, 1):
        target = output / path
        if target.exists() and not force:
            report.kept += 1
            continue
        try:
            _make(target.parent)
            with progress(str(path), number, len(found)) as update:
                report.done.append(
                    mask_file(client, source / path, target, policy=policy, force=force, progress=update)
                )
        except FleetError as error:
            with contextlib.suppress(OSError):
                target.parent.rmdir()  # where nothing else is in it
            report.failed.append((source / path, str(error)))
            named = str(source / path) in str(error)
            told(f"not masked: {error}" if named else f"not masked: {source / path}: {error}")
            if isinstance(error, UnavailableError):
                left = len(found) - number
                told(f"{left} files were not tried, because the agent is gone")
                report.failed += [(source / rest, "not tried: the agent is gone") for rest in found[number:]]
                break
    return report


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made ({error.strerror})", remedy="check -o") from None
