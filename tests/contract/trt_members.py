"""What our code asks of TensorRT's Python bindings, read from its syntax tree.

Complete by construction: whoever owns an attribute in one of :data:`SOURCES` is either a handle, of which the class in
the bindings is known, or a stranger. A name that is neither fails the test until it is put into one of the tables.
"""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULE = ""
"""Stands for the bindings themselves where the name of a class is due."""

BUILDS = "model_compiler/builds/tensorrt.py"
ENGINE = "edge_agent/engines/tensorrt.py"

HANDLES: dict[str, dict[str, str]] = {
    BUILDS: {
        "trt": MODULE,
        "logger": "ILogger",
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "error": "ParserError",
        "tensor": "ITensor",
        "layer": "ILayer",
        "severity": "ILogger.Severity",
    },
    ENGINE: {
        "_trt": MODULE,
        "_runtime": "Runtime",
        "_engine": "ICudaEngine",
        "_context": "IExecutionContext",
        "_cache": "IRuntimeCache",
        "config": "IRuntimeConfig",
    },
}
RETURNS = {("ParserError", "code"): "ErrorCode", ("ILayer", "type"): "LayerType"}
"""Class of what a member is or gives, where the code goes on from there."""

GUARDS = {
    ("IBuilderConfig", "num_compute_capabilities"): ("IBuilderConfig", "set_compute_capability"),
    ("IBuilderConfig", "set_compute_capability"): ("IBuilderConfig", "set_compute_capability"),
    (MODULE, "ComputeCapability"): ("IBuilderConfig", "set_compute_capability"),
    ("ICudaEngine", "create_runtime_config"): (MODULE, "IRuntimeCache"),
    ("IRuntimeConfig", "create_runtime_cache"): (MODULE, "IRuntimeCache"),
    ("IRuntimeConfig", "set_runtime_cache"): (MODULE, "IRuntimeCache"),
    ("IRuntimeConfig", "cuda_graph_strategy"): (MODULE, "CudaGraphStrategy"),
    (MODULE, "CudaGraphStrategy"): (MODULE, "CudaGraphStrategy"),
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"): (MODULE, "CudaGraphStrategy"),
    ("IRuntimeCache", "serialize"): (MODULE, "IRuntimeCache"),
    ("IRuntimeCache", "deserialize"): (MODULE, "IRuntimeCache"),
}
"""Members that only some bindings have, each with the member that our code asks for before it touches them."""

STRANGERS: dict[str, set[str]] = {
    BUILDS: {
        "importlib", "re", "recorder", "self", "codes", "texts", "_phases", "_done", "replace", "parts", "layers",
        "said", "everything", "desc", "name", "int", "_GPU_FULL", "_REQUESTED",
    },
    ENGINE: {
        "np", "importlib", "threading", "contextlib", "math", "cuda", "CudaGraph", "path", "kept", "blob", "opened",
        "_opened", "_driver", "_stream", "_info", "_buffers", "buffer", "_shapes", "_letterbox", "_graph", "role",
        "target_spec", "decoder", "get_logger", "array", "npt",
    },
}  # fmt: skip
"""Owners of attributes that are none of TensorRT's."""


@dataclasses.dataclass(frozen=True, order=True)
class Use:
    """A member that our code touches.

    Attributes:
        owner: the class in the bindings; :data:`MODULE` for the bindings themselves.
        member: its name.
        arguments: how many it is called with; -1 where it is not called.
        source: file that touches it.
    """

    owner: str
    member: str
    arguments: int
    source: str


def uses(source: str) -> tuple[set[Use], set[str]]:
    """What a file touches, and the owners of attributes that are in none of the tables."""
    tree = ast.parse((ROOT / source).read_text())
    handles, strangers = HANDLES[source], STRANGERS[source]
    called = {
        id(node.func): len(node.args) + len(node.keywords) for node in ast.walk(tree) if isinstance(node, ast.Call)
    }
    found, unknown = set(), set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or (isinstance(node.value, ast.Name) and node.value.id == "self"):
            continue
        owner = _class(node.value, handles)
        if owner is not None:
            found.add(Use(owner, node.attr, called.get(id(node), -1), source))
        elif (label := _label(node.value)) and label not in strangers:
            unknown.add(f"{source}:{node.lineno} {label}")
    return found, unknown


def asked_for(source: str) -> set[str]:
    """The names that a file asks hasattr() or getattr() for."""
    return {
        str(node.args[1].value)
        for node in ast.walk(ast.parse((ROOT / source).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
        and isinstance(node.args[1], ast.Constant)
    }


def _class(node: ast.expr, handles: dict[str, str]) -> str | None:
    """The class of an expression in the bindings; None where it is none of theirs."""
    if isinstance(node, ast.Name):
        return handles.get(node.id)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return handles.get(node.attr)
        owner = _class(node.value, handles)
        return node.attr if owner == MODULE else RETURNS.get((owner or "", node.attr))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return RETURNS.get((_class(node.func.value, handles) or "", node.func.attr))
    return None


def _label(node: ast.expr) -> str:
    """Name of whatever owns an attribute; empty for a literal."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        return _label(node.func)
    if isinstance(node, ast.Subscript):
        return _label(node.value)
    return "" if isinstance(node, ast.Constant) else type(node).__name__
