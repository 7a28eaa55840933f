"""Pages of lists: a token is the place of the last entry, as text.

>>> page_size(0), page_size(7)
(100, 7)
"""

from __future__ import annotations

import base64
import binascii

from maskfleet.errors import InvalidInputError

DEFAULT = 100
LARGEST = 1000


def page_size(asked: int) -> int:
    """How many entries; 100 where it is 0.

    Raises:
        InvalidInputError: it is negative.
    """
    if asked < 0:
        raise InvalidInputError(f"page size {asked} is negative", remedy=f"give 1 to {LARGEST}, or 0 for {DEFAULT}")
    return min(asked or DEFAULT, LARGEST)


def token_of(place: str | int) -> str:
    """The token of a place."""
    return base64.urlsafe_b64encode(str(place).encode()).decode()


def text_place(token: str) -> str | None:
    """The place in a list that is ordered by a text; None at the start.

    Raises:
        InvalidInputError: it is no token.
    """
    if not token:
        return None
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError):
        raise InvalidInputError(
            "this is no page token", remedy="take it from the last answer, or leave it out"
        ) from None


def number_place(token: str) -> int | None:
    """The place in a list that is ordered by a number; None at the start.

    Raises:
        InvalidInputError: it is no token.
    """
    place = text_place(token)
    if place is None:
        return None
    if not place.isdigit():
        raise InvalidInputError("this is no page token", remedy="take it from the last answer, or leave it out")
    return int(place)
