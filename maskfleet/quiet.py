"""Libraries that would tell their makers who uses them are told not to, before they are imported.

They read their switches while they are loaded, and no one switch stops them all: ONNX Runtime heeds neither
``DO_NOT_TRACK`` nor its own call. So every package that imports one of them calls :func:`hush` in its ``__init__``,
which runs before any module of it. What a person has set stays as it is.

Example::

    hush(os.environ)
    import onnxruntime
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, cast

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: a device id and a database of events in the user's cache
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}
_REPORTERS = ("openvino_telemetry",)
"""Packages that do nothing else. They have no switch; their users go on without where they cannot be imported."""


def hush(environ: MutableMapping[str, str]) -> None:
    """Turns the telemetry of other people's libraries off, for this process and those that it starts."""
    for name, value in SWITCHES.items():
        environ.setdefault(name, value)
    for name in _REPORTERS:
        cast(dict[str, Any], sys.modules).setdefault(name, None)  # None: an import of it raises ImportError
