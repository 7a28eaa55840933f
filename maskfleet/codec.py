"""Between wire messages and the ground floor's values: policies, margins, number formats.

Only modules named ``codec`` see both.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, TypeVar

from maskfleet.gate import Margins, checked
from maskfleet.policy import FailClosed, MaskPolicy, Shape, Style
from maskfleet.v1 import builds_pb2, policy_pb2

_STYLES = {
    policy_pb2.MASK_STYLE_BLUR: Style.BLUR,
    policy_pb2.MASK_STYLE_PIXELATE: Style.PIXELATE,
    policy_pb2.MASK_STYLE_SOLID: Style.SOLID,
}
_SHAPES = {policy_pb2.MASK_SHAPE_RECTANGLE: Shape.RECTANGLE, policy_pb2.MASK_SHAPE_ELLIPSE: Shape.ELLIPSE}
_FAIL_CLOSED = {
    policy_pb2.FAIL_CLOSED_ACTION_FULL_MASK: FailClosed.FULL_MASK,
    policy_pb2.FAIL_CLOSED_ACTION_DROP: FailClosed.DROP,
}
PRECISIONS = {
    builds_pb2.PRECISION_FP32: "fp32",
    builds_pb2.PRECISION_FP16: "fp16",
    builds_pb2.PRECISION_INT8: "int8",
    builds_pb2.PRECISION_AUTO: "auto",
}
"""Number formats by name; ``auto`` can be asked for, and no engine has it."""

_NUMBERS = ("strength", "margin", "min_confidence", "nms_iou", "coast_frames", "track_iou")
_E = TypeVar("_E", bound=enum.Enum)


def policy_changes(message: policy_pb2.MaskPolicy) -> dict[str, Any]:
    """What a message says, for :meth:`MaskPolicy.changed`; absent and unknown fields are left out."""
    changes: dict[str, Any] = {
        "style": _STYLES.get(message.style),
        "shape": _SHAPES.get(message.shape),
        "fail_closed": _FAIL_CLOSED.get(message.fail_closed),
    }
    for name in _NUMBERS:
        if message.HasField(name):  # type: ignore[arg-type]  # the stub lists literals; the names are those
            value = getattr(message, name)
            # float32 on the wire: 0.2 arrives as 0.2000000030
            changes[name] = value if isinstance(value, int) else round(value, 6)
    return {name: value for name, value in changes.items() if value is not None}


def policy_message(policy: MaskPolicy) -> policy_pb2.MaskPolicy:
    """A complete policy as a message."""
    return changes_message({name: getattr(policy, name) for name in policy.__dataclass_fields__})


def changes_message(changes: dict[str, Any]) -> policy_pb2.MaskPolicy:
    """Changes to a policy as a message: the reverse of :func:`policy_changes`."""
    message = policy_pb2.MaskPolicy()
    for name, value in changes.items():
        if value is None:
            continue
        if name == "style":
            message.style = _key(_STYLES, value)
        elif name == "shape":
            message.shape = _key(_SHAPES, value)
        elif name == "fail_closed":
            message.fail_closed = _key(_FAIL_CLOSED, value)
        else:
            setattr(message, name, value)
    return message


def precision_number(name: str) -> builds_pb2.Precision.ValueType:
    """A number format as the wire's number; unspecified where there is none of that name."""
    return next((number for number, word in PRECISIONS.items() if word == name), builds_pb2.PRECISION_UNSPECIFIED)


def margins_from(message: builds_pb2.GateMargins) -> Margins:
    """Complete margins: what the message leaves out has its default.

    Raises:
        InvalidInputError: one is out of range; the message names it.
    """
    said = {field.name: round(value, 6) for field, value in message.ListFields()}  # float32 on the wire
    known = {field.name for field in dataclasses.fields(Margins)}
    return checked(Margins(**{name: value for name, value in said.items() if name in known}))


def margins_message(margins: Margins) -> builds_pb2.GateMargins:
    """Complete margins as a message."""
    return builds_pb2.GateMargins(**dataclasses.asdict(margins))


def _key(table: dict[Any, _E], value: _E) -> Any:
    return next(key for key, member in table.items() if member is value)
