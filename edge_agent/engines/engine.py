"""What an engine is: a port with one implementation a backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from maskfleet.decoding import Preprocessing

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What is known of an engine once it is loaded.

    Attributes:
        target: what it runs on, as ``ort-cpu``.
        backend: the runtime, as ``onnxruntime``.
        runtime_version: the version that runs it.
        width: of its input, in pixels.
        height: of its input, in pixels.
        outputs: names of its outputs, which are the roles of its decoder.
    """

    target: str
    backend: str
    runtime_version: str
    width: int
    height: int
    outputs: tuple[str, ...]


class Engine(Protocol):
    """A loaded detector. Safe to call from several threads."""

    @property
    def info(self) -> EngineInfo:
        """What is known of it."""
        ...

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        """Runs it.

        Args:
            blob: float32, 1×3×height×width, C-contiguous, preprocessed as the decoder says.

        Returns:
            Each output by its role, float32. The arrays are the engine's own, which it fills again: they hold until
            this thread calls the engine again or somebody closes it. Another thread never touches them.

        Raises:
            EngineError: the runtime raised.
        """
        ...

    def close(self) -> None:
        """Frees what it holds. Calling it again does nothing."""
        ...


@runtime_checkable
class PictureEngine(Engine, Protocol):
    """An engine that prepares its input itself, where it runs. A detector uses that where the engine has it."""

    def infer_picture(
        self, picture: npt.NDArray[np.uint8], preprocessing: Preprocessing
    ) -> tuple[Mapping[str, FloatArray], float]:
        """Prepares a picture as :class:`edge_agent.masking.preprocess.Preprocessor` does, and runs.

        Args:
            picture: uint8, height×width×3, BGR.
            preprocessing: what the decoder wants.

        Returns:
            Each output by its role, float32, which belong to the caller; and the scale: a distance in the input is the
            distance in the picture times this.

        Raises:
            EngineError: the runtime raised, or the picture is none.
        """
        ...
