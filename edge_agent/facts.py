"""What this device is made of: system, GPU, JetPack, runtimes. Asked for once, at the start."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from edge_agent.updates.messages import Facts
from maskfleet.targets import Machine, matching

RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13", "pycuda", "opencv-python", "numpy", "grpcio")
_ASK_S = 5.0
_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}

Ask = Callable[[list[str]], str]


def ask(command: list[str]) -> str:
    """What a program prints; empty where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def gather(root: Path = Path("/"), asking: Ask = ask) -> Facts:
    """The facts.

    Args:
        root: of the file system that they are read from.
        asking: runs a program and gives what it prints.
    """
    gpu, capability, driver = _gpu(asking)
    jetpack = _jetpack(root, asking)
    said = platform.machine().lower()
    machine = Machine(
        system=platform.system().lower(),
        arch=_ARCHES.get(said, said),
        compute_capability=capability,
        jetpack=jetpack,
        driver="" if jetpack else driver,
        runtimes=_runtimes(),
    )
    match = matching(machine)
    return Facts(
        os=_os(root),
        arch=machine.arch,
        gpu=gpu,
        compute_capability=capability,
        jetpack=jetpack,
        driver=machine.driver,
        runtimes=machine.runtimes,
        agent_version=agent_version(),
        targets=match.targets,
        target_note=match.note,
    )


def machine_of(facts: Facts) -> Machine:
    """What of the facts decides which targets a machine belongs to, for this very machine."""
    return Machine(
        system=platform.system().lower(),
        arch=facts.arch,
        compute_capability=facts.compute_capability,
        jetpack=facts.jetpack,
        driver=facts.driver,
        runtimes=facts.runtimes,
    )


def agent_version() -> str:
    """Version of this package; ``0`` where it is not installed."""
    try:
        return importlib.metadata.version("maskfleet")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Degrees Celsius by sensor, where the system tells."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        try:
            found[(zone / "type").read_text().strip()] = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue
    return found


def _os(root: Path) -> str:
    try:
        lines = (root / "etc/os-release").read_text().splitlines()
    except OSError:
        return platform.system().lower()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    words = (values.get(key, "").strip('"') for key in ("ID", "VERSION_ID"))
    return " ".join(word for word in words if word)


def _gpu(asking: Ask) -> tuple[str, str, str]:
    """Name, compute capability and driver of the first GPU."""
    query = "--query-gpu=name,compute_cap,driver_version"
    first = asking(["nvidia-smi", query, "--format=csv,noheader"]).splitlines()[:1]
    match = re.fullmatch(r"(.+?),\s*(\d+)\.(\d+),\s*([\d.]+|\[?N/A\]?)", first[0].strip()) if first else None
    if match is None:
        return "", "", ""
    return match[1], f"SM{match[2]}{match[3]}", match[4] if match[4][0].isdigit() else ""


def _jetpack(root: Path, asking: Ask) -> str:
    """JetPack's version; where only Linux for Tegra says its own, that."""
    try:
        text = (root / "etc/nv_tegra_release").read_text()
    except OSError:
        return ""
    if version := asking(["dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack"]):
        return version
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"l4t {match[1]}.{match[2]}" if match else "unknown"


def _runtimes() -> dict[str, str]:
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
