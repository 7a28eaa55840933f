"""The folder that a demo writes to: held by one demo at a time, cleared of an earlier demo's files, of nothing else.

Example::

    with output_folder(Path("demo-out")) as folder:
        (folder / "report.json").write_bytes(…)
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from maskfleet.datadir import DataDir
from maskfleet.errors import OutputError, PreconditionError

OWNER = "demo"
MADE = ("data", "masked.mp4", "contact_sheet.png", "report.html", "report.json")
"""What a demo makes; an earlier one's are removed."""


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """The folder, empty of what an earlier demo made, held until the end of the block.

    Raises:
        PreconditionError: there is something at that path that no demo made, or a demo that still runs.
        OutputError: it cannot be written.
    """
    path = path.absolute()
    try:
        foreign = path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / "format.json").exists()))
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({error.strerror})", remedy="choose another with --out") from None
    if foreign:
        raise PreconditionError(f"{path} was not made by a demo", remedy="choose another folder with --out")
    with DataDir.opened(path, owner=OWNER):
        for name in MADE:
            old = path / name
            try:
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
                else:
                    old.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"{old} cannot be removed ({error.strerror})", remedy="delete it yourself") from None
        yield path
