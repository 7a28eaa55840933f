"""CUDA graphs: what a stream was given once, to be given again by one call.

pycuda (2026.1) knows no graphs, so the driver is asked directly, through its C interface; streams and contexts are
pycuda's. Signatures are checked against NVIDIA's header by a test where it is installed.

Rules:

- Only other threads' work goes on during a capture (``THREAD_LOCAL``): another engine may be loading meanwhile.
- A capture that fails leaves the stream as it was.

Example::

    graph = CudaGraph.captured(stream.handle, lambda: context.execute_async_v3(stream.handle))
    graph.launch(stream.handle)
    graph.close()
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from typing import Any

from maskfleet.errors import EngineError

_HANDLE = ctypes.c_void_p
_OUT = ctypes.POINTER(ctypes.c_void_p)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (_HANDLE, ctypes.c_int),
    "cuStreamEndCapture": (_HANDLE, _OUT),
    "cuGraphInstantiateWithFlags": (_OUT, _HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
}
"""Arguments of the driver's functions; each returns a CUresult, 0 for success."""

THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"""


class CudaGraph:
    """An executable graph. Launched and closed while the context that it was captured in is current."""

    def __init__(self, driver: _Driver, executable: int) -> None:
        self._driver = driver
        self._executable = executable

    @classmethod
    def captured(cls, stream: int, work: Callable[[], None], *, library: str = "") -> CudaGraph:
        """Captures what is queued on a stream.

        Args:
            stream: its handle.
            work: queues it; nothing of it runs.
            library: with the driver's functions; NVIDIA's own where empty.

        Raises:
            EngineError: the driver lacks graphs, or what was queued cannot be captured.
        """
        driver = _Driver(library)
        driver.call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)
        graph, executable = _HANDLE(), _HANDLE()
        try:
            work()
        except BaseException:
            # Not ended, the stream would stay unusable; that the capture is broken is known.
            driver.attempt("cuStreamEndCapture", stream, ctypes.byref(graph))
            driver.destroy("cuGraphDestroy", graph)
            raise
        driver.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            driver.destroy("cuGraphDestroy", graph)
        return cls(driver, executable.value or 0)

    def launch(self, stream: int) -> None:
        """Queues it all on a stream.

        Raises:
            EngineError: the driver refuses.
        """
        self._driver.call("cuGraphLaunch", self._executable, stream)

    def close(self) -> None:
        """Frees it. Once."""
        self._driver.destroy("cuGraphExecDestroy", _HANDLE(self._executable))


class _Driver:
    """NVIDIA's driver through its C interface."""

    def __init__(self, library: str) -> None:
        name = library or ("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
        try:
            self._functions: dict[str, Any] = {}
            loaded = ctypes.CDLL(name)
            for function, arguments in SIGNATURES.items():
                self._functions[function] = getattr(loaded, function)
                self._functions[function].argtypes = arguments
                self._functions[function].restype = ctypes.c_int
        except (OSError, AttributeError) as error:
            raise EngineError(f"the driver has no CUDA graphs ({error})", remedy="update the NVIDIA driver") from None

    def attempt(self, function: str, *arguments: Any) -> int:
        return int(self._functions[function](*arguments))

    def call(self, function: str, *arguments: Any) -> None:
        if code := self.attempt(function, *arguments):
            raise EngineError(f"{function} failed with CUDA error {code}", remedy="see the agent's log")

    def destroy(self, function: str, handle: ctypes.c_void_p) -> None:
        if handle.value:
            self.attempt(function, handle)
