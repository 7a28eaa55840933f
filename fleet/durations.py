"""Times as people write them: ``90s``, ``30m``, ``12h``, ``7d``."""

from __future__ import annotations

from maskfleet.errors import InvalidInputError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_S = 10 * 365 * 86400
"""Ten years."""


def parse_duration(text: str, *, zero: bool = False) -> int:
    """Seconds of a text like ``90s``, ``30m``, ``12h`` or ``7d``.

    Args:
        text: a whole number and a unit.
        zero: whether ``0s`` is allowed.

    Raises:
        InvalidInputError: it is no such text.
    """
    number, unit = text[:-1], text[-1:]
    good = unit in _UNITS and number.isascii() and number.isdigit() and len(number) < 12
    seconds = int(number) * _UNITS[unit] if good else 0
    if not good or (not seconds and not zero) or seconds > LONGEST_S:
        raise InvalidInputError(f"{text!r} is no time", remedy="give a number and s, m, h or d, as 30m")
    return seconds


def short_duration(seconds: float) -> str:
    """A time for people, to the two largest units: ``8 s``, ``2 m 05 s``, ``3 h 20 m``, ``4 d 2 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
