"""Engines for NVIDIA GPUs: TensorRT plans, run by TensorRT for RTX or by classic TensorRT.

The only import of tensorrt, tensorrt_rtx and pycuda in the agent. One code path serves TensorRT 10.x, 11.x and RTX:
what only one of them has (the runtime cache of RTX) is asked for by feature, never by version.

Rules:

- Memory is allocated once, when the engine is loaded: a pinned host array and a device array for each tensor.
- One stream and one context, so one frame at a time: a lock, since several streams of frames share the engine.
- The device's primary context is pushed and popped around each use, since the threads that call are not ours.
- RTX compiles kernels on the device when a context first runs. What it compiled is kept beside the engine in
  ``<engine>.jit`` and read at the next start; a cache that does not suit is ignored by the runtime itself.

It cannot run without a GPU. Every member that is used here is checked against the bindings by a test.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.engines.engine import EngineInfo, FloatArray
from maskfleet.decoding import DecoderSpec
from maskfleet.errors import BadModelError, EngineError, UnsupportedError
from maskfleet.logs import get_logger
from maskfleet.targets import target as target_spec

_REMEDY = "build the release again for this device's target and runtime version"
_MAX_CACHE_BYTES = 256 << 20


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


def _driver() -> Any:
    try:
        driver = importlib.import_module("pycuda.driver")
        driver.init()
    except Exception as error:  # noqa: BLE001  # pycuda's own errors derive from it directly
        raise UnsupportedError(
            f"CUDA cannot be used ({error})", remedy="install pycuda and the NVIDIA driver, and check nvidia-smi"
        ) from None
    return driver


def compute_capability() -> int:
    """Of the first GPU, as major·10 + minor; 0 where there is none that can be used."""
    try:
        driver = _driver()
        if driver.Device.count() == 0:
            return 0
        major, minor = driver.Device(0).compute_capability()
    except Exception:  # noqa: BLE001  # no driver, no device, a driver that fails: this machine has no GPU for us
        return 0
    return int(major) * 10 + int(minor)


class TensorRtEngine:
    """A plan with its execution context. Safe to call from several threads, which take turns."""

    def __init__(self, path: Path, target: str, decoder: DecoderSpec) -> None:
        self._trt = bindings(target)
        self._cuda = _driver()
        self._lock = threading.Lock()
        self._cuda_context: Any = self._cuda.Device(0).retain_primary_context()
        self._cache: Any = None
        self._cache_path = path.with_name(path.name + ".jit")
        with self._current():
            self._logger = self._trt.Logger(self._trt.Logger.ERROR)
            self._runtime = self._trt.Runtime(self._logger)
            self._engine = self._deserialised(path)
            width, height = self._checked(path, decoder)
            self._context = self._new_context(path)
            self._stream = self._cuda.Stream()
            self._allocate()
            self._info = EngineInfo(
                target=target,
                backend="tensorrt-rtx" if target.startswith("rtx-") else "tensorrt",
                runtime_version=str(self._trt.__version__),
                width=width,
                height=height,
                outputs=tuple(role.role for role in decoder.outputs),
            )
            self._run()  # compiles kernels and touches memory now, not with the first frame
            self._keep_cache()

    @classmethod
    def load(cls, path: Path, *, target: str, decoder: DecoderSpec) -> TensorRtEngine:
        """Loads a plan whose digest was checked.

        Args:
            path: of the plan.
            target: that it was built for.
            decoder: that its outputs are read by.

        Raises:
            UnsupportedError: TensorRT, pycuda or a GPU is missing.
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
        shape = (1, 3, self._info.height, self._info.width)
        if blob.shape != shape or blob.dtype != np.float32:
            raise EngineError(f"the engine takes float32{list(shape)}, not {blob.dtype}{list(blob.shape)}")
        with self._lock:
            if self._context is None:
                raise EngineError("the engine is closed", remedy="load it again")
            try:
                with self._current():
                    np.copyto(self._host[self._input_name], blob.reshape(-1))
                    self._run()
                    return {
                        name: np.array(self._host[name], dtype=np.float32).reshape(self._shapes[name])
                        for name in self._info.outputs
                    }
            except EngineError:
                raise
            except Exception as error:
                raise EngineError(f"TensorRT failed ({error})", remedy=_REMEDY) from error

    def close(self) -> None:
        with self._lock:
            if self._context is None:
                return
            with self._current():
                self._stream.synchronize()
                # Order matters: a context must go before its engine, and that before the runtime.
                self._context = None
                self._cache = None
                self._engine = None
                self._runtime = None
                for memory in self._device.values():
                    memory.free()
                self._device.clear()
                self._host.clear()
                self._stream = None
            self._cuda_context.detach()

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        self._cuda_context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def _deserialised(self, path: Path) -> Any:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:  # it says no more than that
            raise EngineError(f"TensorRT {self._trt.__version__} cannot load {path.name}", remedy=_REMEDY)
        return engine

    def _checked(self, path: Path, decoder: DecoderSpec) -> tuple[int, int]:
        """Width and height of the input, once names, types and shapes are those that the decoder reads."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        self._shapes = {name: tuple(int(d) for d in self._engine.get_tensor_shape(name)) for name in names}
        odd = [name for name in names if self._engine.get_tensor_dtype(name) != self._trt.DataType.FLOAT]
        missing = [role.role for role in decoder.outputs if role.role not in names]
        if len(inputs) != 1 or missing:
            raise BadModelError(
                f"{path.name} has tensors {', '.join(names)} where decoder {decoder.name!r} reads"
                f" {', '.join(role.role for role in decoder.outputs)}",
                remedy="compile the model with the decoder that belongs to it",
            )
        (self._input_name,) = inputs
        if odd:
            raise BadModelError(f"{path.name} takes or gives values that are no float32", remedy=_REMEDY)
        shape = self._shapes[self._input_name]
        if len(shape) != 4 or shape[:2] != (1, 3) or any(d < 1 for s in self._shapes.values() for d in s):
            raise BadModelError(f"{path.name} takes {list(shape)}, not a static [1, 3, height, width]", remedy=_REMEDY)
        return shape[3], shape[2]

    def _new_context(self, path: Path) -> Any:
        if hasattr(self._trt, "IRuntimeCache") and hasattr(self._engine, "create_runtime_config"):
            config = self._engine.create_runtime_config()
            self._cache = config.create_runtime_cache()
            with contextlib.suppress(OSError):
                if self._cache_path.stat().st_size <= _MAX_CACHE_BYTES:
                    self._cache.deserialize(self._cache_path.read_bytes())  # False where it does not suit
            config.set_runtime_cache(self._cache)
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(f"no memory on the GPU for {path.name}", remedy="free the GPU, or use a smaller input")
        return context

    def _keep_cache(self) -> None:
        if self._cache is None:
            return
        temporary = self._cache_path.with_name(self._cache_path.name + ".new")
        try:
            temporary.write_bytes(memoryview(self._cache.serialize()))
            os.replace(temporary, self._cache_path)  # noqa: PTH105  # atomic, as Path.replace, and named so
        except (OSError, TypeError) as error:
            # Without it the next start takes longer, no more.
            get_logger(__name__).warning("compiled kernels are not kept", error=str(error))

    def _allocate(self) -> None:
        self._host: dict[str, Any] = {}
        self._device: dict[str, Any] = {}
        for name, shape in self._shapes.items():
            host = self._cuda.pagelocked_empty(int(np.prod(shape)), np.float32)
            host[:] = 0
            self._host[name] = host
            self._device[name] = self._cuda.mem_alloc(host.nbytes)
            if not self._context.set_tensor_address(name, int(self._device[name])):
                raise EngineError(f"TensorRT refuses memory for {name!r}", remedy=_REMEDY)

    def _run(self) -> None:
        name = self._input_name
        self._cuda.memcpy_htod_async(self._device[name], self._host[name], self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT could not start the engine", remedy=_REMEDY)
        for output in self._shapes:
            if output != name:
                self._cuda.memcpy_dtoh_async(self._host[output], self._device[output], self._stream)
        self._stream.synchronize()
