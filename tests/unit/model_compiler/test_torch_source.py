"""Models from PyTorch: exported programs become ONNX, pickles are refused unread."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from maskfleet.decoding import decoder_spec
from maskfleet.errors import BadModelError
from model_compiler.prepare import prepare
from model_compiler.torch_source import exported, is_torch


class Bomb:
    """What a pickle may be: reading it runs a program."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def archive(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, data in files.items():
            made.writestr(f"model/{name.replace('__', '/')}", data)
    return path


def test_a_pickle_is_refused_and_not_opened(tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    plain = tmp_path / "model.pth"
    plain.write_bytes(pickle.dumps(Bomb(fired)))
    saved = archive(tmp_path / "model.pt", **{"data.pkl": pickle.dumps(Bomb(fired))})
    for path in (plain, saved):
        assert is_torch(path)
        with pytest.raises(BadModelError, match="pickled PyTorch model") as raised:
            exported(path, tmp_path / "out.onnx")
        assert "torch.export.save" in raised.value.remedy
    assert not fired.exists()
    assert not (tmp_path / "out.onnx").exists()


def test_an_exported_program_with_pickles_in_it_is_refused(tmp_path: Path) -> None:
    weights = {"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}
    for name, files in {
        "weights": {
            "models__model.json": b"{}",
            "data__weights__model_weights_config.json": json.dumps(weights).encode(),
        },
        "objects": {"models__model.json": b"{}", "data__constants__opaque_obj_0": b"x"},
    }.items():
        with pytest.raises(BadModelError, match="holds pickled objects"):
            exported(archive(tmp_path / f"{name}.pt2", **files), tmp_path / "out.onnx")


def test_an_onnx_file_is_not_taken_for_one_of_pytorchs(tmp_path: Path, centerface_path: Path) -> None:
    assert not is_torch(centerface_path)
    assert not is_torch(tmp_path / "missing")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of flat heads, exported."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Detector(torch.nn.Module):  # type: ignore[misc,name-defined]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            body = [torch.nn.Conv2d(3, 8, 3, stride=8, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
            self.body = torch.nn.Sequential(*body)
            self.scores, self.boxes = torch.nn.Conv2d(8, 2, 1), torch.nn.Conv2d(8, 4, 1)

        def forward(self, x: Any) -> Any:
            y = self.body(x)
            scores = self.scores(y).flatten(2).transpose(1, 2).softmax(-1)
            return scores, self.boxes(y).flatten(2).transpose(1, 2)

    path = tmp_path_factory.mktemp("torch") / "detector.pt2"
    torch.export.save(torch.export.export(Detector().eval(), (torch.zeros(1, 3, 240, 320),)), str(path))
    return path


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_becomes_a_model_that_can_be_prepared(program: Path, tmp_path: Path) -> None:
    made = exported(program, tmp_path / "model.onnx")
    prepared = prepare(made.read_bytes(), decoder_spec("ultraface"))
    assert (prepared.width, prepared.height) == (320, 240)
    assert [output.name for output in prepared.outputs] == ["scores", "boxes"]


def test_the_check_of_a_model_takes_an_exported_program(program: Path, tmp_path: Path) -> None:
    onnx = tmp_path / "model.onnx"
    command = [sys.executable, "-m", "model_compiler", "inspect", str(program), "--decoder", "ultraface"]
    done = subprocess.run([*command, "--onnx", str(onnx)], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["exported"]
    assert said["fixed_size"] == [320, 240]
    assert onnx.stat().st_size > 1000
