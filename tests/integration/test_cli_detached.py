"""``fleet up --detach`` and ``fleet down``: a stack that outlives its terminal, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("stack")


def test_a_stack_in_the_background_is_found_refused_a_second_time_and_stopped(tmp_path: Path) -> None:
    environment = {**os.environ, **{f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CONFIG", "CACHE", "DATA")}}

    def fleet(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fleet.cli", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == code, done.stderr
        return done

    assert "nothing runs in" in fleet("down").stderr
    bad = ["up", "--detach", "--any-port", "--agent-option", "health-interval-s=soon"]
    assert "health-interval-s" in fleet(*bad, code=3).stderr
    up = ["up", "--detach", "--any-port", "--agent-option", "health-interval-s=2", "--otlp", "plane", "-o", "json"]
    try:
        said = json.loads(fleet(*up).stdout)
        assert (said["event"], len(said["agents"])) == ("ready", 1)
        devices = json.loads(fleet("devices", "list", "-o", "json").stdout)
        assert [device["name"] for device in devices] == ["agent-1"]
        assert any(e["kind"] == "device.enrolled" for e in json.loads(fleet("events", "-o", "json").stdout))
        assert "a stack runs in" in fleet(*up, code=5).stderr
    finally:
        stopped = fleet("down").stderr
    assert stopped.startswith("stopped (process ")
    assert "nothing runs in" in fleet("down").stderr
    fleet("devices", "list", code=3)
