"""What is taken as a picture, and what is refused before memory is spent on it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.masking.frames import Encoding, SourceFrame, decode, encode, size_of
from edge_agent.masking.preprocess import Picture
from edge_agent.masking.styles import full_mask, mask
from maskfleet.errors import BadFrameError, InternalError
from maskfleet.policy import MaskPolicy


def picture(width: int = 48, height: int = 32) -> Picture:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 5 % 256, y * 7 % 256, (x + y) * 3 % 256], axis=2).astype(np.uint8)


def jpeg(frame: Picture | None = None, *options: int) -> bytes:
    return bytes(cv2.imencode(".jpg", picture() if frame is None else frame, list(options))[1].tobytes())


def png(frame: Picture | None = None) -> bytes:
    return bytes(cv2.imencode(".png", picture() if frame is None else frame)[1].tobytes())


def with_orientation(data: bytes, orientation: int) -> bytes:
    """A JPEG that says how it is to be turned."""
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + b"\x00" * 4
    body = b"Exif\x00\x00" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def resized_png(width: int, height: int) -> bytes:
    data = bytearray(png())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_raw_bytes_are_read_as_they_are() -> None:
    frame = picture()
    source = SourceFrame(Encoding.RAW, frame.tobytes(), 48, 32)
    assert size_of(source) == (48, 32)
    assert (decode(source) == frame).all()


def test_a_png_comes_through_unchanged_and_a_jpeg_nearly() -> None:
    frame = picture()
    assert (decode(SourceFrame(Encoding.PNG, png(frame))) == frame).all()
    smooth = cv2.GaussianBlur(frame, (9, 9), 4).astype(np.uint8)
    decoded = decode(SourceFrame(Encoding.JPEG, jpeg(smooth, cv2.IMWRITE_JPEG_QUALITY, 98)))
    assert np.abs(decoded.astype(int) - smooth).mean() < 6


GREY_AND_ALPHA: dict[str, bytes] = {
    "a grey JPEG": jpeg(np.full((20, 30), 90, np.uint8)),
    "a grey PNG": png(np.full((20, 30), 90, np.uint8)),
    "a PNG with alpha": png(np.full((20, 30, 4), 90, np.uint8)),
    "a PNG of 16 bits": png(np.full((20, 30, 3), 90 * 257, np.uint16)),
}


@pytest.mark.parametrize("data", GREY_AND_ALPHA.values(), ids=GREY_AND_ALPHA.keys())
def test_every_kind_of_picture_becomes_three_channels_of_eight_bits(data: bytes) -> None:
    decoded = decode(SourceFrame(Encoding.PNG if data.startswith(b"\x89") else Encoding.JPEG, data))
    assert decoded.shape == (20, 30, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - 90).max() <= 1


def test_a_progressive_jpeg_and_one_with_a_preview_after_its_end_are_taken() -> None:
    progressive = jpeg(None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert decode(SourceFrame(Encoding.JPEG, progressive)).shape == (32, 48, 3)
    assert decode(SourceFrame(Encoding.JPEG, jpeg() + b"\x00" * 9 + jpeg())).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("orientation", "shape"), [(1, (32, 48, 3)), (3, (32, 48, 3)), (6, (48, 32, 3)), (8, (48, 32, 3))]
)
def test_a_picture_that_says_how_it_is_to_be_turned_is_turned(orientation: int, shape: tuple[int, ...]) -> None:
    assert decode(SourceFrame(Encoding.JPEG, with_orientation(jpeg(), orientation))).shape == shape


def test_results_carry_no_metadata_of_the_source() -> None:
    source = with_orientation(jpeg(), 6)
    masked = mask(decode(SourceFrame(Encoding.JPEG, source)), [], MaskPolicy())
    assert b"Exif" in source
    assert b"Exif" not in encode(masked, Encoding.JPEG)


REFUSED: dict[str, tuple[Callable[[], SourceFrame], str]] = {
    "no bytes": (lambda: SourceFrame(Encoding.JPEG, b""), "no JPEG"),
    "a text": (lambda: SourceFrame(Encoding.JPEG, b"hello" * 40), "no JPEG"),
    "a PNG that is called JPEG": (lambda: SourceFrame(Encoding.JPEG, png()), "no JPEG"),
    "a JPEG that is called PNG": (lambda: SourceFrame(Encoding.PNG, jpeg()), "no PNG"),
    "a JPEG that ends too early": (lambda: SourceFrame(Encoding.JPEG, jpeg()[:-20]), "too early"),
    "a JPEG without a picture": (lambda: SourceFrame(Encoding.JPEG, b"\xff\xd8\xff\xd9"), "too early"),
    "a JPEG whose preview ends and whose picture does not": (
        lambda: SourceFrame(Encoding.JPEG, jpeg()[:2] + b"\xff\xe1\x00\x06\xff\xd8\xff\xd9" + jpeg()[2:-20]),
        "too early",
    ),
    "a PNG that ends too early": (lambda: SourceFrame(Encoding.PNG, png()[:-30]), "too early"),
    "a JPEG that says 0x0": (lambda: SourceFrame(Encoding.JPEG, resized_jpeg(0, 0)), "no pixels"),
    "a JPEG that says 20000x20000": (lambda: SourceFrame(Encoding.JPEG, resized_jpeg(20_000, 20_000)), "too large"),
    "a JPEG of too many pixels": (lambda: SourceFrame(Encoding.JPEG, resized_jpeg(9_000, 9_000)), "too large"),
    "a PNG that says 20000x20000": (lambda: SourceFrame(Encoding.PNG, resized_png(20_000, 20_000)), "too large"),
    "a PNG that says 0x0": (lambda: SourceFrame(Encoding.PNG, resized_png(0, 0)), "no pixels"),
    "raw bytes, one too few": (lambda: SourceFrame(Encoding.RAW, bytes(47), 4, 4), "48 are due"),
    "raw bytes, one too many": (lambda: SourceFrame(Encoding.RAW, bytes(49), 4, 4), "48 are due"),
    "raw bytes of 0x0": (lambda: SourceFrame(Encoding.RAW, b"", 0, 0), "no pixels"),
    "raw bytes of 20000x20000": (lambda: SourceFrame(Encoding.RAW, b"", 20_000, 20_000), "too large"),
}


@pytest.mark.parametrize(("source", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_pictures_are_refused_with_a_sentence(source: Callable[[], SourceFrame], says: str) -> None:
    with pytest.raises(BadFrameError, match=says) as caught:
        decode(source())
    assert caught.value.remedy


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([jpeg(), png(), jpeg(None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)]), st.data())
def test_damaged_files_give_a_picture_of_the_size_they_say_or_a_bad_frame(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    source = SourceFrame(Encoding.PNG if data.startswith(b"\x89") else Encoding.JPEG, bytes(damaged))
    try:
        decoded = decode(source)
    except BadFrameError:
        return
    assert decoded.shape[:2] in (size_of(source), size_of(source)[::-1])


@pytest.mark.parametrize("encoding", Encoding)
def test_masked_frames_come_out_in_every_encoding(encoding: Encoding) -> None:
    masked = full_mask(48, 32)
    data = encode(masked, encoding)
    back = decode(SourceFrame(encoding, data, 48, 32))
    assert back.shape == (32, 48, 3)
    assert np.abs(back.astype(int) - masked.pixels).max() <= 1


def test_nothing_but_a_masked_frame_can_be_encoded() -> None:
    with pytest.raises(InternalError, match="no masked frame"):
        encode(picture(), Encoding.RAW)  # type: ignore[arg-type]  # that is the point


def test_a_jpeg_that_is_damaged_in_the_middle_is_refused_though_opencv_shows_it() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (240, 320, 3), np.uint8)
    good = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (9, 9), 3))[1].tobytes()
    middle = len(good) // 2
    bad = good[:middle] + bytes((b * 7 + 13) % 255 for b in good[middle : middle + 2000]) + good[middle + 2000 :]
    assert decode(SourceFrame(Encoding.JPEG, good)).shape == (240, 320, 3)
    assert cv2.imdecode(np.frombuffer(bad, np.uint8), cv2.IMREAD_COLOR) is not None
    with pytest.raises(BadFrameError, match="damaged"):
        decode(SourceFrame(Encoding.JPEG, bad))


def test_a_header_that_libjpeg_reads_another_way_is_refused_before_memory_is_spent() -> None:
    small = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    start = small.index(b"\xff\xc0")
    large = small[start : start + 5] + (20_000).to_bytes(2, "big") * 2 + small[start + 9 : start + 19]
    # A marker without a length, then a large header that only whoever gives it a length passes over.
    for marker in (b"\xff\x01", b"\xff\xd0"):
        hostile = small[:2] + marker + large + small[2:]
        with pytest.raises(BadFrameError):
            decode(SourceFrame(Encoding.JPEG, hostile))
        with pytest.raises(BadFrameError):
            size_of(SourceFrame(Encoding.JPEG, hostile))
