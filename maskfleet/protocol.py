"""The version of the wire that this package speaks, and with whom it gets along.

A version grows where a peer of the previous one has to be treated differently; additions that old peers ignore are
features instead. Each side works with the previous and the next version.

>>> check_peer(VERSION, peer="the plane")
"""

from __future__ import annotations

from maskfleet.errors import UnsupportedError

VERSION = 1


def check_peer(version: int, *, peer: str) -> None:
    """Whether a peer's version is close enough.

    Raises:
        UnsupportedError: it is not.
    """
    if version < 1 or abs(version - VERSION) > 1:
        older = "it" if version < VERSION else "this side"
        raise UnsupportedError(
            f"{peer} speaks protocol {version}, this side speaks {VERSION}",
            remedy=f"update {older}; versions may differ by one",
        )
