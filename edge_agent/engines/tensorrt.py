"""Engines for NVIDIA GPUs: TensorRT plans, run by TensorRT for RTX or by classic TensorRT.

The only import of tensorrt and tensorrt_rtx in the agent. One code path serves TensorRT 10.x, 11.x and RTX: what only
one of them has (the runtime cache and the CUDA graphs of RTX) is asked for by feature, never by version.

Rules:

- An engine runs on the compute capabilities of its target and on no other; that is asked before anything is loaded.
- Memory is allocated once, when the engine is loaded: a pinned host array and a device array for each tensor.
- One stream and one context, so one frame at a time: a lock, since several streams of frames share the engine.
- Pictures are letterboxed and normalised on the GPU (:mod:`edge_agent.engines.cuda_letterbox`); an input that is
  prepared already is taken too.
- Shapes are fixed, so what one run queues is captured as a CUDA graph after the first one and given again as a whole.
  TensorRT for RTX captures by itself. Where it cannot be captured it is queued as before; the log says so, once.
- RTX compiles kernels on the device when a context first runs; they are kept (:mod:`edge_agent.engines.runtime_cache`).
- Whatever was opened is closed once, in reverse order, also where loading fails half way.

It cannot run without a GPU: ``docs/hardware.md`` says what has. Every member of TensorRT that is used here is checked
against the real bindings of 10.3, 10.13, 11.4 and RTX by a test.

Example::

    engine = TensorRtEngine.load(path, target="rtx-ampere-plus", decoder=decoder_spec("centerface"))
    outputs, scale = engine.infer_picture(frame, decoder_spec("centerface").preprocessing)
"""

from __future__ import annotations

import contextlib
import importlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.engines import cuda
from edge_agent.engines.cuda_graph import CudaGraph
from edge_agent.engines.cuda_letterbox import CudaLetterbox
from edge_agent.engines.engine import EngineInfo, FloatArray
from edge_agent.engines.runtime_cache import RuntimeCache
from maskfleet.decoding import DecoderSpec, Preprocessing
from maskfleet.errors import BadModelError, EngineError, UnsupportedError
from maskfleet.logs import get_logger
from maskfleet.targets import target as target_spec

_REMEDY = "build the release again for this device's target and runtime version"
_MODULES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}


def bindings(target: str) -> Any:
    """The TensorRT that runs engines of a target.

    Raises:
        UnsupportedError: it is not installed.
    """
    name = _MODULES[target_spec(target).backend]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: the bindings are there, a library of theirs is not
        raise UnsupportedError(
            f"engines for {target} need {name}, which cannot be imported ({error})", remedy=f"install {name}"
        ) from None


class TensorRtEngine:
    """A plan with its execution context. Safe to call from several threads, which take turns."""

    def __init__(self, path: Path, target: str, decoder: DecoderSpec) -> None:
        self._trt = bindings(target)
        self._driver = cuda.cuda_driver()
        self._capability = cuda.check_capability(self._driver, target)
        self._lock = threading.Lock()
        self._opened = contextlib.ExitStack()
        self._open = True
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._cache: Any = None
        self._graph: CudaGraph | None = None
        self._buffers: dict[str, cuda.Buffer] = {}
        try:
            with self._current():
                self._load(path, target, decoder)
        except BaseException:
            self.close()
            raise

    @classmethod
    def load(cls, path: Path, *, target: str, decoder: DecoderSpec) -> TensorRtEngine:
        """Loads a plan whose digest was checked.

        Args:
            path: of the plan.
            target: that it was built for.
            decoder: that its outputs are read by.

        Raises:
            UnsupportedError: TensorRT, pycuda or a GPU is missing, or the GPU is of another kind than the target's.
            EngineError: the runtime cannot load or run it.
            BadModelError: its input or outputs are not what the decoder reads.
        """
        try:
            return cls(path, target, decoder)
        except (UnsupportedError, EngineError, BadModelError):
            raise
        except Exception as error:
            raise EngineError(f"TensorRT cannot load {path.name} ({error})", remedy=_REMEDY) from error

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        shape = self._shapes[self._input_name]
        if blob.shape != shape or blob.dtype != np.float32:
            raise EngineError(f"the engine takes float32{list(shape)}, not {blob.dtype}{list(blob.shape)}")

        def fill() -> None:
            np.copyto(self._buffers[self._input_name].host, blob.reshape(-1))
            self._buffers[self._input_name].upload(self._stream)

        return self._run(fill)[0]

    def infer_picture(
        self, picture: npt.NDArray[np.uint8], preprocessing: Preprocessing
    ) -> tuple[Mapping[str, FloatArray], float]:
        def fill() -> float:
            address = self._buffers[self._input_name].device
            return self._letterbox.queue(picture, preprocessing, address, self._stream)

        return self._run(fill)

    def close(self) -> None:
        with self._lock:
            if not self._open:
                return
            self._open = False
            try:
                with self._current():
                    self._opened.close()
            except Exception as error:  # noqa: BLE001  # a GPU that is broken frees nothing, and nobody can help it
                get_logger(__name__).warning("an engine was not closed in order", error=str(error))

    def _run(self, fill: Callable[[], Any]) -> tuple[Mapping[str, FloatArray], Any]:
        """Fills the input, runs, and takes the outputs."""
        with self._lock:
            if not self._open:
                raise EngineError("the engine is closed", remedy="load it again")
            try:
                with self._current():
                    filled = fill()
                    if self._graph is not None:
                        self._graph.launch(self._stream.handle)
                    else:
                        self._queue()
                    self._stream.synchronize()
                    return {name: self._buffers[name].values(self._shapes[name]) for name in self._info.outputs}, filled
            except EngineError:
                raise
            except Exception as error:
                raise EngineError(f"TensorRT failed ({error})", remedy=_REMEDY) from error

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        with cuda.current(self._driver):
            yield

    def _let_go(self, *names: str) -> None:
        """What has no method to free it is freed when nobody holds it."""
        for name in names:
            setattr(self, name, None)

    def _load(self, path: Path, target: str, decoder: DecoderSpec) -> None:
        opened = self._opened
        opened.callback(self._let_go, "_runtime")
        self._logger = self._trt.Logger(self._trt.Logger.ERROR)
        self._runtime = self._trt.Runtime(self._logger)
        opened.callback(self._let_go, "_engine")
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:  # it says no more than that
            raise EngineError(f"TensorRT {self._trt.__version__} cannot load {path.name}", remedy=_REMEDY)
        width, height = self._checked(path, decoder)
        kept = RuntimeCache(
            path,
            compute_capability=self._capability,
            runtime=str(self._trt.__version__),
            cuda=int(self._driver.get_driver_version()),
        )
        opened.callback(self._let_go, "_context", "_cache")
        self._make_context(path, kept)
        opened.callback(self._let_go, "_stream")
        self._stream = self._driver.Stream()
        self._allocate()
        self._letterbox = CudaLetterbox(self._driver, width, height)
        opened.callback(self._letterbox.close)
        self._info = EngineInfo(
            target=target,
            backend=target_spec(target).backend,
            runtime_version=str(self._trt.__version__),
            width=width,
            height=height,
            outputs=tuple(role.role for role in decoder.outputs),
        )
        # Compiles kernels and touches memory now, not with the first frame.
        self._buffers[self._input_name].upload(self._stream)
        self._queue()
        self._stream.synchronize()
        if self._cache is not None:
            kept.write(bytes(memoryview(self._cache.serialize())))
        self._capture()

    def _checked(self, path: Path, decoder: DecoderSpec) -> tuple[int, int]:
        """Width and height of its input, where everything is as the decoder reads it."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        odd = [name for name in names if self._engine.get_tensor_dtype(name) != self._trt.DataType.FLOAT]
        self._shapes = {name: tuple(int(d) for d in self._engine.get_tensor_shape(name)) for name in names}
        missing = [role.role for role in decoder.outputs if role.role not in names]
        if len(inputs) != 1 or missing:
            raise BadModelError(
                f"{path.name} has tensors {', '.join(names)} where decoder {decoder.name!r} reads"
                f" {', '.join(role.role for role in decoder.outputs)}",
                remedy="compile the model with the decoder that belongs to it",
            )
        if odd:
            raise BadModelError(f"{path.name} takes or gives values that are no float32 ({odd[0]})", remedy=_REMEDY)
        (self._input_name,) = inputs
        shape = self._shapes[self._input_name]
        if len(shape) != 4 or shape[:2] != (1, 3) or any(d < 1 for s in self._shapes.values() for d in s):
            raise BadModelError(f"{path.name} takes {list(shape)}, not a static [1, 3, height, width]", remedy=_REMEDY)
        return shape[3], shape[2]

    def _make_context(self, path: Path, kept: RuntimeCache) -> None:
        if hasattr(self._trt, "IRuntimeCache"):
            config = self._engine.create_runtime_config()
            self._cache = config.create_runtime_cache()
            if data := kept.read():
                self._cache.deserialize(data)  # False where it does not suit; then it stays empty
            config.set_runtime_cache(self._cache)
            if hasattr(self._trt, "CudaGraphStrategy"):
                config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._context = self._engine.create_execution_context(config)
        else:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"no memory on the GPU for {path.name}", remedy="free the GPU, or use a smaller input")

    def _allocate(self) -> None:
        for name, shape in self._shapes.items():
            buffer = cuda.Buffer(self._driver, math.prod(shape), np.float32)
            self._opened.callback(buffer.free)
            buffer.host[:] = 0
            self._buffers[name] = buffer
            if not self._context.set_tensor_address(name, buffer.device):
                raise EngineError(f"TensorRT refuses memory for {name!r}", remedy=_REMEDY)

    def _queue(self) -> None:
        """Everything after the input is filled: the engine and the way of its outputs to the host."""
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT could not start the engine", remedy=_REMEDY)
        for name, buffer in self._buffers.items():
            if name != self._input_name:
                buffer.download(self._stream)

    def _capture(self) -> None:
        if hasattr(self._trt, "CudaGraphStrategy"):
            return  # it captures by itself
        try:
            self._graph = CudaGraph.captured(self._stream.handle, self._queue)
        except Exception as error:  # noqa: BLE001  # slower, no more
            get_logger(__name__).warning("the engine runs without a CUDA graph", error=str(error))
            return
        self._opened.callback(self._graph.close)
