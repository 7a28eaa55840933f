"""Figures in words, for sentences that people read."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 5


def counted(number: int, noun: str) -> str:
    """``1,200 frames``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(ratio: float) -> str:
    """``2.5 %``."""
    return f"{100 * ratio:.2f}".rstrip("0").rstrip(".") + " %"


def milliseconds(value: float) -> str:
    """``48 ms``; with a decimal below 10."""
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"


def seconds(value: float) -> str:
    """``95 s``."""
    return f"{value:,.0f} s"


def named(names: Sequence[str]) -> str:
    """``cam-1, cam-2 and 7 more``."""
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
