"""A process of ours leaves nothing of other people's telemetry on the machine that it runs on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskfleet.quiet import SWITCHES, hush

_PREPARED = """
import pathlib, sys
from maskfleet.decoding import decoder_spec
from model_compiler.prepare import prepare
pathlib.Path(sys.argv[2]).write_bytes(prepare(pathlib.Path(sys.argv[1]).read_bytes(), decoder_spec("centerface")).model)
"""
_AGENT = """
import pathlib, sys
from edge_agent.engines.onnx_cpu import OnnxCpuEngine
from maskfleet.decoding import decoder_spec
OnnxCpuEngine.load(pathlib.Path(sys.argv[2]), decoder=decoder_spec("centerface"), threads=1)
"""
_OPENVINO = """
import edge_agent, openvino
from openvino.tools.ovc import telemetry_utils  # what sends, and would ask who this is
"""


def left_behind(script: str, home: Path, *arguments: Path) -> list[str]:
    """What a fresh process leaves in an empty home folder, where nobody has set a switch."""
    home.mkdir()
    environ = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environ |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "XDG_CONFIG_HOME": str(home / "config")}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def test_compiler_and_agent_leave_nothing_in_the_home_of_their_user(centerface_path: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine.onnx"
    assert left_behind(_PREPARED, tmp_path / "compiler", centerface_path, engine) == []
    assert left_behind(_AGENT, tmp_path / "agent", centerface_path, engine) == []


def test_openvino_leaves_nothing_in_the_home_of_its_user(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert left_behind(_OPENVINO, tmp_path / "home") == []


def test_what_a_person_has_set_stays_as_it_is() -> None:
    environ = {"ORT_DISABLE_TELEMETRY": "0"}
    hush(environ)
    assert environ == {**SWITCHES, "ORT_DISABLE_TELEMETRY": "0"}
