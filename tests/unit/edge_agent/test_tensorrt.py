"""A machine without a GPU says so in a sentence, and importing the engine costs nothing there.

Which members of TensorRT the engine uses is held by ``tests/contract/test_trt_bindings.py``.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from edge_agent.engines import tensorrt as ours
from edge_agent.engines.loading import load
from edge_agent.facts import gather
from maskfleet.decoding import decoder_spec
from maskfleet.errors import UnsupportedError


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
