"""Where a picture lies in an engine's input: in its top left corner, as large as fits, its shape kept.

On a CPU :mod:`edge_agent.masking.preprocess` fills the input by it, on a GPU :mod:`edge_agent.engines.cuda_letterbox`.

>>> Letterbox.of(1280, 720, into=(640, 352))
Letterbox(scale=0.4888888888888889, filled=(626, 352), factor=2)
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """The geometry of one size of picture in one input.

    Attributes:
        scale: a distance in the input is the distance in the picture times this.
        filled: width and height of the part of the input that the picture fills, in pixels.
        factor: by which the picture is reduced first, each pixel the mean of those that it stands for: below half size
            bilinear sampling skips pixels, and small faces with them. Up to ``factor - 1`` pixels at the right and the
            bottom are left out, less than the error of any detector.
    """

    scale: float
    filled: tuple[int, int]
    factor: int

    @classmethod
    def of(cls, width: int, height: int, *, into: tuple[int, int]) -> Letterbox:
        """Of a picture.

        Args:
            width: of the picture, in pixels.
            height: of the picture, in pixels.
            into: width and height of the engine's input, in pixels.
        """
        scale = min(into[0] / width, into[1] / height)
        filled = (max(1, round(width * scale)), max(1, round(height * scale)))
        factor = int(1 / scale)
        # Thinner than the factor it would vanish.
        return cls(scale, filled, factor if 1 < factor <= min(width, height) else 1)
