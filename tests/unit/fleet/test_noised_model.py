"""The damaged model is a valid model, and the same one every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fleet.demo.noised_model import write_noised
from maskfleet.errors import OutputError


def test_it_has_noise_on_its_weights_and_is_the_same_every_time(centerface_path: Path, tmp_path: Path) -> None:
    write_noised(centerface_path, tmp_path / "a.onnx")
    write_noised(centerface_path, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    good, noised = onnx.load(centerface_path), onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(noised)
    assert [node.op_type for node in noised.graph.node] == [node.op_type for node in good.graph.node]
    changed = 0
    for before, after in zip(good.graph.initializer, noised.graph.initializer):
        old, new = numpy_helper.to_array(before), numpy_helper.to_array(after)
        assert old.shape == new.shape
        assert old.dtype == new.dtype
        changed += not np.array_equal(old, new)
    assert changed > 50


def test_a_place_that_cannot_be_written_is_said(centerface_path: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_noised(centerface_path, tmp_path / "nowhere" / "a.onnx")
