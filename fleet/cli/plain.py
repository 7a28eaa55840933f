"""Wire messages as plain values, for ``-o json`` and for tables.

Keys are the names of the proto's fields, which ``buf breaking`` keeps stable. Enum values lose their prefix
(``READY``), times are ISO 8601, bytes are left out, what is absent is null, and a text of JSON as ``report_json``
becomes an object, ``report``.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from maskfleet.codec import policy_changes
from maskfleet.v1 import policy_pb2


def plain(message: Message) -> dict[str, Any]:
    """A message as a dictionary."""
    if isinstance(message, policy_pb2.MaskPolicy):
        return {k: getattr(v, "value", v) for k, v in policy_changes(message).items()}
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_BYTES:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values[field.name] = {k: _value(field.message_type.fields_by_name["value"], v) for k, v in value.items()}
        elif field.is_repeated:
            values[field.name] = [_value(field, v) for v in value]
        elif field.has_presence and not message.HasField(field.name):
            values[field.name] = None
        elif field.name.endswith("_json"):
            values[field.name.removesuffix("_json")] = _object(value)
        else:
            values[field.name] = _value(field, value)
    return values


def enum_word(enum: Any, number: int) -> str:
    """The name of an enum's value without its prefix: ``READY`` for ``RELEASE_STATE_READY``."""
    found = enum.values_by_number.get(number)
    if found is None:
        return str(number)
    names = [value.name for value in enum.values]
    prefix = next(name for name in names if name.endswith("_UNSPECIFIED")).removesuffix("UNSPECIFIED")
    return str(found.name.removeprefix(prefix))


def _value(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    if field.message_type is None:
        # float32 on the wire: 0.35 arrives as 0.3499999940
        return round(value, 6) if field.type == FieldDescriptor.TYPE_FLOAT else value
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return value.ToDatetime().isoformat(timespec="milliseconds") + "Z"
    if field.message_type.full_name == "google.protobuf.Duration":
        return value.ToTimedelta().total_seconds()
    return plain(value)


def _object(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
