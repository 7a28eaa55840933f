"""What decoders expect of a model."""

from __future__ import annotations

import pytest

from maskfleet.decoding import DECODERS, TensorSpec, bind_outputs, check_input, decoder_spec, input_size
from maskfleet.errors import BadModelError, InvalidInputError

CENTERFACE = [
    TensorSpec("537", "float32", (1, 1, 88, 160)),
    TensorSpec("538", "float32", (1, 2, 88, 160)),
    TensorSpec("539", "float32", (1, 2, 88, 160)),
    TensorSpec("540", "float32", (1, 10, 88, 160)),
]


def test_known_names_are_bound_in_any_order() -> None:
    bound = bind_outputs(DECODERS["centerface"], CENTERFACE[::-1])
    assert bound == {"heatmap": "537", "scale": "538", "offset": "539", "landmarks": "540"}


def test_unknown_names_are_bound_by_order() -> None:
    renamed = [TensorSpec(f"out{i}", o.dtype, o.shape) for i, o in enumerate(CENTERFACE)]
    assert list(bind_outputs(DECODERS["centerface"], renamed).values()) == ["out0", "out1", "out2", "out3"]


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(CENTERFACE[:3], id="one missing"),
        pytest.param([*CENTERFACE, CENTERFACE[0]][1:], id="known names, one of them gone"),
        pytest.param([TensorSpec("x", "float32", (1, 7, 8, 8))] * 4, id="wrong channels"),
        pytest.param([TensorSpec(o.name, "float16", o.shape) for o in CENTERFACE], id="half floats"),
        pytest.param([TensorSpec(o.name, "float32", (1,)) for o in CENTERFACE], id="too few dimensions"),
        pytest.param([], id="none"),
    ],
)
def test_outputs_of_another_kind_are_refused(outputs: list[TensorSpec]) -> None:
    if [o.name for o in outputs] == ["538", "539", "540", "537"]:
        assert bind_outputs(DECODERS["centerface"], outputs)["heatmap"] == "537"
        return
    with pytest.raises(BadModelError, match="decoder 'centerface' reads heatmap"):
        bind_outputs(DECODERS["centerface"], outputs)


def test_there_is_exactly_one_picture_to_go_in() -> None:
    spec = DECODERS["yunet"]
    good = TensorSpec("input", "float32", ("N", 3, "H", "W"))
    assert check_input(spec, [good]) is good
    for bad in ([], [good, good], [TensorSpec("i", "uint8", (1, 3, 8, 8))], [TensorSpec("i", "float32", (1, 8, 8, 3))]):
        with pytest.raises(BadModelError, match=r"exactly one input"):
            check_input(spec, bad)


def test_the_size_of_an_engine() -> None:
    spec = DECODERS["centerface"]
    assert input_size(spec, None, 0, 0) == (640, 352)
    assert input_size(spec, None, 320, 0) == (320, 352)
    assert input_size(spec, (640, 640), 0, 0) == (640, 640)
    for fixed, width, match in ((None, 100, "multiple of 32"), (None, 8192, "4096"), ((640, 640), 320, "640x640 only")):
        with pytest.raises(InvalidInputError, match=match):
            input_size(spec, fixed, width, 0)


def test_an_unknown_decoder_names_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match="centerface, ultraface, yunet"):
        decoder_spec("yolo")
