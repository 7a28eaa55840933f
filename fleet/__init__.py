"""The SDK and the command line.

``from fleet import MaskingClient``

Names are loaded when they are first used, so that the command line starts without gRPC and OpenCV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet.client import MaskingClient
    from fleet.results import EncodedFrame, Encoding, MaskedFrame, Mode, Outcome, Reason, Region
    from maskfleet.policy import FailClosed, MaskPolicy, Shape, Style

__all__ = [
    "EncodedFrame",
    "Encoding",
    "FailClosed",
    "MaskPolicy",
    "MaskedFrame",
    "MaskingClient",
    "Mode",
    "Outcome",
    "Reason",
    "Region",
    "Shape",
    "Style",
]

_HOMES = {
    "MaskingClient": "fleet.client",
    **dict.fromkeys(("FailClosed", "MaskPolicy", "Shape", "Style"), "maskfleet.policy"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fleet' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES.get(name, "fleet.results")), name)
