"""The kernel that prepares pictures on a GPU does what the CPU's preprocessing does.

No GPU is needed: gcc compiles the kernel as C, with a loop where the GPU has threads, and ptxas assembles the PTX that
the package carries for every compute capability of a target.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_agent.engines import cuda_letterbox
from edge_agent.engines.engine import Engine, FloatArray
from edge_agent.engines.letterbox import Letterbox
from edge_agent.engines.loading import load
from edge_agent.masking.detector import Detector
from edge_agent.masking.preprocess import Preprocessor
from edge_agent.updates.shared_engine import SharedEngine
from maskfleet import frame_size
from maskfleet.decoding import DECODERS, Preprocessing, decoder_spec
from maskfleet.targets import TARGETS
from model_compiler.prepare import prepare
from tests.required import missing

ENGINES = Path(cuda_letterbox.__file__).parent
SOURCE = ENGINES / "letterbox.cu"
PTX = ENGINES / "letterbox.ptx"
SMS = sorted({sm for entry in TARGETS.values() for sm in entry.sms}, key=lambda sm: int(sm[2:]))
SHIM = """
#define __global__ static
#define __device__
static struct { int x, y, z; } threadIdx, blockIdx, blockDim = {32, 8, 1};
#include "letterbox.cu"
void run(int columns, int rows, const unsigned char *picture, float *input, int stride, int factor, int reduced_width,
         int reduced_height, int filled_width, int filled_height, int width, int height, int rgb, float mean,
         float scale)
{
    for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < columns; ++blockIdx.x)
            for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
                for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
                    letterbox(picture, input, stride, factor, reduced_width, reduced_height, filled_width,
                              filled_height, width, height, rgb, mean, scale);
}
"""
Kernel = Callable[[npt.NDArray[np.uint8], Preprocessing, int, int], FloatArray]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The kernel, as a function of a picture."""
    if shutil.which("gcc") is None:
        missing("gcc", "gcc is not installed (apt-get install gcc libc6-dev)")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "shim.c").write_text(SHIM)
    library = folder / "kernel.so"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{ENGINES}", "-o", str(library)]
    done = subprocess.run([*command, str(folder / "shim.c")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = ctypes.CDLL(str(library)).run
    code.argtypes = [ctypes.c_int] * 2 + [ctypes.c_void_p] * 2 + [ctypes.c_int] * 9 + [ctypes.c_float] * 2
    code.restype = None

    def run(picture: npt.NDArray[np.uint8], preprocessing: Preprocessing, width: int, height: int) -> FloatArray:
        high, wide = picture.shape[:2]
        place = Letterbox.of(wide, high, into=(width, height))
        blob = np.full((1, 3, height, width), np.nan, np.float32)
        code(
            -(-width // 32), -(-height // 8), picture.ctypes.data, blob.ctypes.data, wide * 3, place.factor,
            wide // place.factor, high // place.factor, *place.filled, width, height, int(preprocessing.rgb),
            preprocessing.mean, preprocessing.scale,
        )  # fmt: skip
        return blob

    return run


SIZES = {
    "exactly the input": (640, 352),
    "half of it": (320, 176),
    "larger by less than two": (1000, 600),
    "720p": (1280, 720),
    "1080p": (1920, 1080),
    "4K": (3840, 2160),
    "upright": (360, 640),
    "a strip thinner than the reduction": (4000, 3),
    "one pixel": (1, 1),
    "odd in every way": (1277, 719),
}


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_the_kernel_gives_what_the_cpu_gives_to_within_a_grey_level(
    kernel: Kernel, testdata: Path, size: tuple[int, int], decoder: str
) -> None:
    read = cv2.imread(str(testdata / "images" / "Test1.jpg"))
    assert read is not None
    picture = np.ascontiguousarray(cv2.resize(read, size, interpolation=cv2.INTER_AREA), np.uint8)
    spec = decoder_spec(decoder)
    width, height = spec.default_size
    expected, _scale = Preprocessor(spec.preprocessing, width, height)(picture)
    off = (kernel(picture, spec.preprocessing, width, height) - expected) / spec.preprocessing.scale
    assert np.abs(off).max() <= 1.001
    assert (np.abs(off) > 0.5).mean() < 0.03


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_a_detector_finds_the_same_faces_in_pictures_that_the_kernel_prepared(
    kernel: Kernel, testdata: Path, centerface_path: Path, tmp_path: Path, decoder: str
) -> None:
    spec = decoder_spec(decoder)
    models = testdata / "models"
    source = {"yunet": models / "yunet_n_dynamic.onnx", "ultraface": models / "ultraface_version-RFB-320.onnx"}
    (tmp_path / "engine").write_bytes(prepare(source.get(decoder, centerface_path).read_bytes(), spec).model)
    engine = load("ort-cpu", tmp_path / "engine", decoder=spec, threads=2)
    shared = SharedEngine(_WithKernel(engine, kernel))
    read = cv2.imread(str(testdata / "images" / "Test7.jpg"))
    assert read is not None
    picture = np.asarray(read, np.uint8)
    ours = Detector(shared.lease(), spec)(picture, min_confidence=0.5, nms_iou=0.3)
    theirs = Detector(engine, spec)(picture, min_confidence=0.5, nms_iou=0.3)
    assert len(ours.boxes) == len(theirs.boxes) > 0
    assert np.abs(ours.boxes[:, :4] - theirs.boxes[:, :4]).max() < 1.0
    assert ours.preprocess_s == 0 < theirs.preprocess_s


class _WithKernel:
    """An engine of the CPU whose pictures the kernel prepares, as those of a GPU are."""

    def __init__(self, engine: Engine, kernel: Kernel) -> None:
        self._engine = engine
        self._kernel = kernel
        self.info = engine.info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        raise AssertionError("the CPU prepared the picture")

    def infer_picture(
        self, picture: npt.NDArray[np.uint8], preprocessing: Preprocessing
    ) -> tuple[Mapping[str, FloatArray], float]:
        width, height = self.info.width, self.info.height
        place = Letterbox.of(picture.shape[1], picture.shape[0], into=(width, height))
        return self._engine.infer(self._kernel(picture, preprocessing, width, height)), place.scale

    def close(self) -> None:
        self._engine.close()


@pytest.mark.parametrize("preprocessing", [decoder_spec(name).preprocessing for name in ("centerface", "ultraface")])
def test_noise_of_every_value_comes_through(kernel: Kernel, preprocessing: Preprocessing) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (97, 211, 3), np.uint8)
    expected, _scale = Preprocessor(preprocessing, 96, 64)(noise)
    off = np.abs(kernel(noise, preprocessing, 96, 64) - expected) / preprocessing.scale
    assert off.max() <= 1.001


def test_the_ptx_of_the_package_is_made_of_the_source_of_the_package() -> None:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    assert f"// letterbox.cu sha256:{digest}" in PTX.read_text(), "run scripts/ptx.sh and commit"


@pytest.mark.parametrize("sm", SMS)
def test_the_ptx_assembles_for_every_compute_capability_of_a_target(sm: str, tmp_path: Path) -> None:
    if shutil.which("ptxas") is None:
        pytest.skip("ptxas is not installed")
    command = ["ptxas", f"-arch=sm_{sm[2:]}", "-o", str(tmp_path / "machine"), str(PTX)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "machine").stat().st_size


@pytest.mark.parametrize("sm", ["SM75", "SM87", "SM120"])  # a second each; the PTX that ships is assembled for all
def test_nvcc_compiles_the_source_without_a_warning(sm: str, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    command = ["nvcc", "-ptx", f"-arch=sm_{sm[2:]}", "-Werror=all-warnings", "-o", str(tmp_path / "ptx"), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f".target sm_{sm[2:]}" in (tmp_path / "ptx").read_text()


def test_the_largest_picture_has_room() -> None:
    assert cuda_letterbox.MAX_BYTES == frame_size.MAX_PIXELS * 3
