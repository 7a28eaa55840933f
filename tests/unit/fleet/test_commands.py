"""Commands of the demo are the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.demo.commands import Commands, shown
from maskfleet.errors import InternalError


def test_a_command_is_shown_as_a_person_types_it() -> None:
    assert shown(["models", "add", "my model.onnx"]) == "fleet models add 'my model.onnx'"


def test_a_command_that_fails_says_which_and_why(tmp_path: Path) -> None:
    said: list[str] = []
    commands = Commands({"XDG_CONFIG_HOME": str(tmp_path)}, before=said.append, line=said.append)
    with pytest.raises(InternalError, match=r"`fleet models list` ended with code 5 \(no control plane is known here"):
        commands.run("models", "list")
    assert said[0] == "fleet models list"
    assert said[1].startswith("error: no control plane is known here")


def test_what_it_prints_is_read(tmp_path: Path) -> None:
    ran = Commands({"XDG_CONFIG_HOME": str(tmp_path)}).run("--version")
    assert ran.result is None
    assert ran.seconds > 0
