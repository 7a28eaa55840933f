"""The TensorRT engine: what it asks of the GPU, in which order, and that it gives everything back.

Which members of TensorRT it uses is held by ``tests/contract/test_trt_bindings.py``; here TensorRT and pycuda are
stand-ins that write down what is asked of them.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from edge_agent.engines import cuda_letterbox
from edge_agent.engines import tensorrt as ours
from edge_agent.engines.cuda import cuda_driver
from edge_agent.engines.engine import PictureEngine
from edge_agent.engines.loading import load
from edge_agent.engines.tensorrt import TensorRtEngine
from edge_agent.facts import gather
from maskfleet.decoding import decoder_spec
from maskfleet.errors import BadModelError, EngineError, FleetError, UnsupportedError
from tests.unit.edge_agent.fake_gpu import FakeGpu, GpuError

DECODER = decoder_spec("ultraface")
SHAPES = {"input": (1, 3, 24, 32), "scores": (1, 10, 2), "boxes": (1, 10, 4), "extra": (1, 1)}
FRAME = ["upload", "kernel", "replay", "synchronize"]
Loaded = Callable[..., TensorRtEngine]


def has_gpu() -> bool:
    try:
        cuda_driver()
    except UnsupportedError:
        return False
    return True


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def loaded(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loaded:
    """Loads an engine on the stand-in: its bytes, its target, its tensors."""
    (tmp_path / "slot").mkdir()
    path = tmp_path / "slot" / "engine"
    driver = gpu.driver()
    monkeypatch.setattr(ours, "CudaGraph", gpu.graphs())

    def make(
        data: bytes = b"plan", target: str = "rtx-ampere-plus", rtx: bool = False, **shapes: tuple[int, ...]
    ) -> TensorRtEngine:
        path.write_bytes(data)
        trt = gpu.tensorrt(SHAPES | shapes, rtx=rtx)
        for name, module in {"pycuda.driver": driver, "tensorrt_rtx": trt, "tensorrt": trt}.items():
            monkeypatch.setitem(sys.modules, name, module)
        return TensorRtEngine.load(path, target=target, decoder=DECODER)

    return make


def picture(value: int, width: int = 64, height: int = 48) -> Any:
    return np.full((height, width, 3), value, np.uint8)


def test_memory_is_allocated_once_and_a_frame_is_one_copy_one_kernel_one_graph(gpu: FakeGpu, loaded: Loaded) -> None:
    engine = loaded()
    assert isinstance(engine, PictureEngine)
    assert gpu.journal.count("allocate") == gpu.journal.count("pinned") == len(SHAPES) + 1
    assert gpu.journal.count("capture") == 1
    assert gpu.journal.index("enqueue") < gpu.journal.index("synchronize") < gpu.journal.index("capture")
    del gpu.journal[:]
    first, scale = engine.infer_picture(picture(7), DECODER.preprocessing)
    second, _scale = engine.infer_picture(picture(9), DECODER.preprocessing)
    assert gpu.journal == FRAME * 2
    assert gpu.depth == 0
    assert scale == 0.5
    assert {name: (value.shape, value.dtype) for name, value in first.items()} == {
        "scores": ((1, 10, 2), np.float32),
        "boxes": ((1, 10, 4), np.float32),
    }
    assert (first["boxes"] == 7).all()
    assert (second["boxes"] == 9).all()
    engine.close()


def test_the_kernel_is_told_where_the_picture_lies_and_what_the_decoder_wants(gpu: FakeGpu, loaded: Loaded) -> None:
    engine = loaded()
    engine.infer_picture(picture(7, width=100, height=30), DECODER.preprocessing)
    assert gpu.kernel[2:] == (300, 3, 33, 10, 32, 10, 32, 24, 1, 127.0, 1 / 128)
    engine.close()


def test_an_input_that_is_prepared_already_takes_the_same_way(gpu: FakeGpu, loaded: Loaded) -> None:
    engine = loaded()
    del gpu.journal[:]
    assert (engine.infer(np.full((1, 3, 24, 32), 3, np.float32))["scores"] == 3).all()
    assert gpu.journal == ["upload", "replay", "synchronize"]
    with pytest.raises(EngineError, match=r"takes float32\[1, 3, 24, 32\]"):
        engine.infer(np.zeros((1, 3, 32, 24), np.float32))
    engine.close()


def test_room_for_a_larger_picture_is_made_once_and_has_an_end(
    gpu: FakeGpu, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_letterbox, "FIRST_BYTES", 48 * 64 * 3)
    monkeypatch.setattr(cuda_letterbox, "MAX_BYTES", 96 * 128 * 3)
    engine = loaded()
    before = len(gpu.alive)
    del gpu.journal[:]
    for width in (64, 65, 66, 128):
        outputs, _scale = engine.infer_picture(picture(width, width, 48), DECODER.preprocessing)
        assert (outputs["scores"] == width).all()
    assert gpu.journal == [*FRAME, "pinned", "allocate", *FRAME * 3]
    assert len(gpu.alive) == before
    with pytest.raises(EngineError, match="too large"):
        engine.infer_picture(picture(1, 200, 100), DECODER.preprocessing)
    with pytest.raises(EngineError, match="height×width×3"):
        engine.infer_picture(np.zeros((4, 4), np.uint8), DECODER.preprocessing)
    assert (engine.infer_picture(picture(5), DECODER.preprocessing)[0]["scores"] == 5).all()
    engine.close()


def test_closing_frees_everything_once_on_whatever_thread(gpu: FakeGpu, loaded: Loaded) -> None:
    engine = loaded()
    held = [weakref.ref(value) for value in (engine._runtime, engine._engine, engine._context, engine._stream)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join()
    engine.close()
    assert gpu.alive == {}
    assert gpu.depth == 0
    gc.collect()
    assert [ref() for ref in held] == [None] * 4
    with pytest.raises(EngineError, match="closed"):
        engine.infer_picture(picture(1), DECODER.preprocessing)


@pytest.mark.parametrize("rtx", [False, True], ids=["classic", "rtx"])
def test_a_start_that_fails_at_any_step_leaves_nothing_behind(gpu: FakeGpu, loaded: Loaded, rtx: bool) -> None:
    loaded(rtx=rtx).close()
    del gpu.journal[:]
    loaded(rtx=rtx).close()
    steps = list(gpu.journal)
    assert len(steps) > 20
    for step, what in enumerate(steps):
        del gpu.journal[:]
        gpu.fail_at = step
        if what == "capture":
            loaded(rtx=rtx).close()
        else:
            with pytest.raises(EngineError, match=f"{what} failed") as raised:
                loaded(rtx=rtx)
            assert raised.value.remedy
        assert gpu.alive == {}, what
        assert gpu.depth == 0


def test_without_a_graph_each_frame_is_queued_and_the_log_says_so_once(gpu: FakeGpu, loaded: Loaded) -> None:
    loaded().close()
    gpu.fail_at = gpu.journal.index("capture")
    del gpu.journal[:]
    with capture_logs() as logs:
        engine = loaded()
        del gpu.journal[:]
        gpu.fail_at = -1
        for _ in range(2):
            engine.infer_picture(picture(7), DECODER.preprocessing)
    assert gpu.journal == ["upload", "kernel", "enqueue", *["download"] * 3, "synchronize"] * 2
    assert [entry["event"] for entry in logs] == ["the engine runs without a CUDA graph"]
    engine.close()


def test_an_error_on_the_gpu_is_the_engines(gpu: FakeGpu, loaded: Loaded) -> None:
    engine = loaded()
    gpu.fail_at = len(gpu.journal) + FRAME.index("synchronize")
    with pytest.raises(EngineError, match="synchronize failed") as raised:
        engine.infer_picture(picture(1), DECODER.preprocessing)
    assert isinstance(raised.value.__cause__, GpuError)
    gpu.fail_at = -1
    assert (engine.infer_picture(picture(2), DECODER.preprocessing)[0]["scores"] == 2).all()
    engine.close()


def test_rtx_keeps_its_kernels_for_this_gpu_and_these_versions_and_captures_by_itself(
    gpu: FakeGpu, loaded: Loaded, tmp_path: Path
) -> None:
    (tmp_path / "slot").mkdir(exist_ok=True)
    stale = tmp_path / "slot" / "engine.SM89-1.6.0.1-13000.jit"
    stale.write_bytes(b"old")
    loaded(rtx=True).close()
    kept = tmp_path / "slot" / "engine.SM89-1.7.1.116-13000.jit"
    assert kept.read_bytes() == b"kernels"
    assert not stale.exists()
    assert "capture" not in gpu.journal
    assert "read cache" not in gpu.journal
    kept.write_bytes(b"more kernels")
    loaded(rtx=True).close()
    assert "read cache" in gpu.journal
    assert kept.read_bytes() == b"more kernels"


def test_a_gpu_of_another_kind_is_refused_before_anything_is_loaded(gpu: FakeGpu, loaded: Loaded) -> None:
    gpu.capability = (7, 5)
    with pytest.raises(UnsupportedError, match=r"rtx-ampere-plus run on SM80, .*, and this machine's GPU is SM75"):
        loaded()
    assert gpu.journal == []
    loaded(target="rtx-turing").close()


REFUSED: dict[str, tuple[dict[str, Any], type[FleetError], str]] = {
    "bytes that are no plan": ({"data": b"junk"}, EngineError, "cannot load engine"),
    "an input that is not static": ({"input": (1, 3, -1, 32)}, BadModelError, "not a static"),
    "an output of another type": ({"half": (1, 1)}, BadModelError, "no float32"),
}


@pytest.mark.parametrize(("change", "kind", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_plan_that_does_not_suit_is_refused(
    gpu: FakeGpu, loaded: Loaded, change: dict[str, Any], kind: type[FleetError], said: str
) -> None:
    with pytest.raises(kind, match=said) as raised:
        loaded(**change)
    assert raised.value.remedy
    assert gpu.alive == {}


def test_a_plan_without_an_output_of_its_decoder_is_refused(
    gpu: FakeGpu, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(SHAPES, "boxes")
    with pytest.raises(BadModelError, match="decoder 'ultraface' reads scores, boxes"):
        loaded()


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_says_so(tmp_path: Path) -> None:
    assert not [name for name in gather().targets if name.startswith("rtx-")]
    with pytest.raises(UnsupportedError, match="cannot be"):
        load("rtx-ampere-plus", tmp_path / "plan", decoder=decoder_spec("yunet"), threads=1)
    with pytest.raises(UnsupportedError) as caught:
        TensorRtEngine.load(tmp_path / "plan", target="rtx-ampere-plus", decoder=decoder_spec("yunet"))
    assert caught.value.remedy
