"""A GPU that is none: stands in for pycuda's driver, TensorRT and CUDA graphs, and writes down what is asked of it.

Memory is real, so data can be followed; an engine gives the mean of its input everywhere, and the kernel the first
value of its picture. What is used without the device's context being current fails, and so does what is freed twice.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np


class GpuError(Exception):
    """What goes wrong on purpose."""


class FakeGpu:
    """The machine.

    Attributes:
        journal: what was asked, in order.
        alive: what is allocated and not freed yet, by address.
        depth: contexts that are pushed.
        fail_at: which call of the journal fails; -1 for none.
    """

    def __init__(self, capability: tuple[int, int] = (8, 9)) -> None:
        self.capability = capability
        self.journal: list[str] = []
        self.alive: dict[int, Any] = {}
        self.depth = 0
        self.fail_at = -1
        self.kernel: tuple[Any, ...] = ()
        self._next = 1000

    def did(self, what: str) -> None:
        assert self.depth, f"{what} without a context"
        self.journal.append(what)
        if len(self.journal) - 1 == self.fail_at:
            raise GpuError(f"{what} failed")

    def take(self, what: str, content: Any) -> int:
        self.did(what)
        self._next += 1
        self.alive[self._next] = content
        return self._next

    def give(self, address: int) -> None:
        assert self.depth, "freed without a context"
        del self.alive[address]

    def driver(self) -> Any:
        """Stands in for pycuda.driver."""
        gpu = self

        class Pinned:
            def __init__(self, count: int, dtype: Any) -> None:
                self.content = np.zeros(count, dtype)
                self.__array_interface__ = self.content.__array_interface__
                self.address = gpu.take("pinned", self.content)

            def free(self) -> None:
                gpu.give(self.address)

        class Allocation:
            def __init__(self, size: int) -> None:
                self.address = gpu.take("allocate", np.zeros(size, np.uint8))

            def __int__(self) -> int:
                return self.address

            def free(self) -> None:
                gpu.give(self.address)

        class Stream:
            handle = 77

            def __init__(self) -> None:
                gpu.did("stream")

            def synchronize(self) -> None:
                gpu.did("synchronize")

        class Module:
            def __init__(self, code: bytes) -> None:
                assert code.endswith(b"\0")
                gpu.did("module")

            def get_function(self, name: str) -> Module:
                assert name == "letterbox"
                return self

            def prepare(self, arguments: str) -> Module:
                self.arguments = arguments
                return self

            def prepared_async_call(self, _grid: Any, _block: Any, stream: Any, *arguments: Any) -> None:
                assert isinstance(stream, Stream)
                assert len(arguments) == len(self.arguments)
                gpu.did("kernel")
                gpu.kernel = arguments
                picture, target = gpu.alive[arguments[0]], gpu.alive[arguments[1]]
                target.view(np.float32)[:] = picture[0]

        class Primary:
            def push(self) -> None:
                gpu.depth += 1

            def detach(self) -> None:
                pass

        class Device:
            def __init__(self, _number: int) -> None:
                pass

            @staticmethod
            def count() -> int:
                return 1

            def compute_capability(self) -> tuple[int, int]:
                return gpu.capability

            def retain_primary_context(self) -> Primary:
                return Primary()

        def upload(address: int, host: Any, stream: Any) -> None:
            assert isinstance(stream, Stream)
            gpu.did("upload")
            gpu.alive[address][: host.nbytes] = host.view(np.uint8)

        def download(host: Any, address: int, stream: Any) -> None:
            assert isinstance(stream, Stream)
            gpu.did("download")
            host.view(np.uint8)[:] = gpu.alive[address]

        def pop() -> None:
            gpu.depth -= 1

        module = types.ModuleType("driver")  # hashable, as modules are
        vars(module).update(
            init=lambda: None,
            Device=Device,
            Context=types.SimpleNamespace(pop=pop),
            Stream=Stream,
            pagelocked_empty=lambda count, dtype: np.asarray(Pinned(count, dtype)),
            mem_alloc=Allocation,
            memcpy_htod_async=upload,
            memcpy_dtoh_async=download,
            module_from_buffer=Module,
            get_driver_version=lambda: 13000,
        )
        return module

    def graphs(self) -> Any:
        """Stands in for CudaGraph."""
        gpu = self

        class Graph:
            def __init__(self, stream: int, work: Callable[[], None]) -> None:
                assert stream == 77
                self.address = gpu.take("capture", work)

            @classmethod
            def captured(cls, stream: int, work: Callable[[], None]) -> Graph:
                return cls(stream, work)

            def launch(self, stream: int) -> None:
                assert stream == 77
                gpu.did("replay")
                before, fail_at, gpu.fail_at = len(gpu.journal), gpu.fail_at, -1
                gpu.alive[self.address]()
                del gpu.journal[before:]  # one call for all of it
                gpu.fail_at = fail_at

            def close(self) -> None:
                gpu.give(self.address)

        return Graph

    def tensorrt(self, shapes: dict[str, tuple[int, ...]], *, rtx: bool = False) -> Any:
        """Stands in for TensorRT's bindings, with engines of these tensors, the input first."""
        gpu = self
        names = list(shapes)

        class Cache:
            def __init__(self) -> None:
                self.loaded = b""

            def deserialize(self, data: bytes) -> bool:
                gpu.did("read cache")
                self.loaded = data
                return True

            def serialize(self) -> bytes:
                return self.loaded or b"kernels"

        class Config:
            cuda_graph_strategy = "disabled"

            def create_runtime_cache(self) -> Cache:
                return Cache()

            def set_runtime_cache(self, cache: Cache) -> None:
                self.cache = cache

        class Context:
            def __init__(self, config: Config | None) -> None:
                gpu.did("context")
                assert (config is not None) == rtx
                assert config is None or config.cuda_graph_strategy == "whole"
                self.addresses: dict[str, int] = {}

            def set_tensor_address(self, name: str, address: int) -> bool:
                gpu.did("address")
                self.addresses[name] = address
                return True

            def execute_async_v3(self, stream: int) -> bool:
                assert stream == 77
                gpu.did("enqueue")
                given = gpu.alive[self.addresses[names[0]]].view(np.float32).mean()
                for name in names[1:]:
                    gpu.alive[self.addresses[name]].view(np.float32)[:] = given
                return True

        class Engine:
            num_io_tensors = len(names)

            def get_tensor_name(self, index: int) -> str:
                return names[index]

            def get_tensor_mode(self, name: str) -> str:
                return "in" if name == names[0] else "out"

            def get_tensor_dtype(self, name: str) -> str:
                return "half" if name.startswith("half") else "float"

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                return shapes[name]

            def create_runtime_config(self) -> Config:
                return Config()

            def create_execution_context(self, config: Config | None = None) -> Context:
                return Context(config)

        class Runtime:
            def __init__(self, _logger: Any) -> None:
                gpu.did("runtime")

            def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
                gpu.did("deserialise")
                return None if data == b"junk" else Engine()

        module = types.SimpleNamespace(
            __version__="1.7.1.116" if rtx else "11.4.0.106",
            Logger=type("Logger", (), {"ERROR": 1, "__init__": lambda _self, _severity: None}),
            Runtime=Runtime,
            TensorIOMode=types.SimpleNamespace(INPUT="in"),
            DataType=types.SimpleNamespace(FLOAT="float"),
        )
        if rtx:
            module.IRuntimeCache = Cache
            module.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
        return module
