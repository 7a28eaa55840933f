"""The commands make packages, say what a file is, and refuse with one line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.engines import loading
from edge_agent.masking.detections import iou_matrix
from edge_agent.masking.detector import detect
from maskfleet.decoding import decoder_spec
from maskfleet.ids import digest_file
from maskfleet.manifest import MANIFEST_TYPE, Envelope, Manifest


def run(*arguments: object, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "model_compiler", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )


def read(package: Path) -> Manifest:
    envelope = Envelope.from_bytes((package / "manifest.json").read_bytes())
    assert (envelope.payload_type, dict(envelope.signatures)) == (MANIFEST_TYPE, {})
    return Manifest.from_payload(envelope.payload)


@pytest.mark.parametrize("decoder", ["centerface", "yunet", "ultraface"])
def test_a_package_finds_the_faces_of_real_pictures(
    detector_path: Callable[[str], Path], testdata: Path, tmp_path: Path, decoder: str
) -> None:
    done = run("compile", detector_path(decoder), "--decoder", decoder, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    manifest = read(tmp_path / "out")
    entry = manifest.engine_for(["ort-cpu"])
    engine_path = tmp_path / "out" / "engines" / entry.digest.removeprefix("sha256:")
    assert digest_file(engine_path) == entry.digest
    spec = decoder_spec(decoder)
    truth = json.loads((testdata / "images" / "faces.json").read_text())
    with contextlib.closing(loading.load("ort-cpu", engine_path, decoder=spec, threads=1)) as engine:
        for name, boxes in truth.items():
            picture = cv2.imread(str(testdata / "images" / name))
            found = detect(engine, spec, np.asarray(picture, np.uint8), min_confidence=0.35, nms_iou=0.3)
            shares = iou_matrix(np.asarray(boxes, np.float32), np.asarray([one.box for one in found], np.float32))
            assert (shares.max(axis=1) > 0.5).all(), (name, shares)


def test_a_package_holds_its_policy_and_every_target(centerface_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    done = run(
        *("compile", centerface_path, "--decoder", "centerface", "--target", "ort-cpu", "--target", "rtx-ampere-plus"),
        *("--width", 320, "--height", 192, "--policy", '{"style": "pixelate", "min_confidence": 0.5}', "--progress"),
        *("-o", tmp_path / "out", "--report", tmp_path / "report.json"),
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["event"] for line in lines[:-1]} == {"progress"}
    assert lines[-1]["event"] == "done"
    manifest = read(tmp_path / "out")
    assert (manifest.release_id, manifest.counter, manifest.model_name) == ("local", 0, "centerface")
    assert (manifest.input_width, manifest.input_height) == (320, 192)
    assert manifest.policy.style.value == "pixelate"
    assert [(e.target, e.backend, e.verified_on) for e in manifest.engines] == [
        ("ort-cpu", "onnxruntime", "engine"),
        ("rtx-ampere-plus", "tensorrt-rtx", "prepared-onnx"),
    ]
    reports = json.loads((tmp_path / "report.json").read_text())
    assert [report["spec"]["min_confidence"] for report in reports] == [0.5, 0.5]
    assert {path.name for path in (tmp_path / "out" / "engines").iterdir()} == {
        entry.digest.removeprefix("sha256:") for entry in manifest.engines
    }


def test_a_package_is_replaced_whole(centerface_path: Path, tmp_path: Path) -> None:
    arguments = ("compile", centerface_path, "--decoder", "centerface", "-o", tmp_path / "out", "--width", 64)
    assert run(*arguments, "--height", 320, "--width", 320).returncode == 0
    assert run(*arguments, "--height", 192, "--width", 320).returncode == 0
    manifest = read(tmp_path / "out")
    assert manifest.input_height == 192
    assert len(list((tmp_path / "out" / "engines").iterdir())) == 1


def test_inspect_says_what_a_file_is(centerface_path: Path) -> None:
    done = run("inspect", centerface_path, "--decoder", "centerface")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["inputs"] == [{"name": "input.1", "dtype": "float32", "shape": [10, 3, 32, 32]}]
    assert [output["name"] for output in found["outputs"]] == ["537", "538", "539", "540"]
    assert (found["fixed_size"], found["default_size"], found["resizable"]) == (None, [640, 352], True)


def test_inspect_says_what_is_wrong_to_people_and_programs(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no model at all")
    done = run("inspect", path, "--decoder", "centerface")
    assert done.returncode == 2
    said = json.loads(done.stdout)["error"]
    assert said["kind"] == "BadModelError"
    assert said["remedy"]
    assert done.stderr == f"error: {said['message']}: {said['remedy']}\n"


def test_the_targets_print_themselves() -> None:
    assert "rtx-turing" in run("targets").stdout
    rows = json.loads(run("targets", "-o", "json").stdout)
    assert {row["name"]: row["buildable_here"] for row in rows}["ort-cpu"] is True


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "a file that is not there": (["compile", "none.onnx", "--decoder", "yunet", "-o", "out"], 2, "cannot be read"),
    "a folder for a file": (["compile", ".", "--decoder", "yunet", "-o", "out"], 2, "cannot be read"),
    "an unknown decoder": (["compile", "MODEL", "--decoder", "retina", "-o", "out"], 2, "no decoder 'retina'"),
    "an unknown target": (
        ["compile", "MODEL", "--decoder", "centerface", "--target", "tpu", "-o", "out"],
        2,
        "no target 'tpu'",
    ),
    "an unknown precision": (
        ["compile", "MODEL", "--decoder", "centerface", "--precision", "int4", "-o", "out"],
        2,
        "no precision 'int4'",
    ),
    "a policy that is no JSON": (
        ["compile", "MODEL", "--decoder", "centerface", "--policy", "{", "-o", "out"],
        2,
        "no JSON",
    ),
    "a policy out of range": (
        ["compile", "MODEL", "--decoder", "centerface", "--policy", '{"margin": 9}', "-o", "out"],
        2,
        "margin is 9",
    ),
    "a size off the stride": (
        ["compile", "MODEL", "--decoder", "centerface", "--width", "100", "--height", "100", "-o", "out"],
        2,
        "multiple of 32",
    ),
    "an output folder that holds something else": (
        ["compile", "MODEL", "--decoder", "centerface", "-o", "taken"],
        1,
        "holds no package",
    ),
    "an output that cannot be written": (
        ["compile", "MODEL", "--decoder", "centerface", "-o", "/proc/nowhere"],
        1,
        "cannot be written",
    ),
    "a registry that nobody named": (
        ["compile", "models:/face/1", "--decoder", "centerface", "-o", "out"],
        1,
        "MLFLOW_TRACKING_URI",
    ),
    "no command": ([], 2, "no such command"),
    "a command that is none": (["bild"], 2, "no such command"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_gets_one_line_and_leaves_no_package(
    centerface_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    done = run(*(str(centerface_path) if argument == "MODEL" else argument for argument in arguments))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.txt"]
