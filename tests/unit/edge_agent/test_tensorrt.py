"""The TensorRT engine names real members of the real bindings.

There is no GPU where this runs, so the engine itself is not run here. What can be checked is: every member that the
code uses exists, and a machine without a GPU says so in a sentence.
"""

from __future__ import annotations

import ast
import inspect
import sys
from typing import Any

import pytest

from edge_agent.engines import tensorrt as ours
from edge_agent.engines.loading import load
from edge_agent.facts import gather
from maskfleet.decoding import decoder_spec
from maskfleet.errors import UnsupportedError

MEMBERS = {
    "Logger": ["ERROR"],
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_shape",
        "get_tensor_dtype",
        "create_execution_context",
        "create_runtime_config",
    ],
    "IExecutionContext": ["set_tensor_address", "execute_async_v3"],
    "IRuntimeConfig": ["create_runtime_cache", "set_runtime_cache"],
    "IRuntimeCache": ["serialize", "deserialize"],
    "TensorIOMode": ["INPUT"],
}
HANDLES = {"_trt", "_engine", "_context", "_runtime", "_cache", "config"}


@pytest.fixture(scope="module")
def bindings() -> Any:
    return pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize(("kind", "member"), [(kind, m) for kind, members in MEMBERS.items() for m in members])
def test_the_bindings_have_every_member(bindings: Any, kind: str, member: str) -> None:
    assert hasattr(getattr(bindings, kind), member)


def test_the_list_of_members_is_complete(bindings: Any) -> None:
    """Whatever the code asks of TensorRT's objects is in the table above, or in the module itself."""
    known = {member for members in MEMBERS.values() for member in members} | set(MEMBERS) | {"nptype", "__version__"}
    used = set()
    for node in ast.walk(ast.parse(inspect.getsource(ours))):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
        if name in HANDLES:
            used.add(node.attr)
    assert used
    assert used <= known
    assert callable(bindings.nptype)
    assert bindings.__version__


def test_importing_the_module_imports_neither_tensorrt_nor_cuda() -> None:
    assert "pycuda" not in sys.modules
    assert "tensorrt" not in sys.modules


@pytest.mark.skipif(ours.compute_capability() != 0, reason="this machine has a GPU")
def test_a_machine_without_a_gpu_says_so(tmp_path: Any) -> None:
    assert not [name for name in gather().targets if name.startswith("rtx-")]
    with pytest.raises(UnsupportedError, match="cannot be"):
        load("rtx-ampere-plus", tmp_path / "plan", decoder=decoder_spec("yunet"), threads=1)
    with pytest.raises(UnsupportedError) as caught:
        ours.TensorRtEngine.load(tmp_path / "plan", target="rtx-ampere-plus", decoder=decoder_spec("yunet"))
    assert caught.value.remedy
