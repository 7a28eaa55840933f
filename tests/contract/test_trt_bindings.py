"""What the code asks of TensorRT exists in the real bindings of every version that a target names.

The bindings of classic TensorRT import without NVIDIA's libraries once stand-ins define the entry points that they ask
for; the test builds those with gcc. TensorRT for RTX is the real thing. Each version runs in a process of its own.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.trt_members import GUARDS, HANDLES, MODULE, ROOT, Use, asked_for, uses
from tests.required import missing

UNPACKED = ROOT / ".tools" / "trt-bindings"
PINNED = ROOT / "requirements" / "trt-bindings.txt"
CLASSIC = [
    line.strip().partition("==")[2] for line in PINNED.read_text().splitlines() if line and not line.startswith("#")
]
VERSIONS = [*CLASSIC, "rtx"]
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry",
    "getPluginRegistry", "getNvOnnxParserVersion", "getInferLibVersion", "initLibNvInferPlugins",
)  # fmt: skip
USED = sorted(use for source in HANDLES for use in uses(source)[0])


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Folders with stand-ins for NVIDIA's libraries, by the first number of their version."""
    if shutil.which("gcc") is None:
        missing("gcc", "gcc is not installed (apt-get install gcc libc6-dev)")
    folder = tmp_path_factory.mktemp("stand-ins")
    source = folder / "entry_points.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in ENTRY_POINTS))
    made = {}
    for major in sorted({version.partition(".")[0] for version in CLASSIC}):
        made[major] = folder / major
        made[major].mkdir()
        for library in LIBRARIES:
            soname = f"lib{library}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(made[major] / soname), str(source)]
            subprocess.run(command, check=True, capture_output=True)
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=VERSIONS)
def answer(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the probe says of one version."""
    version = str(request.param)
    module, path, libraries = "tensorrt_rtx", [str(ROOT)], ""
    if version == "rtx":
        if importlib.util.find_spec(module) is None:
            missing("trt-bindings", "TensorRT for RTX is not installed")
    else:
        if not (UNPACKED / version).is_dir():
            missing("trt-bindings", f"bindings of TensorRT {version} are not there (scripts/trt_bindings.sh)")
        module, path = "tensorrt_bindings", [*path, str(UNPACKED / version)]
        libraries = str(request.getfixturevalue("stand_ins")[version.partition(".")[0]])
    done = subprocess.run(
        [sys.executable, "tests/contract/trt_probe.py", module],
        input=json.dumps({"uses": [dataclasses.asdict(use) for use in USED], "features": sorted(set(GUARDS.values()))}),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "LD_LIBRARY_PATH": libraries},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert version == "rtx" or found["version"] == version
    return found


@pytest.mark.parametrize("source", HANDLES)
def test_every_name_in_the_code_is_a_handle_or_a_stranger(source: str) -> None:
    found, unknown = uses(source)
    assert not unknown, "put these names into a table of tests/contract/trt_members.py"
    assert {use.owner for use in found} >= {MODULE, *HANDLES[source].values()}


@pytest.mark.parametrize("source", HANDLES)
def test_the_code_asks_before_it_touches_what_only_some_versions_have(source: str) -> None:
    for use in uses(source)[0]:
        if guard := GUARDS.get((use.owner, use.member)):
            assert guard[1] in asked_for(source), use


def test_every_member_is_there_unless_the_code_asked_for_it_first(answer: dict[str, Any]) -> None:
    features = {tuple(feature) for feature in answer["features"]}
    lacking = [Use(**use) for use in answer["missing"]]
    # Where the feature is there, all of it has to be.
    assert [use for use in lacking if GUARDS.get((use.owner, use.member)) in features | {None}] == []


def test_every_call_suits_a_signature(answer: dict[str, Any]) -> None:
    assert answer["refused"] == []


def test_our_subclasses_of_its_interfaces_work(answer: dict[str, Any]) -> None:
    callbacks = answer["callbacks"]
    assert callbacks["not_overridden"] == []
    assert callbacks["lines"] == ["warning: heard", "phase: build, 2 steps"]
    assert callbacks["errors"] == [1, "broken", False]
    assert callbacks["shown"] == [0.5, 1.0]
    assert callbacks["going_on"] == [True, False]


def test_flags_and_enumerations_are_as_the_code_takes_them(answer: dict[str, Any]) -> None:
    flags = answer["flags"]
    assert flags["strongly_typed"] == 1 << flags["bit"]
    assert flags["severities"]
    assert flags["named"] == "WARNING"
    assert flags["float"]


def test_only_a_builder_of_classic_tensorrt_needs_a_gpu(answer: dict[str, Any]) -> None:
    if answer["version"] in CLASSIC:
        assert f"UnsupportedError: tensorrt {answer['version']} cannot start here" in answer["without_gpu"]
        assert "the target's GPU" in answer["without_gpu"]
    else:
        assert "BuildError: tensorrt-rtx" in answer["without_gpu"]
