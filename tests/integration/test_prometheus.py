"""A real Prometheus scrapes a plane and an agent, and answers with what both count."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet import MaskingClient
from maskfleet.rpc.channel import connect, metadata
from maskfleet.v1 import devices_service_pb2, devices_service_pb2_grpc
from tests.required import missing

WAIT_S = 60
ROOT = Path(__file__).parents[2]


class Processes:
    """Started, and ended with the block."""

    def __init__(self, folder: Path, closing: contextlib.ExitStack) -> None:
        self._folder = folder
        self._closing = closing

    def start(self, name: str, *command: str, environ: dict[str, str] | None = None) -> Any:
        log = (self._folder / f"{name}.log").open("w")
        self._closing.callback(log.close)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env={**os.environ, **(environ or {})}
        )

        def end() -> None:
            process.terminate()
            try:
                process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(WAIT_S)
            if process.stdout is not None:
                process.stdout.close()

        self._closing.callback(end)
        return process

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def ready(self, process: Any, name: str) -> dict[str, str]:
        line = process.stdout.readline()
        assert line, self.log(name)[-2000:]
        found: dict[str, str] = json.loads(line)
        return found


def eventually(look: Callable[[], Any]) -> Any:
    """What a look finds, once it finds something."""
    until = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < until, f"still {found!r} after {WAIT_S} s"
        time.sleep(0.1)
    return found


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with contextlib.ExitStack() as closing:
        yield Processes(tmp_path, closing)


def test_a_prometheus_scrapes_plane_and_agent(tmp_path: Path, processes: Processes) -> None:
    program = shutil.which("prometheus")
    if program is None:
        missing("prometheus", "Prometheus is not installed (apt-get install prometheus)")
    plane = processes.ready(
        processes.start(
            "plane", sys.executable, "-m", "control_plane", "--data-dir", str(tmp_path / "plane"),
            "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
        ),
        "plane",
    )  # fmt: skip
    token = tmp_path / "join.token"
    with connect(plane["listen"]) as channel:
        answer = devices_service_pb2_grpc.DevicesServiceStub(channel).CreateJoinToken(
            devices_service_pb2.CreateJoinTokenRequest(),
            metadata=metadata(Path(plane["operator_token_file"]).read_text().strip()),
            timeout=WAIT_S,
        )
        token.write_text(answer.token)
    agent = processes.ready(
        processes.start(
            "agent", sys.executable, "-m", "edge_agent", "--data-dir", str(tmp_path / "agent"),
            "--listen", "127.0.0.1:0", "--plane", plane["listen"], "--join-token-file", str(token), "--otlp", "plane",
            environ={"OTEL_METRIC_EXPORT_INTERVAL": "300"},
        ),
        "agent",
    )  # fmt: skip
    picture = np.zeros((64, 96, 3), np.uint8)
    with MaskingClient(agent["listen"]) as client:
        outcomes = [result.outcome.name for result in client.stream([picture] * 5)]
    assert outcomes == ["FULL_MASK"] * 5, "there is no engine: it fails closed"

    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [address]}]}
            for job, address in (("plane", plane["metrics"]), ("agent", agent["metrics"]))
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    processes.start(
        "prometheus", program, f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}", "--web.listen-address=127.0.0.1:0",
    )  # fmt: skip
    found = eventually(lambda: re.search(r'"?Listening on"? address=(\S+)', processes.log("prometheus")))
    address = found.group(1)

    def ask(query: str) -> dict[tuple[str, ...], float]:
        parameters = urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{parameters}", timeout=WAIT_S) as answer:
                results = json.load(answer)["data"]["result"]
        except OSError:  # it is about to start
            return {}
        return {
            tuple(v for k, v in sorted(r["metric"].items()) if k not in ("__name__", "instance")): float(r["value"][1])
            for r in results
        }

    up = {("agent",): 1.0, ("plane",): 1.0}
    eventually(lambda: ask("up") == up)
    assert eventually(lambda: ask('maskfleet_frames_total{job="agent"}')) == {("agent", "FULL_MASK", "NO_ENGINE"): 5}
    fleet = {("plane", "FULL_MASK", "none", "none"): 5.0}
    eventually(lambda: ask("maskfleet_fleet_frames_total") == fleet)
    guarded = {("plane", "NO_ENGINE", "none", "none"): 5.0}
    eventually(lambda: ask("maskfleet_fleet_guard_actions_total") == guarded)
    eventually(lambda: ask("sum by (release) (maskfleet_fleet_stage_seconds_count)").get(("none",), 0) > 0)
    eventually(lambda: ask('maskfleet_devices{state="online"}') == {("plane", "online"): 1.0})
    eventually(lambda: ask("maskfleet_fleet_devices") == {("plane", "none", "EMPTY", "none"): 1.0})
