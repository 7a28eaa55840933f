"""Models that the compiler's tests build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper


@pytest.fixture(scope="session")
def detector_path(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The file of a detector, by the name of its decoder; skips where it is not at hand."""

    def find(decoder: str) -> Path:
        if decoder == "centerface":
            return Path(request.getfixturevalue("centerface_path"))
        models = Path(request.getfixturevalue("testdata")) / "models"
        return models / {"yunet": "yunet_n_dynamic.onnx", "ultraface": "ultraface_version-RFB-320.onnx"}[decoder]

    return find


@pytest.fixture(scope="session")
def unsupported_path(centerface_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CenterFace behind an operator of the standard that TensorRT has not: valid, and ONNX Runtime runs it."""
    model = onnx.version_converter.convert_version(onnx.load(centerface_path), 17)
    first = model.graph.node[0]
    picture = first.input[0]
    first.input[0] = "picture"
    model.graph.node.insert(0, helper.make_node("Add", [picture, "nothing"], ["picture"], name="mix"))
    model.graph.node.insert(0, helper.make_node("Sub", ["coin", "coin"], ["nothing"], name="cancel"))
    model.graph.node.insert(0, helper.make_node("Bernoulli", ["half"], ["coin"], name="toss"))
    model.graph.node.insert(0, helper.make_node("Sigmoid", [picture], ["half"], name="squash"))
    path = tmp_path_factory.mktemp("models") / "unsupported.onnx"
    onnx.save(model, path)
    return path
