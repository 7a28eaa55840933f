"""Models from PyTorch: an exported program (``.pt2``) becomes an ONNX file. The only module that imports torch.

A model that was saved by ``torch.save`` is a pickle, and reading a pickle runs whatever its maker wrote into it: those
are refused, unread. An exported program is a graph as JSON with its weights as bytes; where such an archive holds
pickles of its own (custom objects, weights of unusual kinds) it is refused too, and torch is told to read weights only.

Example::

    if is_torch(path):
        path = exported(path, folder / "model.onnx")
"""

from __future__ import annotations

import contextlib
import os
import sys
import zipfile
from pathlib import Path

from maskfleet.errors import BadModelError, FleetError, UnsupportedError

OPSET = 17
_PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_HOW = (
    "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2'), "
    "or mlflow.pytorch.log_model(…, serialization_format='pt2')"
)
_OBJECTS = ("custom_obj_", "opaque_obj_")
_MAX_CONFIG = 64 << 20


def is_torch(path: Path) -> bool:
    """Whether a file is PyTorch's, in whatever form; ONNX files are neither archives nor pickles."""
    try:
        with path.open("rb") as file:
            return file.read(2) in _PICKLED or zipfile.is_zipfile(path)
    except OSError:
        return False


def exported(path: Path, output: Path) -> Path:
    """An exported program as an ONNX file. Run it in a process of its own: it takes seconds and a gigabyte.

    Args:
        path: a ``.pt2`` archive.
        output: where the ONNX file goes.

    Returns:
        ``output``.

    Raises:
        BadModelError: it is a pickle, holds pickles, or cannot be exported.
        UnsupportedError: torch is not installed here.
    """
    _check(path)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # read by torch whenever it loads
    try:
        import torch
        import torch.onnx
    except ImportError:
        raise UnsupportedError(
            "the file is a PyTorch model, and torch is not installed here",
            remedy="install maskfleet[torch] on this machine, or export the model to ONNX where it was trained",
        ) from None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            program = torch.export.load(str(path))
            made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, external_data=False, optimize=True)
            assert made is not None  # noqa: S101  # it returns None for the old exporter only
            made.save(str(output), external_data=False)
    except FleetError:
        raise
    except Exception as error:  # noqa: BLE001  # the exporter raises anything
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise BadModelError(
            f"the model cannot be exported to ONNX ({type(error).__name__}: {(lines or [''])[0][:300]})",
            remedy="export it to ONNX where it was trained, and add that file",
        ) from None
    return output


def _check(path: Path) -> None:
    """Whether it is an archive of an exported program without pickles, from its table of contents alone."""
    pickled = "the file is a pickled PyTorch model; pickles can hold any program and are not opened here"
    if not zipfile.is_zipfile(path):
        raise BadModelError(pickled, remedy=f"save it as {_HOW}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("models/model.json") for name in names):
                raise BadModelError(pickled, remedy=f"save it as {_HOW}")
            objects = [name for name in names if name.rpartition("/")[2].startswith(_OBJECTS)]
            for name in names:
                if name.endswith("_config.json") and archive.getinfo(name).file_size <= _MAX_CONFIG:
                    text = archive.read(name).replace(b" ", b"")
                    objects += [name] if b'"use_pickle":true' in text else []
    except (zipfile.BadZipFile, OSError) as error:
        raise BadModelError(f"the file is a damaged archive ({error})", remedy="copy it again") from None
    if objects:
        raise BadModelError(
            f"the file holds pickled objects ({objects[0]}), which are not opened here",
            remedy="export a model of plain tensors, or export it to ONNX where it was trained",
        )
