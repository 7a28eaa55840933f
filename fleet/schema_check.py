"""Checks values with places against a JSON schema, in sentences that say what is allowed.

Knows the words that the schemas of this package use: ``type``, ``properties``, ``additionalProperties: false``,
``required``, ``oneOf`` of ``required``, ``items``, ``minItems``, ``maxItems``, ``enum``, ``pattern``, ``minLength``,
``maxLength``, ``minimum``, ``maximum``, ``exclusiveMinimum`` and ``$ref`` into ``$defs``. Another word is a defect of
the schema and raises.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from fleet.yaml_nodes import Node
from maskfleet.errors import InternalError, InvalidInputError

Schema = Mapping[str, Any]
_NOTES = {"$schema", "$defs", "title", "description", "$ref"}
_KNOWN = _NOTES | {
    "type", "properties", "additionalProperties", "required", "oneOf", "items", "minItems", "maxItems", "enum",
    "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
}  # fmt: skip
_WORDS = {"object": "a mapping (key: value)", "array": "a list", "string": "a text", "number": "a number",
          "integer": "a whole number", "boolean": "true or false"}  # fmt: skip


def check(node: Node, schema: Schema, root: Schema | None = None, *, name: str = "the file") -> None:
    """Looks at a value and everything in it.

    Args:
        node: the value.
        schema: what it should be.
        root: the whole schema, in which references are looked up; ``schema`` itself where absent.
        name: of the value, for messages, as ``waves[1].soak``.

    Raises:
        InvalidInputError: it is something else. The message begins with the place and says what is allowed.
    """
    root = root if root is not None else schema
    schema = _resolved(schema, root)
    if unknown := set(schema) - _KNOWN:
        raise InternalError(f"the schema of {name} has words that are not checked: {', '.join(sorted(unknown))}")
    kind = schema.get("type")
    if kind is not None and not _is(node, kind):
        hint = schema.get("description") or f"write {_WORDS[kind]}"
        raise _wrong(node, f"{name} is {_what(node)}, not {_WORDS[kind]}", hint)
    if "enum" in schema and node.plain() not in schema["enum"]:
        allowed = [str(word) for word in schema["enum"]]
        raise _wrong(node, f"{name} is {_what(node)}", _nearest(str(node.value), allowed))
    if node.entries is not None:
        _check_object(node, schema, root, name)
    elif node.items is not None:
        _check_array(node, schema, root, name)
    else:
        _check_scalar(node, schema, name)


def _check_object(node: Node, schema: Schema, root: Schema, name: str) -> None:
    entries = node.entries or {}
    properties = schema.get("properties", {})
    prefix = "" if name == "the file" else f"{name}."
    if schema.get("additionalProperties", True) is False:
        for key in entries:
            if key not in properties:
                place = node.keys.get(key, node.where)
                raise InvalidInputError(
                    f"{place}: there is no key {key!r} in {name}", remedy=_nearest(key, list(properties))
                )
    for key in schema.get("required", ()):
        if key not in entries:
            raise _wrong(node, f"{name} has no {key}", f"add {key}")
    if choices := [choice["required"] for choice in schema.get("oneOf", ())]:
        given = [keys for keys in choices if all(key in entries for key in keys)]
        if len(given) != 1:
            words = " or ".join(" and ".join(keys) for keys in choices)
            have = "several of them" if given else "neither"
            raise _wrong(node, f"{name} needs {words} and has {have}", f"give one: {words}")
    for key, value in entries.items():
        if key in properties:
            check(value, properties[key], root, name=f"{prefix}{key}")


def _check_array(node: Node, schema: Schema, root: Schema, name: str) -> None:
    items = node.items or ()
    least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if not least <= len(items) <= most:
        raise _wrong(node, f"{name} has {len(items)} entries", f"give {least} to {most}")
    for index, item in enumerate(items):
        check(item, schema.get("items", {}), root, name=f"{name}[{index + 1}]")


def _check_scalar(node: Node, schema: Schema, name: str) -> None:
    value = node.value
    hint = schema.get("description", "")
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
            most = schema.get("maxLength", "any number of")
            raise _wrong(node, f"{name} has {len(value)} letters", f"give {schema.get('minLength', 0)} to {most}")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            raise _wrong(node, f"{name} is {value!r}", hint)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        above = schema.get("exclusiveMinimum", -math.inf)
        if not (least <= value <= most and value > above):
            low = f"above {above:g}" if above > least else f"from {least:g}"
            raise _wrong(node, f"{name} is {value}", f"give a number {low}" + (f" to {most:g}" if most < 1e15 else ""))


def _resolved(schema: Schema, root: Schema) -> Schema:
    """The schema with its reference followed; what stands beside the reference goes before."""
    if "$ref" not in schema:
        return schema
    found = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    own = {key: value for key, value in schema.items() if key != "$ref"}
    # A time's own description says what it is for; how one is written stands with the definition.
    both = " ".join(filter(None, (own.get("description"), found.get("description"))))
    return {**found, **own, "description": both}


def _is(node: Node, kind: str) -> bool:
    if kind == "object":
        return node.entries is not None
    if kind == "array":
        return node.items is not None
    if node.entries is not None or node.items is not None:
        return False
    value = node.value
    if kind in ("number", "integer") and isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int)
    if kind == "number":
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, {"string": str, "boolean": bool}[kind])


def _what(node: Node) -> str:
    if node.entries is not None:
        return "a mapping"
    if node.items is not None:
        return "a list"
    value = node.value
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()} (YAML reads yes, no, on and off so)"
    if isinstance(value, str):
        return f"the text {value!r}"
    return f"the number {value}" if isinstance(value, (int, float)) else f"the date {value}"


def _nearest(word: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(word, allowed, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"allowed are {', '.join(allowed)}"


def _wrong(node: Node, text: str, hint: str) -> InvalidInputError:
    return InvalidInputError(f"{node.where}: {text}", remedy=hint[:1].lower() + hint[1:].rstrip("."))
