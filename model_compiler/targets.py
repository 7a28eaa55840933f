"""The targets: classes of devices that an engine runs on. The registry is a frozen table.

Nothing heavy is imported here; the control plane reads this table as well.

>>> target("ort-cpu").backend
'onnxruntime'
>>> [found.name for found in buildable({"onnxruntime": "1.32.0"})]
['ort-cpu']
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from maskfleet.errors import UnknownTargetError, UnsupportedError


class VerifiedOn(enum.Enum):
    """What passed the gate."""

    ENGINE = "engine"
    PREPARED_ONNX = "prepared-onnx"


@dataclasses.dataclass(frozen=True)
class Target:
    """A class of devices.

    Attributes:
        name: as ``--target`` takes it.
        backend: what runs its engines, as manifests call it.
        distribution: the Python package that builds them.
        version: how the version of that package begins; engines run on the same.
        sms: CUDA compute capabilities, all in one engine; none for a CPU.
        systems: operating systems that it runs on.
        machines: processors that it runs on; none for any.
        precisions: number formats, the default first.
        builders: who can build for it, for people.
        runs_on_builder: whether a builder can run the engine itself, and so verify it.
    """

    name: str
    backend: str
    distribution: str
    version: str
    sms: tuple[str, ...]
    systems: tuple[str, ...]
    machines: tuple[str, ...]
    precisions: tuple[str, ...]
    builders: str
    runs_on_builder: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


_RTX = Target(
    name="",
    backend="tensorrt-rtx",
    distribution="tensorrt-rtx-cu13",
    version="1.7.1",
    sms=(),
    systems=("linux", "windows"),
    machines=("x86_64",),
    precisions=("fp32", "fp16", "int8"),
    builders="any x86-64 Linux with the rtx extra; needs no GPU",
    runs_on_builder=False,
)

TARGETS: dict[str, Target] = {
    entry.name: entry
    for entry in (
        Target(
            name="ort-cpu",
            backend="onnxruntime",
            distribution="onnxruntime",
            version="1.",
            sms=(),
            systems=("linux", "windows", "darwin"),
            machines=(),
            precisions=("fp32", "fp16", "int8"),
            builders="any machine",
            runs_on_builder=True,
        ),
        # Ampere, Ada and Blackwell share one engine at no extra size; Turing costs a quarter more on its own.
        dataclasses.replace(_RTX, name="rtx-ampere-plus", sms=("SM80", "SM86", "SM89", "SM120", "SM121")),
        dataclasses.replace(_RTX, name="rtx-turing", sms=("SM75",)),
    )
}


def target(name: str) -> Target:
    """The target of that name.

    Raises:
        UnknownTargetError: there is none.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise UnknownTargetError(
            f"there is no target {name!r}", remedy=f"use one of {', '.join(sorted(TARGETS))}"
        ) from None


def buildable(installed: Mapping[str, str]) -> tuple[Target, ...]:
    """The targets that a machine with these packages (name → version) can build for."""
    return tuple(entry for entry in TARGETS.values() if installed.get(entry.distribution, "").startswith(entry.version))


def check_buildable(entry: Target, installed: Mapping[str, str]) -> Target:
    """The target, if a machine with these packages can build for it.

    Raises:
        UnsupportedError: it cannot.
    """
    if entry in buildable(installed):
        return entry
    found = installed.get(entry.distribution)
    raise UnsupportedError(
        f"target {entry.name} is built with {entry.distribution} {entry.version}, and "
        + (f"version {found} is installed here" if found else "it is not installed here"),
        remedy=f"build on {entry.builders}",
    )


_TOOLS = ("maskfleet", "onnx", "onnxruntime", "onnxconverter-common", "numpy", "protobuf", "tensorrt-rtx-cu13")


def installed_versions() -> dict[str, str]:
    """The tools of this machine with their versions; read from the packages' metadata, nothing is imported."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def table() -> str:
    """The registry for people, one line a target."""
    head = ("TARGET", "BACKEND", "VERSION", "SMS", "MACHINES", "PRECISIONS", "BUILT ON")
    rows = [
        (
            entry.name,
            entry.backend,
            entry.version.rstrip("."),
            " ".join(entry.sms) or "–",
            f"{' '.join(entry.systems)} {' '.join(entry.machines) or 'any'}",
            " ".join(entry.precisions),
            entry.builders,
        )
        for entry in TARGETS.values()
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in (head, *rows))
