"""A real MLflow registry behind the plane: models go in, and what builds of them found comes after."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from control_plane.config import Config
from control_plane.plane import Plane
from control_plane.registry import Registry
from control_plane.telemetry import Metrics
from maskfleet import errors
from maskfleet.clock import FakeClock
from maskfleet.ids import digest_bytes
from maskfleet.v1 import events_service_pb2, models_service_pb2
from maskfleet.v1 import releases_service_pb2 as releases
from tests.integration.test_plane import Kit, refused

READ = """
import json, mlflow, pathlib, sys
mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1])
version = mlflow.MlflowClient().get_model_version("faces", "1")
model = pathlib.Path(mlflow.artifacts.download_artifacts("models:/faces/1"))
files = pathlib.Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path="maskfleet"))
print(json.dumps({
    "model": [p.name for p in model.iterdir()],
    "tags": version.tags,
    "files": {str(p.relative_to(files)): json.loads(p.read_text()) for p in files.rglob("*.json")},
}))
"""


@pytest.fixture
async def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    monkeypatch.setattr(Registry, "warm_up", lambda _self: None)  # the first model starts it
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    async with Plane.running(config, tmp_path, clock=FakeClock(datetime.now(timezone.utc)), metrics=Metrics()) as plane:
        kit = Kit(plane, plane._clock)  # type: ignore[arg-type]
        yield kit
        await kit.close()


async def kill_worker(kit: Kit) -> None:
    worker = kit.plane._registry._process
    assert worker is not None
    worker.kill()
    await worker.wait()


async def told(kit: Kit, release_id: str) -> None:
    """The registry has heard of a release."""
    watched = kit.operator.events.WatchEvents(
        events_service_pb2.WatchEventsRequest(subject=release_id, after=1), timeout=150, metadata=kit.operator.said
    )
    async for message in watched:
        if message.event.kind == "release.logged":
            break
    watched.cancel()


async def read_back(folder: Path) -> dict[str, Any]:
    """What MLflow itself finds in the registry."""
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READ, f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(reader.communicate(), 100)
    return dict(json.loads(out.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.timeout(300)  # three starts of MLflow, of some seconds each on an idle machine
async def test_a_model_is_checked_and_registered_in_mlflow_and_so_is_what_its_builds_found(
    kit: Kit, centerface_path: Path, tmp_path: Path
) -> None:
    operator = kit.operator
    data = centerface_path.read_bytes()
    await operator.upload(data)
    request = models_service_pb2.CreateModelRequest(
        request_id="once", name="faces", decoder="centerface", artifact_digest=digest_bytes(data), description="a line"
    )

    def create() -> Any:
        return operator.models.CreateModel(request, timeout=120, metadata=operator.said)

    model = (await create()).model
    assert (model.version, model.source_uri, model.resizable) == (1, "models:/faces/1", True)
    assert (model.input_width, model.input_height, len(model.outputs)) == (640, 352, 4)
    assert (await create()).model.version == 1

    await kill_worker(kit)  # it is started again to be told of the release
    asked = releases.CreateReleaseRequest(model="faces", targets=["ort-cpu", "rtx-turing"])
    release = (await operator.call(operator.releases.CreateRelease, asked)).release
    await kit.builder.build("ort-cpu", gate={"figures": {"recall": 0.99}})
    await kit.builder.build("rtx-turing")
    await told(kit, release.id)
    said = await read_back(tmp_path)
    assert "model.onnx" in said["model"]
    assert set(said["files"]) == {f"{release.id}/ort-cpu.json", f"{release.id}/rtx-turing.json"}
    known = said["files"][f"{release.id}/ort-cpu.json"]
    assert known["report"]["backend"] == "onnxruntime"
    line = f"fp32 {known['engine']['digest']} recall 0.99"
    assert said["tags"][f"maskfleet.{release.id}.ort-cpu"] == line
    assert said["tags"]["maskfleet.decoder"] == "centerface"

    request.request_id = "again"
    assert (await create()).model.version == 2
    request.request_id, request.decoder = "twice", "yunet"
    assert isinstance(await refused(create()), errors.BadModelError)
    garbage = b"this is no ONNX"
    await operator.upload(garbage)
    request.artifact_digest, request.decoder = digest_bytes(garbage), "centerface"
    assert isinstance(await refused(create()), errors.BadModelError)
