"""MLflow, in a process of its own: importing it costs seconds, and what it does blocks.

Reads one JSON object a line on stdin (``{"op": "register", …}``), answers with one a line on stdout
(``{"ok": …}`` or ``{"error": {"message", "remedy"}}``), and ends with its stdin. Started by
:mod:`control_plane.registry`; what MLflow itself prints goes to stderr.

    python -m control_plane.registry_worker --uri sqlite:////data/mlflow.db --artifacts /data/mlflow
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPERIMENT = "maskfleet-models"
REQUEST_TAG = "maskfleet.request_id"


class Registrar:
    """An MLflow registry, connected.

    Args:
        uri: of tracking and registry.
        artifacts: where the embedded registry keeps files; empty where a server does.
    """

    def __init__(self, uri: str, artifacts: str) -> None:
        import mlflow
        import mlflow.onnx

        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self._client = mlflow.MlflowClient(uri, uri)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        location = Path(artifacts).as_uri() if artifacts else None
        self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, location)

    def register(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Registers an ONNX file as the next version of a name; the same request id gives the same version."""
        import mlflow
        import onnx

        name, request_id = str(asked["name"]), str(asked["request_id"])
        if (done := self._registered(name, request_id)) is not None:
            return {"version": done, "uri": f"models:/{name}/{done}"}
        with mlflow.start_run(experiment_id=self._experiment, run_name=f"{name} {request_id}"):
            info = mlflow.onnx.log_model(
                onnx.load(str(asked["path"])),
                name="model",
                signature=_signature(asked),
                registered_model_name=name,
                pip_requirements=["onnxruntime"],
                save_as_external_data=False,
                metadata=dict(asked["tags"]),
            )
        version = str(info.registered_model_version)
        # The request id last: a version that has it is complete.
        for key, value in {**asked["tags"], REQUEST_TAG: request_id}.items():
            self._client.set_model_version_tag(name, version, key, str(value))
        if asked.get("description"):
            self._client.update_model_version(name, version, description=str(asked["description"]))
        return {"version": int(version), "uri": f"models:/{name}/{version}"}

    def log(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a file and then a tag for a version; the same again changes nothing."""
        name, version = str(asked["name"]), str(asked["version"])
        found = self._client.get_model_version(name, version)
        if found.run_id:  # a version that somebody else registered may have none, and no place for files
            self._client.log_text(found.run_id, str(asked["text"]), str(asked["file"]))
        self._client.set_model_version_tag(name, version, str(asked["tag"]), str(asked["line"]))
        return {}

    def _registered(self, name: str, request_id: str) -> int | None:
        for version in self._client.search_model_versions(f"name = '{name}'"):
            if self._client.get_model_version(name, version.version).tags.get(REQUEST_TAG) == request_id:
                return int(version.version)
        return None


def _signature(asked: Mapping[str, Any]) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: list[Mapping[str, Any]]) -> Any:
        return Schema(
            [
                TensorSpec(
                    np.dtype(t["dtype"]), tuple(int(d) if str(d).isdigit() else -1 for d in t["shape"]), t["name"]
                )
                for t in tensors
            ]
        )

    return ModelSignature(inputs=schema(asked["inputs"]), outputs=schema(asked["outputs"]))


def answer(registrar: Registrar, line: str) -> dict[str, Any]:
    """The answer to one line."""
    asked = json.loads(line)
    try:
        if asked["op"] == "register":
            return {"ok": registrar.register(asked)}
        if asked["op"] == "log":
            return {"ok": registrar.log(asked)}
        return {"error": {"message": f"the registry knows no {asked['op']!r}", "remedy": "report this"}}
    except Exception as error:  # noqa: BLE001  # the edge of the process: whatever MLflow raises is told
        text = " ".join(str(error).split())[:500]
        return {"error": {"message": f"MLflow said {type(error).__name__}: {text}", "remedy": "check the registry"}}


def main() -> None:
    """Serves until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m control_plane.registry_worker")
    parser.add_argument("--uri", required=True)
    parser.add_argument("--artifacts", default="")
    given = parser.parse_args()
    # Answers go to the stdout that we were given; whatever else is printed goes to stderr.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    registrar = Registrar(given.uri, given.artifacts)
    print(json.dumps({"ok": {}}), file=out, flush=True)  # ready
    for line in sys.stdin:
        print(json.dumps(answer(registrar, line)), file=out, flush=True)


if __name__ == "__main__":
    main()
