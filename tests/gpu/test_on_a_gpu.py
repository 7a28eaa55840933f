"""What only a GPU can show. Skipped without one; ``docs/hardware.md`` says where it has run.

The kernel runs on any GPU with pycuda, engines on one of a target whose runtime is installed too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_agent.engines import cuda
from edge_agent.engines.cuda_letterbox import CudaLetterbox
from edge_agent.engines.loading import load
from edge_agent.facts import gather
from edge_agent.masking.preprocess import Preprocessor
from edge_agent.updates.selftest import golden_frames, run_self_test
from maskfleet.decoding import DECODERS, decoder_spec
from maskfleet.errors import UnsupportedError
from maskfleet.targets import target as target_spec
from model_compiler.builds import tensorrt
from model_compiler.precision import in_precision
from model_compiler.prepare import prepare

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def driver() -> Any:
    try:
        return cuda.cuda_driver()
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_the_gpu_prepares_pictures_as_the_cpu_does(driver: Any, decoder: str) -> None:
    spec = decoder_spec(decoder)
    width, height = spec.default_size
    with cuda.current(driver):
        stream = driver.Stream()
        letterbox = CudaLetterbox(driver, width, height)
        prepared = cuda.Buffer(driver, 3 * height * width, np.float32)
        for frame in golden_frames():
            picture: npt.NDArray[np.uint8] = frame.picture
            scale = letterbox.queue(picture, spec.preprocessing, prepared.device, stream)
            prepared.download(stream)
            stream.synchronize()
            expected, expected_scale = Preprocessor(spec.preprocessing, width, height)(picture)
            assert scale == expected_scale
            off = np.abs(prepared.values((1, 3, height, width)) - expected) / spec.preprocessing.scale
            assert off.max() <= 1.001
            assert (off > 0.5).mean() < 0.03
        prepared.free()
        letterbox.close()
        del stream


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_for_this_gpu_finds_the_golden_faces(
    driver: Any, centerface_path: Path, tmp_path: Path, precision: str
) -> None:
    targets = [name for name in gather().targets if target_spec(name).sms]
    if not targets:
        pytest.skip(gather().target_note or "no target is for this machine's GPU")
    spec = decoder_spec("centerface")
    model, _notes = in_precision(prepare(centerface_path.read_bytes(), spec).model, precision)
    entry = target_spec(targets[0])
    plan = tensorrt.build(
        model,
        backend=entry.backend,
        sms=(cuda.compute_capability(driver),),
        progress=lambda _f: None,
        canceled=lambda: False,
        log=lambda _line: None,
    )
    (tmp_path / "engine").write_bytes(plan)
    for _start in range(2):  # the second one finds the kernels that the first one kept
        engine = load(entry.name, tmp_path / "engine", decoder=spec, threads=1)
        run_self_test(engine, spec, spec.default_policy())
        engine.close()
