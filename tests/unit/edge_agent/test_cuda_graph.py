"""CUDA graphs through the driver's C interface: a stand-in made by gcc counts calls, NVIDIA's header checks them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_agent.engines.cuda_graph import SIGNATURES, THREAD_LOCAL, CudaGraph
from maskfleet.errors import EngineError
from tests.required import missing

DRIVER = """
#include <stddef.h>
int mode, ended, graphs, executables, launches, fail;
void *launched[2];
static int code(int which) { return fail == which ? 900 + which : 0; }
int cuStreamBeginCapture_v2(void *stream, int asked) { mode = asked; return code(1); }
int cuStreamEndCapture(void *stream, void **graph)
{
    ++ended;
    *graph = code(2) ? NULL : (void *)0x10;
    graphs += !code(2);
    return code(2);
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags)
{
    if (code(3) || graph != (void *)0x10 || flags) { return 903; }
    *executable = (void *)0x700000000020;
    ++executables;
    return 0;
}
int cuGraphLaunch(void *executable, void *stream)
{
    launched[0] = executable;
    launched[1] = stream;
    ++launches;
    return code(4);
}
int cuGraphExecDestroy(void *executable) { executables -= executable == (void *)0x700000000020; return 0; }
int cuGraphDestroy(void *graph) { graphs -= graph == (void *)0x10; return 0; }
"""
STREAM = 0x7F00_0000_0077
C_TYPES = {
    "cuStreamBeginCapture_v2": "CUresult (*)(CUstream, CUstreamCaptureMode)",
    "cuStreamEndCapture": "CUresult (*)(CUstream, CUgraph *)",
    "cuGraphInstantiateWithFlags": "CUresult (*)(CUgraphExec *, CUgraph, unsigned long long)",
    "cuGraphLaunch": "CUresult (*)(CUgraphExec, CUstream)",
    "cuGraphExecDestroy": "CUresult (*)(CUgraphExec)",
    "cuGraphDestroy": "CUresult (*)(CUgraph)",
}


class Driver:
    """The stand-in and what it counted."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)

    def __getitem__(self, name: str) -> int:
        return int(ctypes.c_int.in_dll(self.library, name).value)

    def __setitem__(self, name: str, value: int) -> None:
        ctypes.c_int.in_dll(self.library, name).value = value

    @property
    def launched(self) -> list[int | None]:
        return list((ctypes.c_void_p * 2).in_dll(self.library, "launched"))


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    if shutil.which("gcc") is None:
        missing("gcc", "gcc is not installed (apt-get install gcc libc6-dev)")
    source, library = tmp_path / "driver.c", tmp_path / "driver.so"
    source.write_text(DRIVER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, capture_output=True)
    return Driver(library)


def test_work_is_captured_once_and_launched_as_often_as_wanted(driver: Driver) -> None:
    worked: list[int] = []
    graph = CudaGraph.captured(STREAM, lambda: worked.append(1), library=driver.path)
    assert worked == [1]
    assert driver["mode"] == THREAD_LOCAL
    assert driver["graphs"] == 0  # only the executable is kept
    graph.launch(STREAM)
    graph.launch(STREAM)
    assert driver["launches"] == 2
    assert driver.launched == [0x7000_0000_0020, STREAM]  # whole pointers, not their lower halves
    graph.close()
    assert driver["executables"] == 0
    driver["fail"] = 4
    with pytest.raises(EngineError, match="cuGraphLaunch failed with CUDA error 904"):
        graph.launch(STREAM)


@pytest.mark.parametrize("fail", [1, 2, 3], ids=["begin", "end", "instantiate"])
def test_a_capture_that_fails_leaves_nothing(driver: Driver, fail: int) -> None:
    driver["fail"] = fail
    with pytest.raises(EngineError, match=f"failed with CUDA error 90{fail}"):
        CudaGraph.captured(STREAM, lambda: None, library=driver.path)
    assert (driver["graphs"], driver["executables"]) == (0, 0)


def test_work_that_raises_ends_the_capture(driver: Driver) -> None:
    def work() -> None:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        CudaGraph.captured(STREAM, work, library=driver.path)
    assert driver["ended"] == 1
    assert driver["graphs"] == 0


def test_a_machine_without_the_driver_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no CUDA graphs"):
        CudaGraph.captured(STREAM, lambda: None, library=str(tmp_path / "missing.so"))


def test_the_signatures_are_those_of_nvidias_header(tmp_path: Path) -> None:
    header = next(Path("/usr/local").glob("cuda*/include/cuda.h"), None)
    if header is None or shutil.which("gcc") is None:
        pytest.skip("NVIDIA's header is not installed")
    assert set(C_TYPES) == set(SIGNATURES)
    for name, arguments in SIGNATURES.items():
        assert C_TYPES[name].count(",") == len(arguments) - 1
    source = tmp_path / "check.c"
    lines = [f'_Static_assert(_Generic(&{name}, {type_}: 1, default: 0), "{name}");' for name, type_ in C_TYPES.items()]
    lines.append(f'_Static_assert(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == {THREAD_LOCAL}, "mode");')
    source.write_text("#include <cuda.h>\n" + "\n".join(lines))
    command = ["gcc", "-fsyntax-only", f"-I{header.parent}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
