"""Commands of the demo are the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.demo.commands import Commands, shown
from maskfleet.errors import CanceledError, InternalError


def test_a_command_is_shown_as_a_person_types_it() -> None:
    assert shown(["models", "add", "my model.onnx"]) == "fleet models add 'my model.onnx'"


def test_a_command_that_fails_says_which_and_why(tmp_path: Path) -> None:
    said: list[str] = []
    commands = Commands({"XDG_CONFIG_HOME": str(tmp_path)}, before=said.append, line=said.append)
    with pytest.raises(InternalError, match=r"`fleet models list` ended with code 5 \(no control plane is known here"):
        commands.run("models", "list")
    assert said[0] == "fleet models list"
    assert said[1].startswith("error: no control plane is known here")


def test_a_code_that_is_expected_is_no_error(tmp_path: Path) -> None:
    assert Commands({"XDG_CONFIG_HOME": str(tmp_path)}).run("models", "list", codes=(0, 5)).code == 5


def test_after_a_stop_nothing_is_started(tmp_path: Path) -> None:
    commands = Commands({"XDG_CONFIG_HOME": str(tmp_path)})
    commands.stop()
    with pytest.raises(CanceledError, match="not started any more"):
        commands.run("models", "list")


def test_what_it_prints_is_read(tmp_path: Path) -> None:
    ran = Commands({"XDG_CONFIG_HOME": str(tmp_path)}).run("--version")
    assert ran.result is None
    assert ran.seconds > 0
