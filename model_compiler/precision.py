"""Number formats. Precision lives in the ONNX graph and nowhere else: every backend builds what the graph says.

Eight bits take measuring and have a module of their own: :mod:`model_compiler.quantize`.

Example::

    half, notes = in_precision(prepared.model, "fp16")     # inputs and outputs stay float32
"""

from __future__ import annotations

import warnings

from maskfleet.errors import BuildError
from model_compiler import evaluation
from model_compiler.calibration import CalibrationSet
from model_compiler.spec import AUTO


def pictures_digest(precision: str, calibration: CalibrationSet) -> str:
    """Digest of every picture that an engine of this format depends on, for its cache key.

    Raises:
        InvalidInputError: the calibration set is needed and cannot be used.
    """
    return calibration.digest() if precision in ("int8", AUTO) else evaluation.digest()


def in_precision(model: bytes, precision: str) -> tuple[bytes, tuple[str, ...]]:
    """A prepared model in another floating point format, and what had to be changed on the way.

    Raises:
        BuildError: it cannot be converted.
    """
    if precision == "fp32":
        return model, ()
    # Heavy, and needed for this format alone.
    import onnx
    from onnx import checker
    from onnxconverter_common import float16

    from model_compiler.onnx_file import first_line

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            half = float16.convert_float_to_float16(onnx.load_model_from_string(model), keep_io_types=True)
            checker.check_model(half, full_check=True)
        except Exception as error:  # noqa: BLE001  # the converter raises anything
            raise BuildError(
                f"the model cannot be converted to fp16 ({first_line(error)})", remedy="build it with --precision fp32"
            ) from None
    # It warns once for each weight too small or too large for sixteen bits.
    notes = (f"{len(caught)} weights were cut to the range of fp16",) if caught else ()
    return half.SerializeToString(deterministic=True), notes
