"""What a frame costs in the agent, by stage, in one process.

    python benchmarks/masking.py ENGINE.onnx DECODER PICTURE

Medians over frames of one picture with faces, encoded as JPEG at several sizes and moved a little from frame to frame.
The engine is a prepared one, as ``python -m model_compiler compile`` leaves it under ``engines/``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np

from edge_agent.engines.loading import load
from edge_agent.masking.frames import Encoding, SourceFrame
from edge_agent.masking.outcomes import Stage
from edge_agent.pipeline import FrameMasker, FrameRecord, Wanted
from edge_agent.serving import LoadedRelease, Serving
from maskfleet.decoding import decoder_spec
from maskfleet.policy import MaskPolicy

SIZES = ((640, 360), (1280, 720), (1920, 1080))
FRAMES = 60
WARM_UP = 10


def main(engine_path: str, decoder: str, picture_path: str, threads: int = 2) -> None:
    """Prints a table of medians in milliseconds."""
    spec = decoder_spec(decoder)
    engine = load("ort-cpu", Path(engine_path), decoder=spec, threads=threads)
    serving = Serving()
    serving.swap(LoadedRelease("r-0", "sha256:0", engine, spec, MaskPolicy()))
    picture = cv2.imread(picture_path)
    assert picture is not None, f"{picture_path} is no picture"
    stages = [stage for stage in Stage if stage is not Stage.QUEUE]
    print(f"{'ms, median':>12}  faces  " + "".join(f"{stage.value:>12}" for stage in stages))
    for width, height in SIZES:
        base = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        frames = [cv2.imencode(".jpg", np.roll(base, 2 * n, axis=1))[1].tobytes() for n in range(FRAMES)]
        records: list[FrameRecord] = []
        masker = FrameMasker(serving, Wanted(), observe=records.append)
        for data in frames:
            masker.mask(SourceFrame(Encoding.JPEG, data), arrived=time.monotonic())
        kept = records[WARM_UP:]
        medians = [1000 * float(np.median([record.stages_s[stage] for record in kept])) for stage in stages]
        faces = round(np.median([record.detections for record in kept]))
        print(f"{width:>7}x{height:<4}  {faces:>5}  " + "".join(f"{value:12.2f}" for value in medians))


if __name__ == "__main__":
    main(*sys.argv[1:4])
