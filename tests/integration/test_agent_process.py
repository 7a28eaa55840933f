"""The agent as a process: it joins, updates itself, and comes back from being killed at the worst moments."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2

from maskfleet.errors import FleetError
from maskfleet.manifest import MANIFEST_TYPE, Envelope, release_digest
from maskfleet.policy import MaskPolicy, Style
from maskfleet.rpc.status import from_rpc_error
from maskfleet.v1 import devices_pb2, masking_pb2, masking_service_pb2, masking_service_pb2_grpc
from tests.integration.plane_stub import PlaneStub

COMMITTED, REVERTED = devices_pb2.COMPONENT_STATE_COMMITTED, devices_pb2.COMPONENT_STATE_REVERTED
ROOT = Path(__file__).parents[2]
PICTURE = (ROOT / "edge_agent" / "golden" / "two-faces.jpg").read_bytes()
WAIT_S = 30


def prepared(weights: Path, noise: float = 0.0) -> bytes:
    """CenterFace at 320×256; with noise on its weights it is no detector any more."""
    onnx = pytest.importorskip("onnx")
    from maskfleet.decoding import decoder_spec
    from model_compiler.prepare import prepare

    made = prepare(weights.read_bytes(), decoder_spec("centerface"), 320, 256).model
    if not noise:
        return made
    model = onnx.load_from_string(made)
    random = np.random.default_rng(7)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            noised = values + noise * values.std() * random.standard_normal(values.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(noised.astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def engine(centerface_path: Path) -> bytes:
    return prepared(centerface_path)


@pytest.fixture(scope="module")
def other_engine(engine: bytes) -> bytes:
    """Another file that finds the same faces."""
    return engine + b"\x72\x04\x0a\x02ab"  # one more entry of metadata_props


class Agent:
    """A running agent."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        line = process.stdout.readline() if process.stdout else ""
        assert line, f"no ready line: {log.read_text()[-2000:]}"
        self.ready = json.loads(line)
        self.device = str(self.ready["device_id"])
        self.channel = grpc.insecure_channel(self.ready["listen"])

    def health(self) -> int:
        answer = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        return int(answer.status)

    def wait_serving(self) -> None:
        """Returns once health says SERVING."""
        for update in health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S):
            if update.status == health_pb2.HealthCheckResponse.SERVING:
                return

    def mask(self) -> masking_pb2.FrameResult:
        frame = masking_pb2.Frame(
            sequence=1, encoded=masking_pb2.EncodedImage(encoding=masking_pb2.IMAGE_ENCODING_JPEG, data=PICTURE)
        )
        try:
            stub = masking_service_pb2_grpc.MaskingServiceStub(self.channel)
            return stub.MaskImage(masking_service_pb2.MaskImageRequest(frame=frame), timeout=WAIT_S).result
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.ready['metrics']}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


class Bench:
    """A data directory, a plane, and agents on them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plane = PlaneStub()
        self.token = path / "join.token"
        self.token.write_text(f"{self.plane.join_token}\n")
        self._closing = contextlib.ExitStack()

    def command(self, *more: str) -> list[str]:
        return [
            sys.executable, "-m", "edge_agent", "--data-dir", str(self.path / "agent"), "--listen", "127.0.0.1:0",
            "--threads", "1", "--soak-s", "0.5", "--health-interval-s", "0.5", *more,
        ]  # fmt: skip

    def agent(self, *more: str, environ: dict[str, str] | None = None) -> Agent:
        arguments = more or ("--plane", self.plane.address, "--join-token-file", str(self.token))
        log = self.path / "agent.log"
        with log.open("a") as errors:
            process = subprocess.Popen(
                self.command(*arguments), stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
                env={**os.environ, **(environ or {})},
            )  # fmt: skip
        self._closing.callback(self._end, process)
        return Agent(process, log)

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT_S)
        if process.stdout:
            process.stdout.close()

    def close(self) -> None:
        self._closing.close()
        self.plane.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def serving(bench: Bench, engine: bytes) -> Agent:
    """An agent that has committed r-1."""
    agent = bench.agent()
    bench.plane.assign(agent.device, 1, "r-1", bench.plane.manifest("r-1", engine))
    bench.plane.wait_report(1, COMMITTED)
    return agent


def masked(result: masking_pb2.FrameResult) -> None:
    """Both faces are masked, and the picture is another."""
    assert (result.outcome, len(result.regions)) == (masking_pb2.OUTCOME_MASKED, 2)
    before = cv2.imdecode(np.frombuffer(PICTURE, np.uint8), cv2.IMREAD_COLOR)
    after = cv2.imdecode(np.frombuffer(result.encoded.data, np.uint8), cv2.IMREAD_COLOR)
    assert before is not None
    assert after is not None
    for x1, y1, x2, y2 in ((49, 76, 113, 148), (242, 137, 283, 184)):
        assert np.abs(before[y1:y2, x1:x2].astype(int) - after[y1:y2, x1:x2].astype(int)).mean() > 5


def test_a_device_joins_takes_a_release_and_masks(bench: Bench, engine: bytes) -> None:
    agent = bench.agent("--plane", bench.plane.address, "--join-token-file", str(bench.token), "--name", "cam-1")
    assert agent.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(FleetError, match="no release is loaded"):
        agent.mask()
    bench.plane.assign(agent.device, 1, "r-1", bench.plane.manifest("r-1", engine))
    component = bench.plane.wait_report(1, COMMITTED)
    assert (component.serving_release_id, component.target) == ("r-1", "ort-cpu")
    agent.wait_serving()
    masked(agent.mask())
    assert 'maskfleet_release_info{release="r-1",target="ort-cpu"} 1.0' in agent.metrics()
    assert 'maskfleet_engine_swaps_total{result="swapped"} 1.0' in agent.metrics()
    window = bench.plane.wait(lambda: next((w for w in bench.plane.windows if w.frames_by_outcome.get("MASKED")), None))
    assert (window.release_id, window.detections, window.starts) == ("r-1", 2, 1)
    assert sum(window.latency_ms_by_stage["TOTAL"].counts) == 1
    sequences = [w.sequence for w in bench.plane.windows]
    assert sequences == sorted(set(sequences))
    assert agent.end() == 0
    modes = {name: (bench.path / "agent" / name).stat().st_mode & 0o777 for name in ("device.key", "credential.json")}
    assert set(modes.values()) == {0o600}
    assert str(bench.plane.join_token) not in agent.log.read_text()


def test_an_agent_killed_in_the_middle_of_a_download_goes_on_where_it_was(bench: Bench, engine: bytes) -> None:
    plane = bench.plane
    plane.hold_after = 3 << 20
    agent = bench.agent()
    plane.assign(agent.device, 1, "r-1", plane.manifest("r-1", engine))
    plane.wait(lambda: plane.reports and plane.reports[-1].components[0].bytes_done == plane.hold_after)
    part = bench.path / "agent" / "updates" / "parts"
    agent.kill()
    kept = sum(file.stat().st_size for file in part.iterdir())
    assert kept == plane.hold_after
    plane.release_hold()
    again = bench.agent()
    plane.wait_report(1, COMMITTED)
    assert plane.offsets == [0, kept]
    assert plane.enrolled == [agent.device], "it joins once"
    masked(again.mask())


def test_an_agent_killed_in_the_middle_of_a_stream_comes_back_masking(bench: Bench, serving: Agent) -> None:
    def requests() -> Iterator[masking_service_pb2.MaskRequest]:
        config = masking_pb2.StreamConfig(mode=masking_pb2.STREAM_MODE_LIVE)
        yield masking_service_pb2.MaskRequest(config=config)
        yield from map(encoded_frame, range(10_000))

    def stream_and_kill() -> None:
        results = 0
        for response in masking_service_pb2_grpc.MaskingServiceStub(serving.channel).Mask(requests()):
            results += response.HasField("result")
            if results == 3:
                serving.kill()

    with pytest.raises(grpc.RpcError):
        stream_and_kill()
    again = bench.agent()
    again.wait_serving()
    masked(again.mask())


def encoded_frame(sequence: int) -> masking_service_pb2.MaskRequest:
    image = masking_pb2.EncodedImage(encoding=masking_pb2.IMAGE_ENCODING_JPEG, data=PICTURE)
    return masking_service_pb2.MaskRequest(frame=masking_pb2.Frame(sequence=sequence, encoded=image))


class EveryFrame:
    """A stream that sends the next frame with each result, until it is told to end."""

    def __init__(self, agent: Agent) -> None:
        self._more: queue.SimpleQueue[masking_service_pb2.MaskRequest | None] = queue.SimpleQueue()
        config = masking_pb2.StreamConfig(mode=masking_pb2.STREAM_MODE_EVERY_FRAME)
        self._more.put(masking_service_pb2.MaskRequest(config=config))
        stub = masking_service_pb2_grpc.MaskingServiceStub(agent.channel)
        self._call = stub.Mask(iter(self._more.get, None), timeout=60)
        assert next(self._call).opened.credits >= 2
        self._sent = 0
        self.results: list[masking_pb2.FrameResult] = []
        self.send()

    def send(self) -> None:
        self._more.put(encoded_frame(self._sent))
        self._sent += 1

    def step(self) -> masking_pb2.FrameResult:
        """Keeps one frame waiting, and takes the next result."""
        self.send()
        self.results.append(next(self._call).result)
        return self.results[-1]

    def step_on(self) -> None:
        """Steps for as long as there are results."""
        while True:
            self.step()

    def end(self) -> None:
        self._more.put(None)
        self.results += [response.result for response in self._call]


def test_a_swap_loses_no_frame_and_keeps_their_order(
    bench: Bench, serving: Agent, engine: bytes, other_engine: bytes
) -> None:
    stream = EveryFrame(serving)
    digests = {stream.step().release_digest}
    policy = bench.plane.manifest("r-2", engine, policy=MaskPolicy(style=Style.SOLID))
    for generation, manifest in ((2, policy), (3, bench.plane.manifest("r-3", other_engine))):
        bench.plane.assign(serving.device, generation, f"r-{generation}", manifest)
        while release_digest(manifest) not in digests:
            digests.add(stream.step().release_digest)
        bench.plane.wait_report(generation, COMMITTED)
    stream.end()
    assert [result.sequence for result in stream.results] == list(range(len(stream.results)))
    assert {result.outcome for result in stream.results} == {masking_pb2.OUTCOME_MASKED}
    assert {len(result.regions) for result in stream.results} == {2}
    assert len({region.track_id for result in stream.results for region in result.regions}) == 2, "tracks are kept"


def test_an_agent_that_is_told_to_stop_ends_its_streams_in_order(bench: Bench, serving: Agent) -> None:
    stream = EveryFrame(serving)
    stream.step()
    serving.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as caught:
        stream.step_on()
    assert "stopping" in str(from_rpc_error(caught.value))
    assert serving.process.wait(WAIT_S) == 0


def test_a_restart_without_the_plane_serves_what_is_committed(bench: Bench, serving: Agent) -> None:
    assert serving.end() == 0
    bench.plane.close()
    bench.token.unlink()  # which is for the first start only
    again = bench.agent()
    again.wait_serving()
    masked(again.mask())
    again.end()
    alone = bench.agent("--name", "alone")
    alone.wait_serving()
    masked(alone.mask())


def test_another_policy_comes_without_a_download(bench: Bench, serving: Agent, engine: bytes) -> None:
    manifest = bench.plane.manifest("r-2", engine, policy=MaskPolicy(style=Style.SOLID))
    bench.plane.assign(serving.device, 2, "r-2", manifest)
    bench.plane.wait_report(2, COMMITTED)
    assert bench.plane.offsets == [0]
    masked(serving.mask())


def test_what_is_wrong_is_refused_and_the_old_release_serves_on(
    bench: Bench, serving: Agent, engine: bytes, other_engine: bytes, centerface_path: Path
) -> None:
    plane = bench.plane
    stranger = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
    noised = prepared(centerface_path, noise=0.5)
    before = serving.mask().release_digest
    wrong = plane.manifest("r-3", other_engine[::-1], promised=other_engine)
    for generation, words, manifest, key in (
        (2, "no trusted key", plane.manifest("r-2", engine), stranger),
        (3, "its manifest says", wrong, None),
        (4, "the engine finds", plane.manifest("r-4", noised), None),
    ):
        plane.assign(serving.device, generation, f"r-{generation}", manifest, key=key)
        component = plane.wait_report(generation, REVERTED)
        assert words in component.reason
        assert component.serving_release_id == "r-1"
        result = serving.mask()
        masked(result)
        assert result.release_digest == before
    plane.assign(serving.device, 1, "r-1", plane.manifest("r-1", engine))
    plane.wait(lambda: "older than 4" in plane.reports[-1].components[0].reason)
    plane.assign(serving.device, 5, "r-5", plane.manifest("r-5", other_engine))
    assert plane.wait_report(5, COMMITTED).serving_release_id == "r-5"
    masked(serving.mask())


def test_health_windows_survive_the_agent_and_the_absence_of_the_plane(bench: Bench, serving: Agent) -> None:
    bench.plane.close()
    serving.mask()
    assert serving.end() == 0
    bench.plane = PlaneStub(bench.plane.address)
    bench.agent()
    window = bench.plane.wait(lambda: next((w for w in bench.plane.windows if w.frames_by_outcome.get("MASKED")), None))
    assert window.boot_id != bench.plane.hellos[-1].boot_id


def test_a_plane_with_another_key_than_the_tokens_is_not_joined(bench: Bench) -> None:
    other = PlaneStub()
    other.key = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
    other.join_token = bench.plane.join_token
    done = bench.agent("--plane", other.address, "--join-token-file", str(bench.token))
    assert done.process.wait(WAIT_S) == 1
    last = done.log.read_text().splitlines()[-1]
    assert last.startswith("error: the plane's key is ")
    assert not (bench.path / "agent" / "credential.json").exists()
    other.close()


def wrong_starts(path: Path) -> dict[str, tuple[list[str], int, str]]:
    package, token = path / "package", path / "token"
    package.mkdir()
    token.write_text("mfo1.not-a-join-token")
    return {
        "nothing to mask with": ([], 2, "error: there is nothing to mask with"),
        "a plane without a token": (["--plane", "127.0.0.1:1"], 2, "error: this device is not enrolled"),
        "a package and a plane": (["--plane", "127.0.0.1:1", "--package", "x"], 2, "error: --package and --plane"),
        "no package": (["--package", str(package)], 2, "error: "),
        "a token of another kind": (
            ["--plane", "127.0.0.1:1", "--join-token-file", str(token)], 2, "error: this is no join token",
        ),
        "no token file": (["--plane", "127.0.0.1:1", "--join-token-file", "/nowhere"], 2, "error: the join token file"),
        "open to the network": (["--listen", "0.0.0.0:0", "--package", "x"], 2, "error: 0.0.0.0:0 can be reached"),
        "a directory that cannot be": (["--data-dir", "/dev/null/x", "--package", "x"], 1, "error: the data directory"),
        "a number that is none": (["--threads", "many"], 2, "error: --threads is 'many'"),
    }  # fmt: skip


def test_a_wrong_start_is_one_line_and_an_exit_status(tmp_path: Path) -> None:
    for name, (arguments, status, words) in wrong_starts(tmp_path).items():
        command = [sys.executable, "-m", "edge_agent", "--data-dir", str(tmp_path / "agent"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False, cwd=ROOT)
        assert (done.returncode, done.stdout) == (status, ""), (name, done.stderr)
        assert done.stderr.startswith(words), (name, done.stderr)
        assert done.stderr.count("\n") == 1, (name, done.stderr)


def test_a_package_is_masked_with_by_itself(bench: Bench, engine: bytes) -> None:
    package = bench.path / "package"
    (package / "engines").mkdir(parents=True)
    payload = bench.plane.manifest("local", engine)
    (package / "manifest.json").write_bytes(Envelope(payload, MANIFEST_TYPE, {}).to_bytes())
    for digest, data in bench.plane.artifacts.items():
        (package / "engines" / digest[7:]).write_bytes(data)
    agent = bench.agent("--package", str(package))
    assert agent.health() == health_pb2.HealthCheckResponse.SERVING
    masked(agent.mask())
    assert agent.end() == 0
    for file in (package / "engines").iterdir():
        file.write_bytes(file.read_bytes()[::-1])
    command = bench.command("--package", str(package))
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the engine's bytes have digest")


class Collector(metrics_service_pb2_grpc.MetricsServiceServicer):
    """An OpenTelemetry collector that keeps what it gets."""

    def __init__(self) -> None:
        self.requests: queue.Queue[metrics_service_pb2.ExportMetricsServiceRequest] = queue.Queue()
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(  # noqa: N802  # OTLP's name
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        self.requests.put(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


def test_opentelemetry_metrics_reach_a_collector_named_by_the_standard_variables(bench: Bench, engine: bytes) -> None:
    collector = Collector()
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_RESOURCE_ATTRIBUTES": "site=berlin",
    }
    plane = ("--plane", bench.plane.address, "--join-token-file", str(bench.token))
    agent = bench.agent(*plane, environ=environ)
    bench.plane.assign(agent.device, 1, "r-1", bench.plane.manifest("r-1", engine))
    bench.plane.wait_report(1, COMMITTED)
    masked(agent.mask())
    masked(agent.mask())
    while True:
        (resource,) = collector.requests.get(timeout=WAIT_S).resource_metrics
        metrics = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
        if "maskfleet.frames" in metrics and metrics["maskfleet.frames"].sum.data_points[0].as_int == 2:
            break
    said = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
    assert (said["service.name"], said["service.instance.id"], said["site"]) == (
        "maskfleet-agent", agent.device, "berlin",
    )  # fmt: skip
    frames = metrics["maskfleet.frames"].sum
    assert frames.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert {a.key: a.value.string_value for a in frames.data_points[0].attributes} == {
        "outcome": "MASKED", "reason": "DETECTED", "release": "r-1", "target": "ort-cpu",
    }  # fmt: skip
    assert metrics["maskfleet.stage.duration"].histogram.data_points[0].explicit_bounds
    assert agent.end() == 0
    collector.server.stop(None).wait()
