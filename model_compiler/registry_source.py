"""Models from an MLflow registry, by ``models:/name/version``. The only module of the compiler that imports mlflow.

MLflow logs ONNX models with their weights in files beside them; what comes out of here is one file.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from maskfleet.errors import BadModelError, FleetError, NotFoundError, UnavailableError, UnsupportedError

SCHEME = "models:/"
_TORCH = ("*.pt2", "*.pth")
"""How MLflow names what PyTorch exported, and what it pickled."""


def fetched(uri: str, tracking_uri: str, folder: Path) -> Path:
    """The ONNX file of a model version, whole, in a folder; or the file of a PyTorch model, as it is.

    Args:
        uri: ``models:/name/version``.
        tracking_uri: of the MLflow server or store.
        folder: where the file goes.

    Raises:
        NotFoundError: there is no such version.
        BadModelError: it holds no ONNX file and no PyTorch model, or several.
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
    programs = [] if root.is_file() else [path for kind in _TORCH for path in sorted(root.rglob(kind))]
    if not found and programs:
        # Which of them can be read is torch_source's to say.
        kept = folder / f"{name.replace('/', '-')}{programs[0].suffix}"
        shutil.copyfile(programs[0], kept)
        return kept
    if len(found) != 1:
        raise BadModelError(
            f"model version {name} holds {len(found) or 'no'} ONNX files",
            remedy="log it with mlflow.onnx.log_model, or with mlflow.pytorch.log_model as pt2",
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
