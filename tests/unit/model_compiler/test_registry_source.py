"""A model version of a real MLflow registry compiles by its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_LOG = """
import sys, onnx, mlflow, mlflow.onnx
store, artifacts, path = sys.argv[1:]
mlflow.set_tracking_uri(store)
mlflow.set_experiment(experiment_id=mlflow.create_experiment("faces", artifact_location=artifacts))
with mlflow.start_run():
    # MLflow writes the weights of an ONNX model into a file beside it.
    mlflow.onnx.log_model(onnx.load(path), name="model", registered_model_name="centerface")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)  # MLflow starts three times, which a busy machine makes slow
def test_a_model_version_compiles_by_its_name(centerface_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environ = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    logged = subprocess.run(
        [sys.executable, "-c", _LOG, store, (tmp_path / "artifacts").as_uri(), str(centerface_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    assert logged.returncode == 0, logged.stderr
    assert list((tmp_path / "artifacts").rglob("*.data")), "the weights should lie beside the model"

    def compiled(version: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(sys.executable, "-m", "model_compiler", "compile", f"models:/{version}"),
                *("--decoder", "centerface", "-o", str(tmp_path / "out")),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=environ,
        )

    missing = compiled("centerface/7")
    assert missing.returncode == 1
    assert missing.stderr.splitlines()[-1].startswith("error: the registry has no model version centerface/7")

    done = compiled("centerface/1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engines"][0]["target"] == "ort-cpu"
