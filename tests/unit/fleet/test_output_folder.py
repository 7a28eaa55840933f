"""The demo's folder: its own files go, nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.demo.output_folder import MADE, output_folder
from maskfleet.errors import FleetError, PreconditionError


def test_an_earlier_demo_is_overwritten_and_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    with output_folder(out) as folder:
        (folder / "data").mkdir()
        (folder / "data" / "plane.db").write_text("old")
        (folder / "report.json").write_text("old")
        (folder / "notes.txt").write_text("mine")
    with output_folder(out) as folder:
        assert not any((folder / name).exists() for name in MADE)
        assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_that_no_demo_made_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(PreconditionError, match="was not made by a demo"), output_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "thesis.txt"]


def test_a_file_and_another_programs_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "plane").mkdir()
    (tmp_path / "plane" / "format.json").write_text('{"owner": "control_plane", "format": 1}')
    for name in ("file", "plane"):
        with pytest.raises(FleetError), output_folder(tmp_path / name):
            pass


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out"):
        with pytest.raises(PreconditionError, match="another process"), output_folder(tmp_path / "out"):
            pass
