"""Speed against accuracy of one target's candidates, as an SVG that takes its colours from the page around it. Pure.

To the left is faster, up is nearer to the fp32 model. What passed the gate is filled, what was refused is hollow, the
winner has a ring. A dashed line is the gate's margin. Labels move until they lie on nothing.

Example::

    svg = speed_accuracy([Point("int8", 12.1, 0.992, won=True, passed=True)], measure="recall", limit=0.98)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from fleet.page import text

WIDTH, HEIGHT = 480.0, 290.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 18.0, 34.0, 46.0
_SIZE = 12.0
_LETTER = 6.9
"""How wide a letter of a label is, at most on average; browsers differ, and a little room is no harm."""

_RADIUS = 5.5
_RING = 10.0
_HALO = ' paint-order="stroke" stroke="var(--card)" stroke-width="4" stroke-linejoin="round"'
_NEAR, _FAR = 15.0, (28.0, 42.0, 58.0)


@dataclasses.dataclass(frozen=True)
class Point:
    """One candidate.

    Attributes:
        label: as ``int8``.
        ms: a run on one picture.
        value: of the measure, 0 to 1.
        won: whether it is the engine of the release.
        passed: whether the gate passed it.
    """

    label: str
    ms: float
    value: float
    won: bool
    passed: bool


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle: left, top, right, bottom."""

    x1: float
    y1: float
    x2: float
    y2: float

    def meets(self, other: Box) -> bool:
        """Whether the two have a place in common."""
        return self.x1 < other.x2 and other.x1 < self.x2 and self.y1 < other.y2 and other.y1 < self.y2

    def within(self, other: Box) -> bool:
        """Whether all of it lies in the other."""
        return self.x1 >= other.x1 and self.y1 >= other.y1 and self.x2 <= other.x2 and self.y2 <= other.y2


@dataclasses.dataclass(frozen=True)
class Scale:
    """Where values lie on an axis.

    Attributes:
        low: value at ``start``.
        high: value at ``end``.
        start: of the axis, in the picture.
        end: likewise.
        step: between ticks.
    """

    low: float
    high: float
    start: float
    end: float
    step: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Multiples of the step within the axis."""
        first = math.ceil(self.low / self.step - 1e-9)
        return [n * self.step for n in range(first, math.floor(self.high / self.step + 1e-9) + 1)]

    def words(self, value: float) -> str:
        """A tick's value, with as many digits as the step needs."""
        return f"{value:.{max(0, -math.floor(math.log10(self.step) + 1e-9))}f}"


def speed_accuracy(points: Sequence[Point], *, measure: str, limit: float | None = None) -> str:
    """The plot.

    Args:
        points: at least one.
        measure: ``recall``, drawn in percent, or another share, drawn as it is.
        limit: the gate's least; None where there is none.
    """
    factor, unit = (100.0, "%") if measure == "recall" else (1.0, "")
    x = _speed([point.ms for point in points])
    y = _accuracy([factor * point.value for point in points], None if limit is None else factor * limit, factor)
    parts = [*_axes(x, y, f"{measure}{f', {unit}' if unit else ''}")]
    taken = [_around(x(point.ms), y(factor * point.value), _RING) for point in points]
    if limit is not None and y.low <= factor * limit <= y.high:
        line, words = _limit(y(factor * limit), f"gate: at least {factor * limit:g}{unit}")
        parts.append(line)
        taken.append(words)
    labels = []
    for point in sorted(points, key=lambda point: not point.won):
        line, label, box = _label(point, x(point.ms), y(factor * point.value), taken)
        parts.append(line)
        labels.append(label)
        taken.append(box)
    for point in sorted(points, key=lambda point: point.won):
        parts.append(_dot(point, x(point.ms), y(factor * point.value), f"{factor * point.value:.4g}{unit} {measure}"))
    parts += labels
    said = text(f"Speed against {measure}: " + ", ".join(f"{p.label} {p.ms:.1f} ms" for p in points))
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{said}" font-size="{_SIZE:g}">'
        + "".join(parts)
        + "</svg>"
    )


def place(at_x: float, at_y: float, width: float, taken: Sequence[Box]) -> tuple[Box, bool]:
    """Where a label goes: the nearest place beside its point that is free, and whether it needs a line to the point.

    Args:
        at_x: of the point.
        at_y: likewise.
        width: of the label.
        taken: where it must not lie.
    """
    room = Box(_LEFT + 2, _TOP, WIDTH - 2, HEIGHT - _BOTTOM - 2)
    half = _SIZE / 2 + 1
    for distance in (_NEAR, *_FAR):
        for angle in (0, 180, 270, 90, 315, 45, 225, 135):
            dx, dy = (round(f(math.radians(angle)), 6) * distance for f in (math.cos, math.sin))
            x1 = at_x + dx if dx > 0 else at_x + dx - width if dx < 0 else at_x - width / 2
            box = Box(x1, at_y + dy - half, x1 + width, at_y + dy + half)
            if box.within(room) and not any(box.meets(other) for other in taken):
                return box, distance > _NEAR
    x1 = min(max(at_x + _NEAR, room.x1), room.x2 - width)
    return Box(x1, at_y - half, x1 + width, at_y + half), False


def nice_step(span: float, ticks: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives about so many ticks."""
    rough = max(span, 1e-9) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)


def _speed(values: Sequence[float]) -> Scale:
    step = nice_step(max(*values, 1e-3) * 1.12, 5)
    high = math.ceil(max(*values, 1e-3) * 1.12 / step) * step
    return Scale(0.0, high, _LEFT, WIDTH - _RIGHT, step)


def _accuracy(values: Sequence[float], limit: float | None, most: float) -> Scale:
    """From a little below the lowest to a little above the highest; differences that are noise do not fill it."""
    shown = [*values, *([limit] if limit is not None else [])]
    low, high = min(shown), max(shown)
    span = max(high - low, 0.01 * most)
    step = nice_step(span * 1.3, 4)
    return Scale(max(0.0, low - 0.15 * span), high + 0.15 * span, HEIGHT - _BOTTOM, _TOP, step)


def _axes(x: Scale, y: Scale, measure: str) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = [f'<text x="0" y="14" fill="var(--soft)">{text(measure)}</text>']
    for value in y.ticks():
        at = y(value)
        parts.append(f'<line x1="{_LEFT:g}" x2="{right:g}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--grid)"/>')
        words = y.words(value)
        parts.append(f'<text x="{_LEFT - 8:g}" y="{at + 4:.1f}" text-anchor="end" fill="var(--soft)">{words}</text>')
    parts.append(f'<line x1="{_LEFT:g}" x2="{right:g}" y1="{bottom:g}" y2="{bottom:g}" stroke="var(--soft)"/>')
    for value in x.ticks():
        at = x(value)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom:g}" y2="{bottom + 4:g}" stroke="var(--soft)"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 18:g}" text-anchor="middle" fill="var(--soft)">{x.words(value)}</text>'
        )
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle:g}" y="{HEIGHT - 6:g}" text-anchor="middle" fill="var(--soft)">'
                 "milliseconds a picture, on its builder</text>")  # fmt: skip
    return parts


def _limit(at: float, words: str) -> tuple[str, Box]:
    right = WIDTH - _RIGHT
    width = _LETTER * len(words)
    drawn = (
        f'<line x1="{_LEFT:g}" x2="{right:g}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--bad)" stroke-dasharray="5 4"/>'
        f'<text x="{_LEFT + 6:g}" y="{at + 15:.1f}" fill="var(--bad)"{_HALO}>{text(words)}</text>'
    )
    return drawn, Box(_LEFT + 4, at + 3, _LEFT + 6 + width, at + 19)


def _dot(point: Point, x: float, y: float, value: str) -> str:
    fill = "var(--good)" if point.won else "var(--accent)" if point.passed else "var(--card)"
    line = "var(--good)" if point.won else "var(--accent)" if point.passed else "var(--bad)"
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RING - 1:g}" fill="none" stroke="{line}" stroke-width="1.5"/>'
    said = text(f"{point.label}: {point.ms:.2f} ms, {value}")
    return (
        f'<g><title>{said}</title>{ring if point.won else ""}<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS:g}" '
        f'fill="{fill}" stroke="{line}" stroke-width="2"/></g>'
    )


def _label(point: Point, x: float, y: float, taken: Sequence[Box]) -> tuple[str, str, Box]:
    """The line from the point, where one is needed, the label, and where it lies."""
    width = _LETTER * len(point.label)
    box, far = place(x, y, width, taken)
    middle = (box.y1 + box.y2) / 2
    near_x = box.x1 - 2 if box.x1 > x else box.x2 + 2 if box.x2 < x else x
    line = f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{near_x:.1f}" y2="{middle:.1f}" stroke="var(--soft)"/>' if far else ""
    anchor, at = ("start", box.x1) if box.x1 >= x else ("end", box.x2) if box.x2 <= x else ("middle", x)
    weight = ' font-weight="600"' if point.won else ""
    label = (
        f'<text x="{at:.1f}" y="{middle + 4:.1f}" text-anchor="{anchor}" fill="currentColor"{weight}{_HALO}>'
        f"{text(point.label)}</text>"
    )
    return line, label, box


def _around(x: float, y: float, radius: float) -> Box:
    return Box(x - radius, y - radius, x + radius, y + radius)
