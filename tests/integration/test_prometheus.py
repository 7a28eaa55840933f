"""A real Prometheus scrapes a plane and an agent, and answers with what both count."""

from __future__ import annotations

import asyncio
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
from google.protobuf.duration_pb2 import Duration
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc

from fleet import MaskingClient
from maskfleet.rpc.channel import connect, connect_aio, metadata
from maskfleet.v1 import (
    devices_service_pb2,
    devices_service_pb2_grpc,
    releases_service_pb2,
    rollouts_service_pb2,
    strategy_pb2,
)
from tests.integration.test_otlp import frames
from tests.integration.test_otlp import request as otlp
from tests.integration.test_plane import Client, TestDevice, add_model
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

    def prometheus(self, **jobs: str) -> Callable[[str], dict[tuple[str, ...], float]]:
        """A real one that scrapes addresses by job, and answers queries: values by those of labels, sorted by name."""
        program = shutil.which("prometheus")
        if program is None:
            missing("prometheus", "Prometheus is not installed (apt-get install prometheus)")
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in jobs.items()
            ],
        }
        (self._folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        self.start(
            "prometheus", program, f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}", "--web.listen-address=127.0.0.1:0",
        )  # fmt: skip
        found = eventually(lambda: re.search(r'"?Listening on"? address=(\S+)', self.log("prometheus")))
        address = found.group(1)

        def ask(query: str) -> dict[tuple[str, ...], float]:
            parameters = urllib.parse.urlencode({"query": query})
            try:
                with urllib.request.urlopen(f"http://{address}/api/v1/query?{parameters}", timeout=WAIT_S) as answer:
                    results = json.load(answer)["data"]["result"]
            except OSError:  # it is about to start
                return {}
            return {
                tuple(v for k, v in sorted(r["metric"].items()) if k not in ("__name__", "instance")): float(
                    r["value"][1]
                )
                for r in results
            }

        return ask


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

    ask = processes.prometheus(plane=plane["metrics"], agent=agent["metrics"])
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


STRATEGY = strategy_pb2.RolloutStrategy(
    waves=[
        strategy_pb2.WaveSpec(share=strategy_pb2.Share(count=1), soak=Duration(seconds=3600)),
        strategy_pb2.WaveSpec(share=strategy_pb2.Share(percent=100)),
    ],
    judge=strategy_pb2.JudgePolicy(kind=strategy_pb2.JUDGE_KIND_THRESHOLDS),
)


async def a_canary_soaks_and_sends_metrics(plane: dict[str, str], closing: contextlib.AsyncExitStack) -> None:
    """A release is rolled out to one of two devices, which sends what it counts by OTLP."""
    operator, builder = [
        await closing.enter_async_context(Client(plane["listen"], Path(plane[f"{who}_token_file"]).read_text().strip()))
        for who in ("operator", "builder")
    ]
    create = releases_service_pb2.CreateReleaseRequest(model="centerface", targets=["ort-cpu"])
    release = (await operator.call(operator.releases.CreateRelease, create)).release
    await builder.build()
    token = await operator.call(operator.devices.CreateJoinToken, devices_service_pb2.CreateJoinTokenRequest())
    devices = {}
    for name in ("a", "b"):
        devices[name] = await (await TestDevice(plane["listen"], name).enrol(token.token)).connect()
        closing.push_async_callback(devices[name].disconnect)
    request = rollouts_service_pb2.CreateRolloutRequest(release_id=release.id, strategy=STRATEGY)
    rollout = (await operator.call(operator.rollouts.CreateRollout, request)).rollout
    canary = devices[next(d.device_name for d in rollout.devices if d.wave == 0)]
    await canary.say(await canary.desired(), "COMMITTED")
    channel = await closing.enter_async_context(connect_aio(plane["listen"]))
    stub: Any = metrics_service_pb2_grpc.MetricsServiceStub(channel)  # type: ignore[no-untyped-call]
    counted = otlp(
        frames(90, release=release.id),
        frames(2, outcome="DROPPED", reason="SOURCE_FRAME", release=release.id),
        frames(8, outcome="DROPPED", reason="SUPERSEDED", release=release.id),
    )
    await stub.Export(counted, timeout=WAIT_S, metadata=metadata(canary.credential))


async def test_prometheus_sees_a_release_its_rollout_and_what_the_judge_says(
    tmp_path: Path, processes: Processes
) -> None:
    await add_model(tmp_path)
    plane = processes.ready(
        processes.start(
            "plane", sys.executable, "-m", "control_plane", "--data-dir", str(tmp_path), "--listen", "127.0.0.1:0",
            "--metrics-listen", "127.0.0.1:0",
        ),
        "plane",
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as closing:
        await a_canary_soaks_and_sends_metrics(plane, closing)
        ask = processes.prometheus(plane=plane["metrics"])

        def sees(query: str, wanted: Callable[[dict[tuple[str, ...], float]], bool]) -> None:
            eventually(lambda: wanted(ask(query)))

        def look() -> None:
            sees("maskfleet_rollout_state", lambda found: found == {("plane", "ro-1", "SOAKING"): 1.0})
            sees("maskfleet_judge_verdicts_total", lambda found: found.get(("plane", "INCONCLUSIVE"), 0) >= 1)
            sees(
                "maskfleet_fleet_frames_total",
                lambda found: found == {
                    ("plane", "MASKED", "r-1", "ort-cpu"): 90.0, ("plane", "DROPPED", "r-1", "ort-cpu"): 10.0,
                },
            )  # fmt: skip
            sees(
                "maskfleet_fleet_guard_actions_total",
                lambda found: found == {("plane", "SOURCE_FRAME", "r-1", "ort-cpu"): 2.0},
            )
            sees("sum by (release) (maskfleet_fleet_devices)", lambda found: sum(found.values()) == 2.0)

        await asyncio.to_thread(look)
    with urllib.request.urlopen(f"http://{plane['metrics']}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    (help_line,) = [line for line in text.splitlines() if line.startswith("# HELP maskfleet_judge_verdicts_total")]
    assert "no statistical verdict" in help_line
