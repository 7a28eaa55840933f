"""Pictures become inputs: letterboxed to the top left, channels and values as the decoder wants them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.masking.preprocess import Preprocessor
from maskfleet.decoding import Preprocessing, decoder_spec

PLAIN = decoder_spec("centerface").preprocessing
SCALED = decoder_spec("ultraface").preprocessing


@pytest.mark.parametrize(
    ("size", "scale", "filled"),
    [
        ((320, 176), 2.0, (640, 352)),
        ((1280, 720), 352 / 720, (626, 352)),
        ((100, 400), 0.88, (88, 352)),
        ((640, 352), 1.0, (640, 352)),
    ],
    ids=["smaller and of the same shape", "larger and higher", "upright", "exactly the input"],
)
def test_a_picture_keeps_its_shape_and_its_top_left_corner(
    size: tuple[int, int], scale: float, filled: tuple[int, int]
) -> None:
    frame = np.full((size[1], size[0], 3), 200, np.uint8)
    blob, got = Preprocessor(PLAIN, 640, 352)(frame)
    assert blob.shape == (1, 3, 352, 640)
    assert blob.dtype == np.float32
    assert blob.flags.c_contiguous
    assert got == pytest.approx(scale)
    assert (blob[0, :, : filled[1], : filled[0]] == 200).all()
    assert (blob[0, :, filled[1] :] == 0).all()
    assert (blob[0, :, :, filled[0] :] == 0).all()


def test_channels_and_values_follow_the_decoder() -> None:
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:] = (10, 127, 255)
    plain, _ = Preprocessor(PLAIN, 32, 32)(frame)
    assert plain[0, :, 0, 0].tolist() == [10, 127, 255]
    scaled, _ = Preprocessor(SCALED, 32, 32)(frame)
    assert scaled[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, -117 / 128])


def test_padding_is_zero_before_normalisation() -> None:
    blob, _ = Preprocessor(Preprocessing(rgb=False, mean=127.0, scale=1.0), 64, 32)(np.full((32, 32, 3), 127, np.uint8))
    assert (blob[0, :, :, :32] == 0).all()
    assert (blob[0, :, :, 32:] == -127).all()


def test_a_picture_of_another_shape_finds_no_trace_of_the_last_one() -> None:
    preprocessor = Preprocessor(PLAIN, 64, 64)
    preprocessor(np.full((64, 64, 3), 255, np.uint8))
    blob, _ = preprocessor(np.full((16, 64, 3), 7, np.uint8))
    assert (blob[0, :, :16] == 7).all()
    assert (blob[0, :, 16:] == 0).all()
