"""What is to be built, as a value, and the names under which results are kept.

Two keys, both SHA-256 over canonical JSON:

- :func:`cache_key` over what the engine is made of: prepared ONNX, target, precision, tools, gate. It names a result.
- :meth:`BuildSpec.recipe` over what goes in, before anything is computed: the source file's digest and everything that
  preparing does with it. It finds a cache key again without loading the model.

Engines differ from build to build even with equal inputs, so no key is ever made of an engine.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskfleet.decoding import decoder_spec
from maskfleet.errors import InvalidInputError
from maskfleet.gate import Margins
from maskfleet.ids import check_digest, check_versioned
from maskfleet.policy import MaskPolicy
from maskfleet.targets import target

AUTO = "auto"
"""The precision that is none: the fastest that passes."""


@dataclasses.dataclass(frozen=True)
class BuildSpec:
    """One model version for one target.

    Attributes:
        model_digest: of the source ONNX file.
        decoder: name of the decoder.
        target: name of the target.
        precision: ``fp32``, ``fp16``, ``int8``, or ``auto``: the fastest of them that passes the gate.
        width: of the input, in pixels; 0 for the default.
        height: of the input, in pixels; 0 for the default.
        min_confidence: at which detections are compared: the policy's own.
        nms_iou: likewise.
        margins: of the gate.
        calibration: set from which ranges for eight bits are learnt, as ``street/2``; empty for the compiler's own.
        workspace_mb: scratch memory that TensorRT may plan with, in MiB; 0 for all that there is.

    Raises:
        UnknownTargetError: there is no such target.
        InvalidInputError: another field is wrong.
    """

    model_digest: str
    decoder: str
    target: str
    precision: str = "fp32"
    width: int = 0
    height: int = 0
    min_confidence: float = MaskPolicy.min_confidence
    nms_iou: float = MaskPolicy.nms_iou
    margins: Margins = Margins()
    calibration: str = ""
    workspace_mb: int = 0

    def __post_init__(self) -> None:
        check_digest(self.model_digest)
        decoder_spec(self.decoder)
        if self.calibration:
            check_versioned("calibration set", self.calibration)
        if self.workspace_mb < 0:
            raise InvalidInputError(f"the workspace has {self.workspace_mb} MiB", remedy="give 0 for all that there is")
        if self.precision not in (*target(self.target).precisions, AUTO):
            raise InvalidInputError(
                f"target {self.target} has no precision {self.precision!r}",
                remedy=f"use one of {', '.join((*target(self.target).precisions, AUTO))}",
            )
        if self.width < 0 or self.height < 0:
            raise InvalidInputError(
                f"input size {self.width}x{self.height} is negative", remedy="give pixels, or 0 for the default"
            )
        MaskPolicy(min_confidence=self.min_confidence, nms_iou=self.nms_iou)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BuildSpec:
        """The spec that :meth:`to_json` wrote."""
        return cls(**{**values, "margins": Margins(**values["margins"])})

    def recipe(self, versions: Mapping[str, str], pictures_digest: str) -> str:
        """The key of what goes in.

        Args:
            versions: tools with their versions.
            pictures_digest: of the pictures that the gate looks at, and of those that ranges are learnt from.
        """
        return _key({"spec": self.to_json(), **_surroundings(versions, pictures_digest)})


def cache_key(spec: BuildSpec, prepared_digest: str, versions: Mapping[str, str], pictures_digest: str) -> str:
    """The key of a result.

    Args:
        spec: what is built; the source file and the size count only through the prepared model.
        prepared_digest: of the prepared ONNX file.
        versions: tools with their versions.
        pictures_digest: of the pictures that the gate looks at, and of those that ranges are learnt from.
    """
    config = {k: v for k, v in spec.to_json().items() if k not in _PREPARED}
    return _key({"prepared": prepared_digest, "config": config, **_surroundings(versions, pictures_digest)})


def _surroundings(versions: Mapping[str, str], pictures_digest: str) -> dict[str, Any]:
    return {"versions": dict(versions), "compiler": compiler_revision(), "pictures": pictures_digest}


_PREPARED = ("model_digest", "width", "height", "calibration")
"""What counts through the prepared model and the pictures alone: the same set under another name is the same set."""


@functools.cache
def compiler_revision() -> str:
    """Digest of the compiler's own sources: a changed compiler never serves what an older one built."""
    state = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        state.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()[:16]


def _key(values: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
