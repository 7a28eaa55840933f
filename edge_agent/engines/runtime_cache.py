"""What TensorRT for RTX compiled on this device, kept beside the engine so that the next start is fast.

Rules:

- A file for each compute capability, version of TensorRT for RTX and version of CUDA, as
  ``engine.SM89-1.7.1.116-13000.jit``. What other versions left is removed when one is written. It goes with the slot
  that holds the engine.
- Whether what is in it suits is for the runtime to say: it checks its environment and refuses what is damaged.
- It is never needed: without it the next start takes longer, no more.

Example::

    kept = RuntimeCache(Path("slot/engine"), compute_capability="SM89", runtime="1.7.1.116", cuda=13000)
    if data := kept.read():
        cache.deserialize(data)
    kept.write(bytes(cache.serialize()))
"""

from __future__ import annotations

from pathlib import Path

from maskfleet.datadir import write_atomic
from maskfleet.logs import get_logger

MAX_BYTES = 256 << 20


class RuntimeCache:
    """The file of one engine on one device.

    Args:
        engine: its path.
        compute_capability: of the GPU, as ``SM89``.
        runtime: version of TensorRT for RTX.
        cuda: version of CUDA that the driver speaks, as 13000.
    """

    def __init__(self, engine: Path, *, compute_capability: str, runtime: str, cuda: int) -> None:
        self._engine = engine
        self.path = engine.with_name(f"{engine.name}.{compute_capability}-{runtime}-{cuda}.jit")

    def read(self) -> bytes:
        """What is kept; empty where nothing is, or nothing that can be read."""
        try:
            if self.path.stat().st_size <= MAX_BYTES:
                return self.path.read_bytes()
        except OSError:
            return b""
        return b""

    def write(self, data: bytes) -> None:
        """Keeps it, where there is something to keep that is not kept already. It never raises for want of a disk."""
        if not data or len(data) > MAX_BYTES or data == self.read():
            return
        try:
            for other in self._engine.parent.glob(f"{self._engine.name}.*.jit"):
                if other != self.path:
                    other.unlink()
            write_atomic(self.path, data)
        except OSError as error:
            get_logger(__name__).warning("compiled kernels are not kept", error=str(error))
