"""The options that change a mask policy, shared by ``fleet releases create`` and ``fleet mask``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from maskfleet.errors import InvalidInputError
from maskfleet.policy import FailClosed, MaskPolicy, Shape, Style

StyleOption = Annotated[Style | None, typer.Option(help="How a face is masked.")]
ShapeOption = Annotated[Shape | None, typer.Option(help="The outline of a mask.")]
StrengthOption = Annotated[float | None, typer.Option(help="Strength of blur or mosaic, 0 to 1; 0 is safe already.")]
MarginOption = Annotated[
    float | None, typer.Option(help="How far a mask reaches beyond the face, as a share of its size, 0 to 2.")
]
ConfidenceOption = Annotated[float | None, typer.Option(help="A detection below this score is no face, 0 to 1.")]
CoastOption = Annotated[int | None, typer.Option(help="Frames that a mask stays after its last detection, 0 to 600.")]
FailClosedOption = Annotated[
    FailClosed | None, typer.Option(help="What becomes of a frame that cannot be masked with certainty.")
]
SizeOption = Annotated[
    str,
    typer.Option(metavar="WxH", help="Size of the engine's input in pixels, as 640x352."),
]


def changes(**fields: Any) -> dict[str, Any]:
    """The fields that were given, checked.

    Raises:
        BadPolicyError: one is out of range.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    MaskPolicy().changed(**given)
    return given


def parse_size(text: str) -> tuple[int, int]:
    """Width and height; zeros for an empty text.

    Raises:
        InvalidInputError: it is no size.
    """
    if not text:
        return 0, 0
    width, _, height = text.lower().replace("×", "x").partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise InvalidInputError(f"{text!r} is no size", remedy="give width and height, as 640x352")
    return int(width), int(height)
