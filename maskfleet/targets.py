"""The targets: classes of devices that an engine runs on, and which of them a machine belongs to.

The registry is a frozen table; agent, compiler and plane read the same. Rules:

- A machine runs a target when its system, processor, GPU, JetPack, driver and installed runtime are all the target's:
  engines of TensorRT load on the very version that built them and on no other.
- GPU targets come before CPU targets; :data:`FALLBACK` comes last and suits every machine.
- A machine with a GPU that no target suits runs :data:`FALLBACK`, and :attr:`Match.note` says why in a sentence.

Versions by JetPack are after https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/ ("Migrating TensorRT from 10.x to
11.x on Jetson/JetPack": 11.4.1 needs JetPack 7.2.2, JetPack 6 stays on 10.3) and the driver for CUDA 13 after
https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/ (580 or later).

>>> target("ort-cpu").backend
'onnxruntime'
>>> matching(Machine("linux", "x86_64", runtimes={"onnxruntime": "1.32.0"})).targets
('ort-cpu',)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from maskfleet.errors import UnknownTargetError, UnsupportedError

FALLBACK = "ort-cpu"
"""What every device can run once ``maskfleet[agent]`` is installed."""

_ANY_BUILDER = "any machine with maskfleet[compiler]"


@dataclasses.dataclass(frozen=True)
class Target:
    """A class of devices.

    Attributes:
        name: as ``--target`` takes it.
        backend: what runs its engines, as manifests call it.
        distribution: the Python package that builds and runs them.
        version: how the version of that package begins; engines run on the same.
        sms: CUDA compute capabilities, all in one engine; none for a CPU.
        systems: operating systems that it runs on.
        machines: processors that it runs on; none for any.
        precisions: number formats, the default first.
        builders: who can build for it, for people.
        jetpack: the release of JetPack that it needs, or the least of its line; empty off Jetson.
        driver: the least version of NVIDIA's driver; empty where JetPack brings it, or there is no GPU.
        built_anywhere: whether a machine without the target's GPU can build for it.
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
    jetpack: str = ""
    driver: str = ""
    built_anywhere: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What decides which targets a machine belongs to; texts are empty where there is nothing to say.

    Attributes:
        system: ``linux``, ``windows`` or ``darwin``.
        arch: as ``x86_64`` or ``aarch64``.
        compute_capability: of its GPU, as ``SM86``.
        jetpack: its release, as ``6.2``.
        driver: version of NVIDIA's driver, as ``580.65.06``.
        runtimes: versions of installed packages by name.
    """

    system: str
    arch: str
    compute_capability: str = ""
    jetpack: str = ""
    driver: str = ""
    runtimes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Match:
    """What a machine runs.

    Attributes:
        targets: best first; never empty.
        note: why its GPU is not used, or what is missing; empty where there is nothing to say.
    """

    targets: tuple[str, ...]
    note: str = ""


_CPU = Target(
    name=FALLBACK,
    backend="onnxruntime",
    distribution="onnxruntime",
    version="1.",
    sms=(),
    systems=("linux", "windows", "darwin"),
    machines=(),
    precisions=("fp32", "fp16", "int8"),
    builders=_ANY_BUILDER,
)
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
    driver="580",
)
_CLASSIC = Target(
    name="",
    backend="tensorrt",
    distribution="tensorrt",
    version="11.4",
    sms=(),
    systems=("linux",),
    machines=("x86_64",),
    precisions=("fp32", "fp16", "int8"),
    builders="",
    driver="580",
    built_anywhere=False,
)


def _jetson(name: str, sm: str, jetpack: str, version: str, device: str) -> Target:
    return dataclasses.replace(
        _CLASSIC,
        name=name,
        version=version,
        sms=(sm,),
        machines=("aarch64",),
        jetpack=jetpack,
        driver="",
        builders=f"{device} with JetPack {jetpack}{' or later' if '.' in jetpack else ''} and TensorRT {version}",
    )


TARGETS: dict[str, Target] = {
    entry.name: entry
    for entry in (
        _CPU,
        dataclasses.replace(
            _CPU,
            name="openvino-cpu",
            backend="openvino",
            distribution="openvino",
            version="2026.",
            machines=("x86_64", "aarch64"),
            builders="any machine with the openvino extra",
        ),
        # Ampere, Ada and Blackwell share one engine at no extra size; Turing costs a quarter more on its own.
        dataclasses.replace(_RTX, name="rtx-ampere-plus", sms=("SM80", "SM86", "SM89", "SM120", "SM121")),
        dataclasses.replace(_RTX, name="rtx-turing", sms=("SM75",)),
        _jetson("jp6-orin", "SM87", "6", "10.3", "a Jetson Orin"),
        _jetson("jp7-orin", "SM87", "7.2.2", "11.4", "a Jetson Orin"),
        _jetson("jp7-thor", "SM110", "7.2.2", "11.4", "a Jetson Thor"),
        dataclasses.replace(
            _CLASSIC, name="dc-ampere", sms=("SM80",), builders="a machine with an A100 or A30 and TensorRT 11.4"
        ),
        dataclasses.replace(
            _CLASSIC, name="dc-hopper", sms=("SM90",), builders="a machine with an H100 or H200 and TensorRT 11.4"
        ),
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


def matching(machine: Machine) -> Match:
    """The targets whose engines a machine runs, best first."""
    suits = [entry for entry in TARGETS.values() if not mismatch(entry, machine)]
    suits.sort(key=lambda entry: (not entry.sms, entry.name == FALLBACK))
    names = tuple(entry.name for entry in suits)
    if FALLBACK not in names:
        return Match((*names, FALLBACK), f"{FALLBACK} cannot run: {mismatch(TARGETS[FALLBACK], machine)}")
    if not machine.compute_capability or suits[0].sms:
        return Match(names)
    return Match(names, f"its GPU is not used, engines run on {names[0]}: {_why_no_gpu(machine)}")


def mismatch(entry: Target, machine: Machine) -> str:
    """Why a machine does not run a target, in a sentence; empty where it does."""
    if machine.system not in entry.systems:
        return f"{entry.name} is for {' and '.join(entry.systems)}, not {machine.system}"
    if entry.machines and machine.arch not in entry.machines:
        return f"{entry.name} is for {' and '.join(entry.machines)}, not {machine.arch}"
    if entry.sms and machine.compute_capability not in entry.sms:
        return (
            f"{entry.name} is for {', '.join(entry.sms)}, not {machine.compute_capability or 'a machine without GPU'}"
        )
    if entry.jetpack and not _of_line(machine.jetpack, entry.jetpack):
        return f"{entry.name} needs JetPack {entry.jetpack}, this machine has {machine.jetpack or 'none'}"
    if entry.driver and machine.driver and _numbers(machine.driver) < _numbers(entry.driver):
        return f"{entry.name} needs driver {entry.driver} or later, this machine has {machine.driver}"
    if why := _missing(entry, machine.runtimes):
        return why
    if entry.sms and "pycuda" not in machine.runtimes:
        return f"{entry.name} needs pycuda, which is not installed (pip install 'maskfleet[gpu]')"
    return ""


def buildable(machine: Machine) -> tuple[Target, ...]:
    """The targets that a machine can build for."""
    return tuple(entry for entry in TARGETS.values() if not unbuildable(entry, machine))


def unbuildable(entry: Target, machine: Machine) -> str:
    """Why a machine cannot build for a target, in a sentence; empty where it can."""
    if not entry.built_anywhere:
        return mismatch(entry, machine)
    if entry.sms and (machine.system != "linux" or machine.arch not in entry.machines):
        return f"{entry.name} is built on linux {entry.machines[0]}"
    return _missing(entry, machine.runtimes)


def check_buildable(entry: Target, machine: Machine) -> Target:
    """The target, if a machine can build for it.

    Raises:
        UnsupportedError: it cannot.
    """
    if why := unbuildable(entry, machine):
        raise UnsupportedError(
            f"this machine cannot build for {entry.name}: {why}", remedy=f"build on {entry.builders}"
        )
    return entry


def _missing(entry: Target, runtimes: Mapping[str, str]) -> str:
    found = runtimes.get(entry.distribution, "")
    if found.startswith(entry.version):
        return ""
    said = f"version {found} is installed" if found else "it is not installed"
    return f"{entry.name} needs {entry.distribution} {entry.version.rstrip('.')}, and {said}"


def _why_no_gpu(machine: Machine) -> str:
    """Of all reasons the one that is nearest to a remedy: the target for this very GPU."""
    gpu = [entry for entry in TARGETS.values() if entry.sms]
    own = [entry for entry in gpu if machine.compute_capability in entry.sms]
    there = [entry for entry in own if machine.system in entry.systems and machine.arch in entry.machines]
    line = [entry for entry in there if not entry.jetpack or _of_line(machine.jetpack, entry.jetpack)]
    if not own:
        return f"no target is for {machine.compute_capability}"
    return mismatch((line or there or own)[0], machine)


def _of_line(found: str, wanted: str) -> bool:
    """Whether a release is of a line, as 6.2 of 6, and not before its least, as 7.2.3 of 7.2.2."""
    have, want = _numbers(found), _numbers(wanted)
    return bool(have) and have[0] == want[0] and have >= want


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("-")[0].partition("+")[0]))


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
