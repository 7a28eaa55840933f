"""``fleet up`` and the commands after it, as processes: from an ONNX file to a masked picture."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet import MaskingClient, Outcome

FLEET = [sys.executable, "-m", "fleet.cli"]
pytestmark = pytest.mark.xdist_group("stack")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    return {**os.environ, **{f"XDG_{kind}_HOME": str(home / kind) for kind in ("CONFIG", "CACHE", "DATA")}}


@pytest.fixture(scope="module")
def stack(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("stack")
    command = [*FLEET, "up", "--any-port", "--agents", "2", "--data-dir", str(directory), "-o", "json"]
    with (directory / "up.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (directory / "up.log").read_text()
        yield json.loads(line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        process.stdout.close()


def ids(log: Path, *events: str) -> set[str]:
    """Correlation ids of the lines that log these events; each event is there, and all are of one action."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert set(events) <= {line["event"] for line in lines}
    found = {line["correlation_id"] for line in lines if line["event"] in events}
    assert len(found) == 1, found
    return found


@pytest.mark.timeout(300)  # MLflow starts in it, which a busy machine makes slow
def test_from_a_file_to_a_masked_picture(
    environment: dict[str, str], stack: dict[str, Any], testdata: Path, tmp_path: Path
) -> None:
    def fleet(*arguments: str | Path, code: int = 0) -> Any:
        command = [*FLEET, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == code, done.stderr
        if code:
            assert done.stderr.splitlines()[-1].startswith("error: ")
        return json.loads(done.stdout) if "json" in arguments else done.stdout

    assert stack["event"] == "ready"
    model = testdata / "models/yunet_n_dynamic.onnx"
    fleet("models", "add", "wrong", model, "--decoder", "centerface", code=2)
    added = fleet("models", "add", "yunet", model, "--decoder", "yunet", "-o", "json")
    assert (added["name"], added["version"], added["decoder"]) == ("yunet", 1, "yunet")
    assert [m["name"] for m in fleet("models", "list", "-o", "json")] == ["yunet"]
    fleet("releases", "create", "--model", "yunet", "--target", "nope", code=2)
    fleet("releases", "create", "--model", "other", "--target", "ort-cpu", code=4)
    wanted = ("--model", "yunet", "--target", "ort-cpu", "--precision", "fp32", "--style", "solid")
    release = fleet("releases", "create", *wanted, "-o", "json")
    assert (release["state"], release["policy"]["style"]) == ("READY", "solid")
    fleet("rollouts", "create", "--release", "r-99", code=4)
    fleet("rollouts", "create", "--release", release["id"], "-l", "site=nowhere", code=5)
    fleet("devices", "label", "agent-1", "site=berlin")
    rollout = fleet("rollouts", "create", "--release", release["id"], "--watch", "-o", "json")
    assert rollout["state"] == "SUCCEEDED"
    assert [d["state"] for d in rollout["devices"]] == ["COMMITTED", "COMMITTED"]
    # One id from the command line through the plane to whoever does the work.
    logs = Path(stack["data_dir"]) / "logs"
    assert ids(logs / "builder.log", "build leased", "build succeeded") == ids(logs / "plane.log", "release made")
    rolled_out = ids(logs / "plane.log", "rollout made")
    assert ids(logs / "plane.log", "device moved", "rollout moved") == rolled_out
    for agent in ("agent-1", "agent-2"):
        assert ids(logs / f"{agent}.log", "a release is wanted", "update") == rolled_out
    shown = fleet("rollouts", "show", rollout["id"])
    assert f"{rollout['id']} → {release['id']}  SUCCEEDED" in shown
    assert "2 of 2 settled; 2 committed" in shown
    watched = fleet("rollouts", "watch", rollout["id"], "-o", "json")
    assert watched["state"] == "SUCCEEDED"  # one line: it has ended
    assert "r-1" in fleet("devices", "list")
    devices = fleet("devices", "list", "-o", "json", "-l", "site=berlin")
    assert [d["name"] for d in devices] == ["agent-1"]
    picture = testdata / "images/Test3.jpg"
    for address in stack["agents"]:
        with MaskingClient(address) as client:
            result = client.mask_image(picture.read_bytes())
        assert (result.outcome, len(result.regions)) == (Outcome.MASKED, 3)
    fleet("mask", picture, "-o", tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 0
