"""A model that was damaged on its way: CenterFace with noise on its weights.

It is a valid ONNX file of the right shape, it compiles, and its engine does what the file says; only that it no longer
finds faces where they are.

Example::

    write_noised(Path("centerface.onnx"), Path("centerface-noised.onnx"))
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskfleet.datadir import write_atomic
from maskfleet.errors import OutputError

SEED = 1
STRENGTH = 0.2
"""Standard deviation of the noise, as a share of each weight tensor's own: enough to miss golden faces."""


def write_noised(source: Path, target: Path) -> None:
    """Writes the model with noise on the weights of its convolutions; the same bytes every time.

    Raises:
        OutputError: it cannot be written.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    random = np.random.default_rng(SEED)
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim == 4:
            noise = random.normal(0, STRENGTH * weights.std(), weights.shape)
            tensor.CopyFrom(numpy_helper.from_array((weights + noise).astype(weights.dtype), tensor.name))
    try:
        write_atomic(target, model.SerializeToString())
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror})", remedy="choose another --out") from None
