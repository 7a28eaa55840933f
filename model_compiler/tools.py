"""The tools of this machine with their versions, and what it is made of; nothing heavy is imported."""

from __future__ import annotations

import functools
from importlib import metadata

from edge_agent.facts import gather, machine_of
from edge_agent.updates.messages import Facts
from maskfleet.targets import TARGETS, Machine, Target

COMMON = (
    "maskfleet",
    "numpy",
    "onnx",
    "onnxconverter-common",
    "onnxruntime",
    "onnxslim",
    "opencv-python",
    "protobuf",
)
"""What every engine depends on, whatever its target: they prepare, convert and verify."""


def versions_for(entry: Target) -> dict[str, str]:
    """The tools that an engine for a target depends on, with their versions; those that are not installed are left out.

    Nothing else counts: builders of different equipment find each other's engines.
    """
    found = {}
    for name in (*COMMON, entry.distribution):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def installed_versions() -> dict[str, str]:
    """Every tool of this machine with its version, over all targets."""
    return {name: version for entry in TARGETS.values() for name, version in versions_for(entry).items()}


@functools.cache
def facts() -> Facts:
    """What this machine is made of, as its agent would say it."""
    return gather()


def machine() -> Machine:
    """What of it decides which targets it builds for."""
    return machine_of(facts())
