"""Models from an MLflow registry, by ``models:/name/version``. The only module of the compiler that imports mlflow.

MLflow logs ONNX models with their weights in files beside them; what comes out of here is one file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from maskfleet.errors import BadModelError, FleetError, NotFoundError, UnavailableError, UnsupportedError

SCHEME = "models:/"


def fetched(uri: str, tracking_uri: str, folder: Path) -> Path:
    """The ONNX file of a model version, whole, in a folder.

    Args:
        uri: ``models:/name/version``.
        tracking_uri: of the MLflow server or store.
        folder: where the file goes.

    Raises:
        NotFoundError: there is no such version.
        BadModelError: it holds no ONNX file, or several.
        UnavailableError: the registry cannot be reached.
        UnsupportedError: mlflow is not installed.
    """
    name = uri.removeprefix(SCHEME)
    if not tracking_uri:
        raise NotFoundError(f"{uri} is in a registry that nobody named", remedy="set MLFLOW_TRACKING_URI")
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise UnsupportedError("mlflow is not installed here", remedy="install the compiler extra") from None
    mlflow.set_tracking_uri(tracking_uri)
    with tempfile.TemporaryDirectory(prefix="maskfleet-", dir=folder) as loose:
        try:
            root = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=loose))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise NotFoundError(
                    f"the registry has no model version {name}", remedy="see the registry for names and versions"
                ) from None
            raise UnavailableError(
                f"the registry gave no {name} ({error.message.splitlines()[0][:200]})", remedy="check its address"
            ) from None
        except OSError as error:
            raise UnavailableError(f"the registry gave no {name} ({error})", remedy="check its address") from None
        return _whole(root, name, folder)


def _whole(root: Path, name: str, folder: Path) -> Path:
    found = [root] if root.is_file() else sorted(root.rglob("*.onnx"))
    if len(found) != 1:
        raise BadModelError(
            f"model version {name} holds {len(found) or 'no'} ONNX files", remedy="log it with mlflow.onnx.log_model"
        )
    import onnx

    whole = folder / f"{name.replace('/', '-')}.onnx"
    try:
        whole.write_bytes(onnx.load(found[0]).SerializeToString())
    except FleetError:
        raise
    except Exception as error:  # noqa: BLE001  # missing weights, bad protobuf: onnx raises anything
        raise BadModelError(f"model version {name} cannot be read ({error})", remedy="log it again") from None
    return whole
