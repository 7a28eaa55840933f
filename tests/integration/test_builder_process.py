"""The builder as a real process against a plane that does what a test wants of it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import onnx
import pytest
from onnx import helper

from maskfleet.errors import AuthenticationError, NotFoundError
from maskfleet.ids import digest_bytes, digest_file
from maskfleet.rpc.channel import MAX_CONTROL_BYTES
from maskfleet.rpc.server import bind, make_server
from maskfleet.v1 import artifacts_service_pb2 as artifacts
from maskfleet.v1 import artifacts_service_pb2_grpc, builds_pb2, builds_service_pb2_grpc
from maskfleet.v1 import builds_service_pb2 as builds

TOKEN = "mfb1.test"
PATIENCE_S = 60.0


class StubPlane(builds_service_pb2_grpc.BuildsServiceServicer, artifacts_service_pb2_grpc.ArtifactsServiceServicer):
    """Leases what it is given, keeps artifacts in memory, and fails where it is told to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.parts: dict[str, bytearray] = {}
        self.work: queue.Queue[builds_pb2.BuildSpec] = queue.Queue()
        self.ended: queue.Queue[builds.CompleteBuildRequest] = queue.Queue()
        self.facts: builds.BuilderFacts | None = None
        self.built: dict[str, builds.BuildSuccess] = {}
        self.phases: list[tuple[str, float]] = []
        self.building = threading.Event()
        self.cancel = False
        self.forget = False
        self.cut_download_at: int | None = None
        self.cut_upload_at: int | None = None
        self.download_offsets: list[int] = []
        self.upload_offsets: list[int] = []
        self._leases = 0

    # builds

    def LeaseBuild(self, request: builds.LeaseBuildRequest, context: Any) -> builds.LeaseBuildResponse:  # noqa: N802  # the wire's name
        self._check(context)
        self.facts = request.builder
        while context.is_active():
            try:
                spec = self.work.get(timeout=0.1)
            except queue.Empty:
                continue
            self._leases += 1
            response = builds.LeaseBuildResponse(
                lease_id=f"lease-{self._leases}",
                build=builds_pb2.Build(id=f"b-{self._leases}", release_id="r-1", spec=spec),
            )
            response.ttl.FromSeconds(3)
            return response
        return builds.LeaseBuildResponse()

    def HeartbeatBuild(self, request: builds.HeartbeatBuildRequest, context: Any) -> builds.HeartbeatBuildResponse:  # noqa: N802  # the wire's name
        self._check(context)
        if self.forget:
            raise NotFoundError("there is no such lease")
        self.phases.append((request.phase, request.progress))
        if request.phase in ("prepare", "precision", "build", "verify"):
            self.building.set()
        return builds.HeartbeatBuildResponse(cancel=self.cancel)

    def CompleteBuild(self, request: builds.CompleteBuildRequest, context: Any) -> builds.CompleteBuildResponse:  # noqa: N802  # the wire's name
        self._check(context)
        self.ended.put(request)
        return builds.CompleteBuildResponse()

    def FindEngine(self, request: builds.FindEngineRequest, context: Any) -> builds.FindEngineResponse:  # noqa: N802  # the wire's name
        self._check(context)
        return builds.FindEngineResponse(success=self.built.get(request.recipe or request.cache_key))

    # artifacts

    def StatArtifact(self, request: artifacts.StatArtifactRequest, context: Any) -> artifacts.StatArtifactResponse:  # noqa: N802  # the wire's name
        self._check(context)
        if request.digest in self.files:
            return artifacts.StatArtifactResponse(complete=True, size_bytes=len(self.files[request.digest]))
        return artifacts.StatArtifactResponse(size_bytes=len(self.parts.get(request.digest, b"")))

    def DownloadArtifact(  # noqa: N802  # the wire's name
        self, request: artifacts.DownloadArtifactRequest, context: Any
    ) -> Iterator[artifacts.DownloadArtifactResponse]:
        self._check(context)
        self.download_offsets.append(request.offset)
        data = self.files[request.digest]
        for start in range(request.offset, len(data), 1 << 18):
            if self.cut_download_at is not None and start >= self.cut_download_at:
                self.cut_download_at = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            yield artifacts.DownloadArtifactResponse(size_bytes=len(data), chunk=data[start : start + (1 << 18)])

    def UploadArtifact(  # noqa: N802  # the wire's name
        self, request_iterator: Iterator[artifacts.UploadArtifactRequest], context: Any
    ) -> artifacts.UploadArtifactResponse:
        self._check(context)
        header = next(request_iterator).header
        self.upload_offsets.append(header.offset)
        data = self.parts.setdefault(header.digest, bytearray())
        del data[header.offset :]
        for message in request_iterator:
            data += message.chunk
            if self.cut_upload_at is not None and len(data) >= self.cut_upload_at:
                self.cut_upload_at = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        assert digest_bytes(bytes(data)) == header.digest
        self.files[header.digest] = bytes(data)
        return artifacts.UploadArtifactResponse(digest=header.digest, size_bytes=len(data))

    # for tests

    def add(self, path: Path, target: str = "ort-cpu", decoder: str = "centerface", **fields: Any) -> str:
        """Puts a build of a file into the queue; the file's digest."""
        digest = digest_file(path)
        self.files[digest] = path.read_bytes()
        self.ask(digest, target, decoder, **fields)
        return digest

    def ask(self, digest: str, target: str = "ort-cpu", decoder: str = "centerface", **fields: Any) -> None:
        """Puts a build into the queue."""
        self.work.put(
            builds_pb2.BuildSpec(
                model_name="model", model_version=1, model_digest=digest, decoder=decoder, target=target, **fields
            )
        )

    def end(self) -> builds.CompleteBuildRequest:
        """How the next build ended."""
        return self.ended.get(timeout=PATIENCE_S)

    @staticmethod
    def _check(context: Any) -> None:
        if ("authorization", f"Bearer {TOKEN}") not in [(k, v) for k, v in context.invocation_metadata()]:
            raise AuthenticationError("this is no builder's token", remedy="give the plane's builder.token")


@contextlib.contextmanager
def serving(plane: StubPlane, address: str = "127.0.0.1:0") -> Iterator[str]:
    server = make_server(workers=8, max_message_bytes=MAX_CONTROL_BYTES)
    builds_service_pb2_grpc.add_BuildsServiceServicer_to_server(plane, server)
    artifacts_service_pb2_grpc.add_ArtifactsServiceServicer_to_server(plane, server)
    bound = bind(server, address)
    server.start()
    try:
        yield bound
    finally:
        server.stop(0).wait()


@contextlib.contextmanager
def builder(
    address: str, folder: Path, *, token: str = TOKEN, arguments: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A builder that said it is ready; stopped at the end."""
    process = start(address, folder, token=token, arguments=arguments)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert json.loads(line)["event"] == "ready", line
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()


def start(address: str, folder: Path, *, token: str = TOKEN, arguments: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    (folder / "builder.token").write_text(token + "\n")
    with (folder / "stderr").open("a") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "model_compiler", "run", "--plane", address),
                *("--token-file", str(folder / "builder.token"), "--data-dir", str(folder / "data"), *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


@pytest.fixture
def plane() -> Iterator[StubPlane]:
    return StubPlane()


@pytest.fixture
def address(plane: StubPlane) -> Iterator[str]:
    with serving(plane) as bound:
        yield bound


def test_a_build_is_leased_done_and_uploaded_and_the_next_like_it_comes_from_the_cache(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    digest = plane.add(centerface_path, min_confidence=0.4)
    with builder(address, tmp_path):
        first = plane.end()
        plane.ask(digest, min_confidence=0.4)
        second = plane.end()
    assert first.WhichOneof("result") == "success", first.failure.reason
    engine = plane.files[first.success.engine_digest]
    assert len(engine) == first.success.engine_size_bytes
    report = json.loads(first.success.report_json)
    assert report["gate"]["figures"]["recall"] == 1.0
    assert report["spec"]["min_confidence"] == 0.4
    assert plane.facts is not None
    assert report["builder_id"] == plane.facts.builder_id
    assert "ort-cpu" in plane.facts.targets
    assert "onnxruntime" in plane.facts.versions
    assert "recall" in first.log_tail
    assert plane.phases[0] == ("download", 0.0)
    assert second.success.cached
    assert (second.success.engine_digest, second.success.cache_key) == (
        first.success.engine_digest,
        first.success.cache_key,
    )
    assert plane.download_offsets == [0]  # the model was kept
    assert plane.upload_offsets == [0]  # the engine is there already


def test_what_another_builder_has_built_is_neither_fetched_nor_built_again(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    digest = plane.add(centerface_path)
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    with builder(address, folders[0]):
        first = plane.end().success
    assert first.recipe != first.cache_key
    plane.built = {first.recipe: first}
    plane.ask(digest)
    with builder(address, folders[1]):
        second = plane.end().success
    assert second.cached
    assert (second.engine_digest, second.recipe) == (first.engine_digest, first.recipe)
    assert not list((folders[1] / "data/models").iterdir())
    # Another file that is the same model: it is fetched and prepared, and found by what it came to.
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(centerface_path.read_bytes() + b"\x3a\x00")
    plane.built = {first.cache_key: first}
    plane.add(copy)
    with builder(address, folders[2]):
        third = plane.end().success
    assert third.cached
    assert third.engine_digest == first.engine_digest
    assert third.recipe != first.recipe
    assert plane.upload_offsets == [0]


def test_files_that_are_cut_on_the_way_are_gone_on_with(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    plane.cut_download_at = 3 << 20
    plane.cut_upload_at = 2 << 20
    plane.add(centerface_path)
    with builder(address, tmp_path):
        end = plane.end()
    assert end.WhichOneof("result") == "success", end.failure.reason
    assert len(plane.download_offsets) == len(plane.upload_offsets) == 2
    assert plane.download_offsets[1] > 0
    assert plane.upload_offsets[1] >= 2 << 20
    assert digest_bytes(plane.files[end.success.engine_digest]) == end.success.engine_digest


def _without_weights(path: Path, folder: Path) -> Path:
    """The model with its weights in a file that does not come along."""
    onnx.save(onnx.load(path), folder / "split.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    return folder / "split.onnx"


def _with_operator(path: Path, folder: Path) -> Path:
    """The model behind an operator of the standard that TensorRT lacks."""
    model = onnx.version_converter.convert_version(onnx.load(path), 17)
    picture, model.graph.node[0].input[0] = model.graph.node[0].input[0], "picture"
    for node in (
        helper.make_node("Add", [picture, "nothing"], ["picture"], name="mix"),
        helper.make_node("Sub", ["coin", "coin"], ["nothing"], name="cancel"),
        helper.make_node("Bernoulli", ["half"], ["coin"], name="toss"),
        helper.make_node("Sigmoid", [picture], ["half"], name="squash"),
    ):
        model.graph.node.insert(0, node)
    onnx.save(model, folder / "odd.onnx")
    return folder / "odd.onnx"


def _file(folder: Path, data: bytes) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    path.write_bytes(data)
    return path


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "garbage": ({"file": lambda path, to: _file(to, b"<html>not found</html>" * 50)}, "BadModelError", "no ONNX"),
    "a file cut short": ({"file": lambda path, to: _file(to, path.read_bytes()[:-9999])}, "BadModelError", "cut short"),
    "a flipped bit": ({"damaged": True}, "DigestMismatchError", "digest"),
    "a file that the plane has not": ({"digest": digest_bytes(b"nobody has this")}, "NotFoundError", "no model"),
    "weights that did not come along": ({"file": _without_weights}, "BadModelError", "lies in another file"),
    "a decoder of another model": ({"decoder": "yunet"}, "BadModelError", "outputs where decoder 'yunet'"),
    "a target that is none": ({"target": "tpu"}, "UnknownTargetError", "use one of"),
    "a target of another builder": ({"target": "jp6-orin"}, "UnsupportedError", "build on a Jetson Orin"),
    "a size that does not suit": ({"input_width": 641}, "InvalidInputError", "multiple of 32"),
    "a size out of range": ({"input_width": 32000}, "InvalidInputError", "input width 32000"),
    "a calibration set that is not there": (
        {"precision": builds_pb2.PRECISION_INT8, "calibration": "night/1"},
        "NotFoundError",
        "no calibration set night/1",
    ),
    "a calibration set without pictures": (
        {"precision": builds_pb2.PRECISION_INT8, "calibration": "empty/1"},
        "InvalidInputError",
        "calibration set empty/1 is empty",
    ),
    "a calibration set of other shapes": (
        {"precision": builds_pb2.PRECISION_INT8, "calibration": "grey/1"},
        "InvalidInputError",
        "a.png of calibration set grey/1 is uint8 48×64, not 8-bit height×width×3",
    ),
    "a calibration set that leaves its folder": (
        {"precision": builds_pb2.PRECISION_INT8, "calibration": "../../etc"},
        "InvalidInputError",
        "names no calibration set",
    ),
    "an operator that TensorRT lacks": (
        {"file": _with_operator, "target": "rtx-turing"},
        "BuildError",
        "node 'toss', operator Bernoulli",
    ),
    "a workspace that is too small": ({"target": "rtx-turing", "workspace_mb": 1}, "BuildError", "workspace"),
    "margins that nothing keeps within": (
        {"precision": builds_pb2.PRECISION_FP16, "margins": builds_pb2.GateMargins(max_error=1e-9)},
        "GateRefusedError",
        "off by",
    ),
}
"""What is asked for, the error's class, and what its reason says."""


@pytest.mark.slow
@pytest.mark.timeout(300)  # a process for each
def test_builds_that_cannot_be_done_end_with_their_reason_and_the_builder_goes_on(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    files, sets = tmp_path / "files", tmp_path / "sets"
    files.mkdir()
    for name in ("empty/1", "grey/1"):
        (sets / name).mkdir(parents=True)
    cv2.imwrite(str(sets / "grey/1/a.png"), np.zeros((48, 64), np.uint8))
    with builder(address, tmp_path, arguments=("--calibration-dir", str(sets))):
        for name, (asked, kind, text) in BAD.items():
            fields = dict(asked)
            path = fields.pop("file", lambda path, _to: path)(centerface_path, files)
            if "digest" in fields:
                digest = fields.pop("digest")
            else:
                digest = digest_bytes(b"as it was") if fields.pop("damaged", False) else digest_file(path)
                plane.files[digest] = path.read_bytes()
            before = set(plane.files)
            plane.ask(digest, **fields)
            end = plane.end()
            assert end.WhichOneof("result") == "failure", name
            assert (end.failure.kind, text in end.failure.reason) == (kind, True), (name, end.failure)
            assert ": " in end.failure.reason, name  # and what to do
            # Another try can help where the bytes were damaged on their way, and nowhere else.
            assert end.failure.retryable == (kind == "DigestMismatchError"), name
            assert set(plane.files) == before, name
        plane.add(centerface_path)
        last = plane.end()
    assert last.WhichOneof("result") == "success", last.failure.reason
    assert not list((tmp_path / "data" / "work").iterdir())


def test_a_build_within_too_little_memory_may_be_tried_again(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    plane.add(centerface_path)
    with builder(address, tmp_path, arguments=("--build-memory-mb", "300")):
        end = plane.end()
    assert (end.failure.kind, end.failure.retryable) == ("BuildCrashError", True)
    assert "300 MiB" in end.failure.reason


def test_a_canceled_release_stops_its_build(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    plane.cancel = True
    plane.add(centerface_path)
    with builder(address, tmp_path):
        end = plane.end()
    assert (end.failure.kind, end.failure.retryable) == ("CanceledError", False)


def test_a_lease_that_is_gone_is_left_alone(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    plane.forget = True
    plane.add(centerface_path)
    with builder(address, tmp_path):
        wait_for_log(tmp_path, "the lease is gone")
        plane.forget = False
        plane.add(centerface_path)
        end = plane.end()
    assert end.lease_id == "lease-2"
    assert plane.ended.empty()


def test_a_builder_that_is_stopped_gives_its_build_back(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    plane.add(centerface_path, target="rtx-turing")
    with builder(address, tmp_path) as process:
        assert plane.building.wait(PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        end = plane.end()
        assert process.wait(PATIENCE_S) == 0
    assert (end.failure.kind, end.failure.retryable) == ("CanceledError", True)


def test_a_builder_that_is_killed_leaves_nothing_running_and_the_next_one_builds(
    plane: StubPlane, address: str, centerface_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    plane.add(centerface_path, target="rtx-turing")
    with builder(address, tmp_path) as process:
        assert plane.building.wait(PATIENCE_S)
        children = [
            int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
        assert children
        for child in children:
            os.kill(child, signal.SIGSTOP)  # so that it does not end by itself
        process.kill()
        process.wait(PATIENCE_S)
        pause = threading.Event()
        for _ in range(100):
            if not any(alive(child) for child in children):
                break
            pause.wait(0.05)
        left = [child for child in children if alive(child)]
        for child in left:
            os.kill(child, signal.SIGKILL)
        assert not left
    plane.add(centerface_path, target="rtx-turing")  # the lease ran out, and the plane gives it out again
    with builder(address, tmp_path):
        end = plane.end()
    assert end.WhichOneof("result") == "success", end.failure.reason
    assert end.lease_id == "lease-2"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_plane_that_comes_later_is_waited_for(plane: StubPlane, centerface_path: Path, tmp_path: Path) -> None:
    with serving(plane) as address:
        pass
    plane.add(centerface_path)
    with builder(address, tmp_path) as process:
        wait_for_log(tmp_path, "cannot be reached")
        with serving(plane, address):
            end = plane.end()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert end.WhichOneof("result") == "success", end.failure.reason


def wait_for_log(folder: Path, text: str) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.1)):
        if text in (folder / "stderr").read_text():
            return
        pause.wait(0.1)
    raise AssertionError((folder / "stderr").read_text())


def test_a_wrong_token_ends_the_builder_with_one_line(address: str, tmp_path: Path) -> None:
    process = start(address, tmp_path, token="mfb1.wrong")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert (tmp_path / "stderr").read_text() == ("error: this is no builder's token: give the plane's builder.token\n")


def test_a_second_builder_on_one_folder_is_refused(address: str, tmp_path: Path) -> None:
    with builder(address, tmp_path):
        second = start(address, tmp_path)
        second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 1
    assert "another process uses the data directory" in (tmp_path / "stderr").read_text()


def test_a_token_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "model_compiler", "run", "--plane", "127.0.0.1:1"),
            *("--token-file", str(tmp_path / "none"), "--data-dir", str(tmp_path / "data")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
