"""The engine runs through the real pycuda on a driver that is C on the CPU (``cpu_driver.c``).

What the engine asks of pycuda, and what it asks of the driver for its graph, is thereby shown without a GPU: contexts
that are pushed and popped, copies, the arguments of the kernel, the order of it all, and that nothing stays alive. The
test needs pycuda, which has no wheel and is no part of the gate (``pip install 'maskfleet[gpu]'``, CUDA's headers).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.trt_members import ROOT
from tests.required import missing


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    spec = importlib.util.find_spec("pycuda")
    if spec is None or not spec.submodule_search_locations:
        missing("pycuda", "pycuda is not installed")
    if shutil.which("gcc") is None:
        missing("gcc", "gcc is not installed (apt-get install gcc libc6-dev)")
    folder = tmp_path_factory.mktemp("driver")
    source = (ROOT / "tests/contract/cpu_driver.c").read_text()
    (extension,) = Path(spec.submodule_search_locations[0]).glob("_driver.*.so")
    # What pycuda links to and the engine never reaches.
    linked = {name.decode() for name in re.findall(rb"\0(cu[A-Z]\w+)(?=\0)", extension.read_bytes())}
    others = "\n".join(f"int {name}(void) {{ return 801; }}" for name in sorted(linked) if f"int {name}(" not in source)
    (folder / "driver.c").write_text(source + others)
    library = folder / "libcuda.so.1"
    command = ["gcc", "-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-I{ROOT}/edge_agent/engines"]
    subprocess.run([*command, "-o", str(library), str(folder / "driver.c")], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "tests/contract/pycuda_probe.py"],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_engine_sees_what_the_cpu_would_have_prepared(answer: dict[str, Any]) -> None:
    assert max(answer["off"]) < 0.05
    assert answer["blob"] == 3


def test_a_frame_is_one_kernel_and_one_graph(answer: dict[str, Any]) -> None:
    loaded, ran = answer["loaded"], answer["ran"]
    assert ran["mf_kernels"] - loaded["mf_kernels"] == 4
    assert ran["mf_graphs_launched"] - loaded["mf_graphs_launched"] == 5
    assert ran["mf_copies"] - loaded["mf_copies"] == 5 * (1 + 2)
    assert ran["mf_alive"] == loaded["mf_alive"]


def test_nothing_stays_alive_but_the_context(answer: dict[str, Any]) -> None:
    assert answer["closed"]["mf_alive"] == 0
    assert "cannot load engine" in answer["refused"]
    assert answer["after"]["mf_alive"] == 0
    assert answer["after"]["mf_contexts"] == 1
