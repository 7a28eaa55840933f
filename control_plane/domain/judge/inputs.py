"""What a record holds of an evaluation, as plain JSON, and back.

The layout has a version: a record that a later plane cannot read is refused by :func:`from_inputs`, not guessed at.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from control_plane.domain.cohort import Cohort
from control_plane.domain.judge.decision import NO_STATISTICS
from control_plane.domain.judge.figures import DeviceFigures, Figures, Measured
from control_plane.domain.strategy import JudgeKind, JudgePolicy

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Inputs:
    """All that went into a verdict.

    Attributes:
        policy: what is tolerated.
        figures: by device and by cohort.
        soaked: the soak was over.
        time: by the plane's clock.
        seed: of the draw.
    """

    policy: JudgePolicy
    figures: Figures
    soaked: bool
    time: datetime
    seed: int


def to_inputs(inputs: Inputs) -> dict[str, Any]:
    """Plain JSON: objects, lists, texts, numbers, booleans and null; times in ISO 8601, spans in seconds."""
    return {"version": VERSION, "rules": NO_STATISTICS, **_plain(inputs)}


def from_inputs(value: Mapping[str, Any]) -> Inputs:
    """What :func:`to_inputs` made JSON of.

    Raises:
        ValueError: it is of another version.
        KeyError: something is missing.
    """
    if value["version"] != VERSION:
        raise ValueError(f"the record's inputs are of version {value['version']}, and this plane reads {VERSION}")
    policy, figures = value["policy"], value["figures"]
    return Inputs(
        policy=JudgePolicy(
            **policy
            | {"kind": JudgeKind(policy["kind"])}
            | {name: timedelta(seconds=policy[name]) for name in ("silence_after", "patience")}
        ),
        figures=Figures(
            **figures
            | {"devices": tuple(_device(d) for d in figures["devices"])}
            | {name: Measured(**figures[name]) for name in ("canary", "control", "baseline")}
        ),
        soaked=value["soaked"],
        time=datetime.fromisoformat(value["time"]),
        seed=value["seed"],
    )


def _device(value: Mapping[str, Any]) -> DeviceFigures:
    return DeviceFigures(
        **{**value, "cohort": Cohort(value["cohort"])} | {name: Measured(**value[name]) for name in ("after", "before")}
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value
