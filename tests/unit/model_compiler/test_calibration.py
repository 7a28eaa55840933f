"""Calibration sets: what a folder must hold to be one, and what its digest follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskfleet.errors import InvalidInputError, NotFoundError
from model_compiler import calibration
from model_compiler.calibration import OWN, CalibrationSet, named, sets_in


def picture(path: Path, *, shape: tuple[int, ...] = (48, 64, 3), dtype: str = "uint8", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)
    assert cv2.imwrite(str(path), values)
    return path


@pytest.fixture
def street(tmp_path: Path) -> CalibrationSet:
    for i in range(3):
        picture(tmp_path / "street/2" / f"{i}.png", seed=i, shape=(48 + i, 64, 3))
    return named("street/2", tmp_path)


def test_a_folder_of_pictures_is_a_set(street: CalibrationSet) -> None:
    frames = street.frames()
    assert [frame.name for frame in frames] == ["0.png", "1.png", "2.png"]
    assert [frame.image.shape for frame in frames] == [(48, 64, 3), (49, 64, 3), (50, 64, 3)]
    assert street.to_json() == {"name": "street/2", "digest": street.digest(), "frames": 3}
    assert street.digest() != OWN.digest()


def test_the_digest_follows_every_picture_and_nothing_else(street: CalibrationSet, tmp_path: Path) -> None:
    before = street.digest()
    for i in range(3):
        picture(tmp_path / "elsewhere/1" / f"{i}.png", seed=i, shape=(48 + i, 64, 3))
    assert named("elsewhere/1", tmp_path).digest() == before
    picture(tmp_path / "street/2/1.png", seed=99)
    changed = street.digest()
    picture(tmp_path / "street/2/3.png", seed=3)
    assert len({before, changed, street.digest()}) == 3


def test_no_name_is_the_compilers_own_set(tmp_path: Path) -> None:
    assert named("", None) is OWN
    assert named("", tmp_path) is OWN


def _text(folder: Path) -> None:
    (folder / "notes.txt").write_text("frames of june")


def _damaged(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff no more")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing in it": (lambda folder: None, "is empty"),
    "a file that is no picture": (_text, r"holds notes\.txt, which is no picture"),
    "raw tensors": (lambda folder: np.save(folder / "batch.npy", np.zeros((1, 3, 4, 4))), "which is no picture"),
    "a damaged picture": (_damaged, r"a\.jpg of calibration set street/1 cannot be read"),
    "a grey picture": (lambda folder: picture(folder / "a.png", shape=(48, 64)), "is uint8 48×64, not 8-bit height"),
    "a picture with transparency": (lambda folder: picture(folder / "a.png", shape=(48, 64, 4)), "48×64×4"),
    "a picture of 16 bits": (lambda folder: picture(folder / "a.png", dtype="uint16"), "is uint16"),
}


@pytest.mark.parametrize(("fill", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_set_is_refused_whole(fill: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "street/1"
    folder.mkdir(parents=True)
    fill(folder)
    with pytest.raises(InvalidInputError, match=message) as raised:
        named("street/1", tmp_path).frames()
    assert raised.value.remedy


def test_too_many_pictures_are_refused(monkeypatch: pytest.MonkeyPatch, street: CalibrationSet) -> None:
    monkeypatch.setattr(calibration, "MAX_PICTURES", 2)
    with pytest.raises(InvalidInputError, match="3 pictures, more than 2"):
        street.digest()


@pytest.mark.parametrize("name", ["street", "street/", "../2", "street/../../etc", "/etc/1", "street/2/3"])
def test_a_name_that_leaves_the_folder_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        named(name, tmp_path)


def test_a_set_that_is_not_there_says_how_to_give_it(tmp_path: Path) -> None:
    for root in (None, tmp_path):
        with pytest.raises(NotFoundError, match="no calibration set street/9") as raised:
            named("street/9", root)
        assert "--calibration-dir" in raised.value.remedy


def test_a_builder_offers_the_sets_that_can_be_used(street: CalibrationSet, tmp_path: Path) -> None:
    (tmp_path / "broken/1").mkdir(parents=True)
    (tmp_path / "loose.png").write_bytes(b"")
    assert sets_in(tmp_path) == {"street/2": street.digest()}
    assert sets_in(None) == {}
