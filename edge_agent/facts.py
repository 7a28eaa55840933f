"""What this device is made of: system, GPU, JetPack, runtimes. Asked for once, at the start."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from edge_agent.engines.loading import runnable_targets
from edge_agent.updates.messages import Facts

RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt-rtx-cu13", "pycuda", "opencv-python", "numpy", "grpcio")
_ASK_S = 5.0

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
    gpu, capability = _gpu(asking)
    return Facts(
        os=_os(root),
        arch=platform.machine(),
        gpu=gpu,
        compute_capability=capability,
        jetpack=_jetpack(root, asking),
        runtimes=_runtimes(),
        agent_version=agent_version(),
        targets=runnable_targets(),
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


def _gpu(asking: Ask) -> tuple[str, str]:
    """Name and compute capability of the first GPU."""
    first = asking(["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]).splitlines()[:1]
    match = re.fullmatch(r"(.+?),\s*(\d+)\.(\d+)", first[0].strip()) if first else None
    return (match[1], f"SM{match[2]}{match[3]}") if match else ("", "")


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
