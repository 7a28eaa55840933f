"""Domain values to plain JSON and back, by their type hints; and what the store knows of each kind.

A record is a frozen dataclass. Its key, the columns that it is found by and the value that it is ordered by are in
:data:`KINDS`, which memory and SQL both read: there is no second list of them.

>>> from_json(Rollout, to_json(rollout)) == rollout
True
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from control_plane.domain.device import Assignment, Device, JoinToken
from control_plane.domain.event import Event
from control_plane.domain.health import StoredWindow, WindowMark
from control_plane.domain.judge.decision import DecisionRecord
from control_plane.domain.release import Build, EngineProof, Model, Release, ReleaseState
from control_plane.domain.rollout import Member, Rollout

R = TypeVar("R")
BUILDS_TOPIC = "builds"
EVENTS_TOPIC = "events"


@dataclasses.dataclass(frozen=True)
class Request:
    """A create that was done: the same request id gives the same answer.

    Attributes:
        id: as the caller chose it.
        call: what was asked for, with a digest of it.
        result: key of what came of it.
        made: when.
    """

    id: str
    call: str
    result: str
    made: datetime


@dataclasses.dataclass(frozen=True)
class Number:
    """A counter that never goes back."""

    name: str
    value: int


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the store knows of a kind of record.

    Attributes:
        table: its name.
        key: names a record.
        order: sorts its kind and is unique: a text or a number.
        columns: what it can be found by: texts, numbers and None.
        topics: who follows these hears of it once it is written (:mod:`control_plane.changes`), in every process.
    """

    table: str
    key: Callable[[Any], str]
    order: Callable[[Any], str | int]
    columns: Mapping[str, Callable[[Any], str | int | None]] = dataclasses.field(default_factory=dict)
    topics: Callable[[Any], tuple[str, ...]] = lambda _record: ()


KINDS: dict[type, Kind] = {
    Number: Kind("numbers", lambda r: r.name, lambda r: r.name),
    Request: Kind("requests", lambda r: r.id, lambda r: r.id),
    JoinToken: Kind("join_tokens", lambda r: r.digest, lambda r: r.digest),
    Device: Kind(
        "devices",
        lambda r: r.id,
        lambda r: r.name,
        {"name": lambda r: r.name},
        topics=lambda r: (f"device/{r.id}",),
    ),
    Assignment: Kind(
        "assignments",
        lambda r: r.device_id,
        lambda r: r.device_id,
        {"release_id": lambda r: r.release_id or None},
        topics=lambda r: (f"assignment/{r.device_id}",),
    ),
    Model: Kind("models", lambda r: f"{r.name}/{r.version}", lambda r: r.number, {"name": lambda r: r.name}),
    Release: Kind(
        "releases",
        lambda r: r.id,
        lambda r: r.counter,
        {
            "state": lambda r: r.state.value,
            "unlogged": lambda r: 1 if r.state is ReleaseState.READY and not r.logged else None,
        },
        topics=lambda r: (r.id, BUILDS_TOPIC),
    ),
    Build: Kind(
        "builds",
        lambda r: r.id,
        lambda r: r.number,
        {
            "release_id": lambda r: r.release_id,
            "state": lambda r: r.state.value,
            "target": lambda r: r.target,
            "lease_id": lambda r: r.lease_id or None,
            "recipe": lambda r: r.recipe or None,
            "cache_key": lambda r: r.cache_key or None,
        },
        topics=lambda r: (r.release_id, BUILDS_TOPIC),
    ),
    EngineProof: Kind(
        "engine_proofs",
        lambda r: r.engine_digest,
        lambda r: r.engine_digest,
        topics=lambda r: (r.release_id, BUILDS_TOPIC),
    ),
    Rollout: Kind(
        "rollouts",
        lambda r: r.id,
        lambda r: r.number,
        {"active": lambda r: int(r.active)},
        topics=lambda r: (r.id,),
    ),
    Member: Kind(
        "members",
        lambda r: f"{r.rollout_id}/{r.device_id}",
        lambda r: f"{r.rollout_id}/{r.device_name}/{r.device_id}",
        {"rollout_id": lambda r: r.rollout_id, "device_id": lambda r: r.device_id, "state": lambda r: r.state.value},
        topics=lambda r: (r.rollout_id,),
    ),
    DecisionRecord: Kind(
        "decisions",
        lambda r: r.id,
        lambda r: f"{r.rollout_id}/{r.number:08d}",
        {"rollout_id": lambda r: r.rollout_id, "verdict": lambda r: r.verdict.value},
        topics=lambda r: (r.rollout_id,),
    ),
    StoredWindow: Kind(
        "health_windows",
        lambda r: f"{r.device_id}/{r.boot_id}/{r.sequence}",
        lambda r: r.number,
        {"device_id": lambda r: r.device_id},
    ),
    WindowMark: Kind(
        "health_marks",
        lambda r: f"{r.device_id}/{r.boot_id}",
        lambda r: f"{r.device_id}/{r.boot_id}",
        {"device_id": lambda r: r.device_id},
    ),
    Event: Kind(
        "events",
        lambda r: str(r.number),
        lambda r: r.number,
        {"subject": lambda r: r.subject},
        topics=lambda _event: (EVENTS_TOPIC,),
    ),
}


def to_json(value: Any) -> Any:
    """Plain values: dataclasses become objects, times ISO 8601, spans seconds, bytes base64, enums their values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    return value


def from_json(cls: type[R], value: Any) -> R:
    """What :func:`to_json` made of a value of that type. Fields that are missing take their defaults, unknown ones are
    left out: a record of another version is read as far as it goes.
    """
    return typing.cast(R, _read(cls, value))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _read(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _read(next(a for a in typing.get_args(hint) if a is not type(None)), value)
    if origin is tuple:
        return tuple(_read(typing.get_args(hint)[0], v) for v in value)
    if origin is not None and issubclass(origin, Mapping):
        return {k: _read(typing.get_args(hint)[1], v) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        hints = _hints(typing.cast(type, hint))
        return typing.cast(type, hint)(**{n: _read(h, value[n]) for n, h in hints.items() if n in value})
    if hint is datetime:
        return datetime.fromisoformat(value)
    if hint is timedelta:
        return timedelta(seconds=value)
    if hint is bytes:
        return base64.b64decode(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    return float(value) if hint is float else value
