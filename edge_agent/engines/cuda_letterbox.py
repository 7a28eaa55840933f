"""From a picture to an engine's input on the GPU: one copy to the device, one kernel.

The kernel is PTX that comes with the package (``letterbox.cu``, ``scripts/ptx.sh``), so a device needs no compiler; its
driver makes machine code of it. It does what :mod:`edge_agent.masking.preprocess` does on a CPU.

Example::

    letterbox = CudaLetterbox(driver, 640, 352)
    scale = letterbox.queue(picture, preprocessing, input_address, stream)
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.engines.cuda import Buffer
from edge_agent.engines.letterbox import Letterbox
from maskfleet.decoding import Preprocessing
from maskfleet.errors import EngineError

FIRST_BYTES = 1920 * 1080 * 3
"""Room for a picture that is made at the start; it grows, at least to twice its size, when a larger one comes."""

MAX_BYTES = 40_000_000 * 3
"""The largest picture that the agent takes in; room never grows beyond it."""

_BLOCK = (32, 8, 1)
_ARGUMENTS = "PPiiiiiiiiiff"


class CudaLetterbox:
    """Room for a picture and the kernel. Used by one thread at a time, while the device's context is current.

    Args:
        driver: pycuda's.
        width: of the engine's input, in pixels.
        height: of the engine's input, in pixels.
    """

    def __init__(self, driver: Any, width: int, height: int) -> None:
        self._driver = driver
        self._size = (width, height)
        self._grid = (-(-width // _BLOCK[0]), -(-height // _BLOCK[1]), 1)
        code = (resources.files("edge_agent.engines") / "letterbox.ptx").read_bytes()
        self._module: Any = driver.module_from_buffer(code + b"\0")
        self._kernel: Any = self._module.get_function("letterbox").prepare(_ARGUMENTS)
        self._picture = Buffer(driver, FIRST_BYTES, np.uint8)

    def queue(
        self, picture: npt.NDArray[np.uint8], preprocessing: Preprocessing, input_address: int, stream: Any
    ) -> float:
        """Queues the copy and the kernel. The picture may change as soon as this returns.

        Args:
            picture: uint8, height×width×3, BGR.
            preprocessing: what the decoder wants.
            input_address: of the engine's input on the device, float32, 1×3×height×width.
            stream: pycuda's.

        Returns:
            The scale: a distance in the input is the distance in the picture times this.

        Raises:
            EngineError: the picture is none, or larger than the agent takes in.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise EngineError(f"a picture is uint8, height×width×3, not {picture.dtype}{list(picture.shape)}")
        self._make_room(picture.size)
        high, wide = picture.shape[:2]
        np.copyto(self._picture.host[: picture.size].reshape(picture.shape), picture)
        self._picture.upload(stream, picture.size)
        place = Letterbox.of(wide, high, into=self._size)
        self._kernel.prepared_async_call(
            self._grid,
            _BLOCK,
            stream,
            self._picture.device,
            input_address,
            wide * 3,
            place.factor,
            wide // place.factor,
            high // place.factor,
            *place.filled,
            *self._size,
            int(preprocessing.rgb),
            preprocessing.mean,
            preprocessing.scale,
        )
        return place.scale

    def _make_room(self, size: int) -> None:
        if size <= len(self._picture.host):
            return
        if size > MAX_BYTES:
            raise EngineError(f"a picture of {size} bytes is too large", remedy=f"send at most {MAX_BYTES}")
        # The new one first: without room for it the old one stays.
        larger = Buffer(self._driver, min(max(size, 2 * len(self._picture.host)), MAX_BYTES), np.uint8)
        self._picture.free()
        self._picture = larger

    def close(self) -> None:
        """Frees it all. Once."""
        self._kernel = self._module = None
        self._picture.free()
