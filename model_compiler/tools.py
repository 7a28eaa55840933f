"""The tools of this machine with their versions, and what it is made of; nothing heavy is imported."""

from __future__ import annotations

import functools
from importlib import metadata

from edge_agent.facts import gather, machine_of
from edge_agent.updates.messages import Facts
from maskfleet.targets import Machine

TOOLS = (
    "maskfleet",
    "onnx",
    "onnxruntime",
    "onnxconverter-common",
    "numpy",
    "protobuf",
    "openvino",
    "tensorrt-rtx-cu13",
    "tensorrt",
    "torch",
)
"""What an engine may depend on. A cache key holds those that are installed."""


def installed_versions() -> dict[str, str]:
    """Versions by name, of those that are installed."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def facts() -> Facts:
    """What this machine is made of, as its agent would say it."""
    return gather()


def machine() -> Machine:
    """What of it decides which targets it builds for."""
    return machine_of(facts())
