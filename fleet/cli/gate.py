"""The options of ``fleet releases create`` that say how an engine is judged and what ranges are learnt from."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Annotated

import typer

from fleet.release_matrix import MARGINS
from maskfleet.errors import InvalidInputError

_FIELDS = {name: field for field, name in MARGINS.items()}
_LARGEST = {"max_error": 100.0, "max_extra": 100.0}
"""Shares of something else, which may be above 1."""


class PrecisionWord(enum.Enum):
    """Number format of an engine."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def complete_gate(incomplete: str) -> list[tuple[str, str]]:
    """Names of margins with what they are."""
    about = {
        "cosine": "least cosine of an output with the fp32 model's",
        "error": "largest difference of a value, as a share of the output's largest",
        "recall": "least share of the fp32 model's faces that are found",
        "extra": "most other faces, as a share of the fp32 model's",
        "match-iou": "overlap from which two boxes are the same face",
        "mean-iou": "least mean overlap of the boxes that are the same",
    }
    return [(f"{name}=", about[name]) for name in _FIELDS if name.startswith(incomplete)]


PrecisionOption = Annotated[PrecisionWord, typer.Option(help="Number format; auto: the fastest that passes the gate.")]
GateOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help=f"A margin of the gate, as recall=0.99,mean-iou=0.9; repeat it. Keys: {', '.join(_FIELDS)}.",
        autocompletion=complete_gate,
    ),
]
CalibrationOption = Annotated[
    str,
    typer.Option(
        metavar="NAME/VERSION",
        help="Set of pictures, on a builder, from which ranges for 8 bits are learnt; the compiler's own by default.",
    ),
]
WorkspaceOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=1 << 24,
        help="Scratch memory on the GPU for TensorRT in MiB; 0 for all there is.",
        show_default=False,
    ),
]


def parse_gate(texts: Sequence[str]) -> dict[str, float]:
    """Margins by their fields on the wire.

    Args:
        texts: ``recall=0.99``, or several of them with commas.

    Raises:
        InvalidInputError: an unknown key, no number, one out of range, or a key given twice.
    """
    found: dict[str, float] = {}
    for entry in (entry.strip() for text in texts for entry in text.split(",")):
        key, equals, value = entry.partition("=")
        field = _FIELDS.get(key)
        if field is None or not equals:
            raise InvalidInputError(
                f"{entry!r} is no margin of the gate", remedy=f"give KEY=VALUE with one of {', '.join(_FIELDS)}"
            )
        if field in found:
            raise InvalidInputError(f"the margin {key} is given twice", remedy="give it once")
        found[field] = _share(key, value, _LARGEST.get(field, 1.0))
    return found


def parse_calibration(text: str) -> str:
    """The name of a calibration set, if it is one; empty stays empty.

    Raises:
        InvalidInputError: it is none.
    """
    from maskfleet.ids import check_name

    if not text:
        return ""
    name, slash, version = text.partition("/")
    if not slash:
        raise InvalidInputError(f"{text!r} is no calibration set", remedy="give NAME/VERSION, as street/2")
    return f"{check_name('calibration set', name)}/{check_name('version', version)}"


def _share(key: str, text: str, largest: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= largest:  # so is what is no number
        raise InvalidInputError(f"the margin {key} is {text!r}", remedy=f"give a number from 0 to {largest:g}")
    return value
