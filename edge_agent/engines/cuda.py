"""NVIDIA's GPU through pycuda: the driver, the device's context, memory in pairs. The only import of pycuda.

Rules:

- The device's primary context is retained once and kept for the life of the process: pycuda lets go of one only on the
  thread that made it, and an engine is closed by whichever thread ends its last frame.
- It is pushed and popped around each use (:func:`current`), since the threads that call are not ours. What pycuda frees
  while another context is current, or none, it does not free.

Example::

    driver = cuda_driver()
    with current(driver):
        buffer = Buffer(driver, 3 * 352 * 640, np.float32)
        buffer.upload(stream)
        buffer.free()
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from maskfleet.errors import UnsupportedError
from maskfleet.targets import target as target_spec


def cuda_driver() -> Any:
    """pycuda's driver, initialised.

    Raises:
        UnsupportedError: pycuda or NVIDIA's driver is missing, or there is no GPU.
    """
    try:
        driver = importlib.import_module("pycuda.driver")
        driver.init()
        count = driver.Device.count()
    except Exception as error:  # noqa: BLE001  # pycuda's own errors derive from it directly
        raise UnsupportedError(
            f"CUDA cannot be used ({error})", remedy="install pycuda and the NVIDIA driver, and check nvidia-smi"
        ) from None
    if not count:
        raise UnsupportedError("CUDA finds no GPU", remedy="check nvidia-smi and CUDA_VISIBLE_DEVICES")
    return driver


def compute_capability(driver: Any) -> str:
    """Of the first GPU, as ``SM89``."""
    major, minor = driver.Device(0).compute_capability()
    return f"SM{major}{minor}"


def check_capability(driver: Any, target: str) -> str:
    """The GPU's compute capability, if engines for a target run on it.

    Raises:
        UnsupportedError: they do not.
    """
    found, wanted = compute_capability(driver), target_spec(target).sms
    if found not in wanted:
        raise UnsupportedError(
            f"engines for {target} run on {', '.join(wanted)}, and this machine's GPU is {found}",
            remedy="assign it a release with an engine for a target that it belongs to: fleet targets list",
        )
    return found


@contextlib.contextmanager
def current(driver: Any) -> Iterator[None]:
    """Makes the first GPU's context the one of this thread, for the block."""
    _primary(driver).push()
    try:
        yield
    finally:
        driver.Context.pop()


@functools.lru_cache(maxsize=1)
def _primary(driver: Any) -> Any:
    context = driver.Device(0).retain_primary_context()
    # Left to pycuda's destructor it would be given back as if it were no primary one, which the driver refuses aloud.
    atexit.register(context.detach)
    return context


class Buffer:
    """A pinned array on the host and as many bytes on the device.

    Args:
        driver: pycuda's.
        count: of values.
        dtype: of values.

    Attributes:
        host: one-dimensional array.
        device: address on the device.
    """

    def __init__(self, driver: Any, count: int, dtype: Any) -> None:
        self._driver = driver
        self.host: Any = driver.pagelocked_empty(count, dtype)
        try:
            self._allocation = driver.mem_alloc(self.host.nbytes)
        except BaseException:
            self.host.base.free()
            raise
        self.device = int(self._allocation)

    def upload(self, stream: Any, count: int | None = None) -> None:
        """Queues the copy to the device, of the first values or of all."""
        self._driver.memcpy_htod_async(self.device, self.host[:count], stream)

    def download(self, stream: Any) -> None:
        """Queues the copy from the device."""
        self._driver.memcpy_dtoh_async(self.host, self.device, stream)

    def values(self, shape: tuple[int, ...]) -> Any:
        """A copy of what lies on the host."""
        return np.array(self.host).reshape(shape)

    def free(self) -> None:
        """Frees both. Once."""
        try:
            self._allocation.free()
        finally:
            self.host.base.free()
