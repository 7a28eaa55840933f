"""The README's example runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2

from edge_agent.engines.loading import load
from edge_agent.servicer import MaskingServicer
from edge_agent.serving import LoadedRelease, Serving
from maskfleet.decoding import DECODERS
from maskfleet.policy import MaskPolicy
from maskfleet.rpc.channel import MAX_FRAME_BYTES
from maskfleet.rpc.server import bind, make_server
from maskfleet.v1 import masking_service_pb2_grpc
from model_compiler.prepare import prepare

ROOT = Path(__file__).parents[2]


def test_the_example_masks_a_video(centerface_path: Path, tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    assert len(example[1].strip().splitlines()) <= 12, "it is no short example any more"
    spec = DECODERS["centerface"]
    engine_path = tmp_path / "engine.onnx"
    engine_path.write_bytes(prepare(centerface_path.read_bytes(), spec, 320, 320).model)
    serving = Serving()
    engine = load("ort-cpu", engine_path, decoder=spec, threads=1)
    serving.swap(LoadedRelease("r-1", "sha256:1", engine, spec, MaskPolicy()))
    servicer = MaskingServicer(serving)
    server = make_server(workers=servicer.workers, max_message_bytes=MAX_FRAME_BYTES)
    masking_service_pb2_grpc.add_MaskingServiceServicer_to_server(servicer, server)
    address = bind(server, "127.0.0.1:0")
    server.start()
    portrait = cv2.imread(str(ROOT / "edge_agent" / "golden" / "portrait.jpg"))
    assert portrait is not None
    height, width = portrait.shape[:2]
    video = cv2.VideoWriter(str(tmp_path / "street.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for _ in range(3):
        video.write(portrait)
    video.release()
    code = example[1].replace("127.0.0.1:7710", address).replace("street.mp4", "street.avi")
    assert address in code
    assert "street.avi" in code
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        server.stop(None).wait()
        serving.swap(None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{n} MASKED DETECTED 1" for n in range(3)]
    assert len(list(tmp_path.glob("masked-*.jpg"))) == 3
