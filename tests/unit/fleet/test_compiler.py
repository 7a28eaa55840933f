"""Packages for this machine: what the compiler's own words become for a person who did not call it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from fleet.compiler import package
from maskfleet.errors import OutputError


def test_a_cache_that_is_full_names_the_cache_and_how_to_move_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    model, cache = tmp_path / "model.onnx", tmp_path / "cache"
    model.write_bytes(b"a model")

    def full(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = command[command.index("-o") + 1]
        said = f"error: the package {folder} cannot be written (No space left on device): choose another folder with -o"
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=f"{said}\n")

    monkeypatch.setattr(subprocess, "run", full)
    with pytest.raises(OutputError) as raised:
        package(model, "centerface", cache)
    assert raised.value.message == f"the cache {cache} cannot be written (No space left on device)"
    assert "XDG_CACHE_HOME" in raised.value.remedy
    assert "another folder" not in str(raised.value)
    assert list(cache.iterdir()) == []
