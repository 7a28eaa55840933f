"""One loaded engine behind several releases: a release that only changes the policy does not load it again.

Each release gets a lease, which is an engine to whoever uses it; the engine is closed with the last of them.

Example::

    shared = SharedEngine(engine)
    lease = shared.lease()
    shared.release()   # the lease keeps it open
    lease.close()      # now it is closed
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_agent.engines.engine import Engine, EngineInfo, FloatArray, PictureEngine
from maskfleet.decoding import Preprocessing
from maskfleet.errors import EngineError


class SharedEngine:
    """An engine and how many hold it; whoever makes it is the first. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._holders = 1

    def lease(self) -> Lease:
        """Another holder.

        Raises:
            EngineError: the engine is closed already.
        """
        self.hold()
        if isinstance(self._engine, PictureEngine):
            return PictureLease(self._engine, self)
        return Lease(self._engine, self)

    def hold(self) -> None:
        """Another holder, without a lease of its own.

        Raises:
            EngineError: the engine is closed already.
        """
        with self._lock:
            if not self._holders:
                raise EngineError("an engine was shared after it was closed")
            self._holders += 1

    def release(self) -> None:
        """One holder less; the engine is closed with the last."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._engine.close()


class Lease:
    """An engine that somebody else may be using too."""

    def __init__(self, engine: Engine, shared: SharedEngine) -> None:
        self._engine = engine
        self._shared = shared
        self._lock = threading.Lock()
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        """What is known of the engine."""
        return self._engine.info

    def infer(self, blob: FloatArray) -> Mapping[str, FloatArray]:
        """Runs the engine; see :meth:`edge_agent.engines.engine.Engine.infer`."""
        return self._engine.infer(blob)

    def close(self) -> None:
        """Gives the lease back. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._shared.release()


class PictureLease(Lease):
    """A lease of an engine that prepares its input itself."""

    def __init__(self, engine: PictureEngine, shared: SharedEngine) -> None:
        super().__init__(engine, shared)
        self._pictures = engine

    def infer_picture(
        self, picture: npt.NDArray[np.uint8], preprocessing: Preprocessing
    ) -> tuple[Mapping[str, FloatArray], float]:
        """Runs the engine; see :meth:`edge_agent.engines.engine.PictureEngine.infer_picture`."""
        return self._pictures.infer_picture(picture, preprocessing)
