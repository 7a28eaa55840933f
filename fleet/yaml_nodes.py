"""YAML with places: every value knows its line and column.

Only what a configuration needs is read: one document of mappings, lists and scalars. Aliases (which can blow a small
file up), tags and keys that come twice are refused, as is a file that is too large or too deep.

Example::

    root = read_yaml(Path("rollout.yaml"))
    root.entries["waves"].items[0].value  # with .line and .column
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from maskfleet.errors import InvalidInputError, NotFoundError, PreconditionError

MAX_BYTES = 256 << 10
_MAX_DEPTH = 16


@dataclasses.dataclass(frozen=True)
class Node:
    """A value with its place.

    Attributes:
        value: of a scalar: text, number, truth value, date or None.
        entries: of a mapping; None for anything else.
        items: of a list; None for anything else.
        where: ``file:line:column``, from 1.
        keys: places of a mapping's keys.
    """

    where: str
    value: Any = None
    entries: dict[str, Node] | None = None
    items: tuple[Node, ...] | None = None
    keys: dict[str, str] = dataclasses.field(default_factory=dict)

    def plain(self) -> Any:
        """The value without places: dictionaries, lists and scalars."""
        if self.entries is not None:
            return {key: node.plain() for key, node in self.entries.items()}
        if self.items is not None:
            return [node.plain() for node in self.items]
        return self.value


def node_of(value: Any, where: str) -> Node:
    """Plain values as a node, all at one place, as those of a command line."""
    if isinstance(value, dict):
        return Node(where, entries={key: node_of(each, where) for key, each in value.items()})
    if isinstance(value, list):
        return Node(where, items=tuple(node_of(each, where) for each in value))
    return Node(where, value)


def read_yaml(path: Path) -> Node:
    """The document in a file.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it cannot be read, is too large, is no YAML, or holds what is refused; the message begins
            with ``file:line:column``.
        PreconditionError: PyYAML is not installed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}", remedy="check the path") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror})", remedy="check the path") from None
    if len(data) > MAX_BYTES:
        raise InvalidInputError(f"{path} is larger than {MAX_BYTES >> 10} KiB", remedy="is it the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise InvalidInputError(f"{path}:{line}:{column}: this is no UTF-8", remedy="save the file as UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Node:
    """The document in a text.

    Args:
        text: YAML.
        name: of its file, for messages.

    Raises:
        InvalidInputError: as :func:`read_yaml`.
        PreconditionError: likewise.
    """
    try:
        import yaml
    except ImportError:
        raise PreconditionError(
            "rollout files need the package pyyaml, which is not installed", remedy="pip install 'maskfleet[cli]'"
        ) from None
    try:
        _look_over(yaml, text, name)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise InvalidInputError(f"{name}:1:1: the file is empty", remedy="write a rollout into it")
        return _node(yaml, loader, root, name)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise InvalidInputError(
            f"{name}:{before.count(chr(10)) + 1}:{column}: there is a character that YAML does not allow",
            remedy="delete it",
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(filter(None, (error.context, error.problem)))
        hint = "indent with spaces" if "'\\t'" in said else "check indentation, colons and quotes there"
        raise InvalidInputError(f"{_at(name, mark)}: this is no YAML ({said})", remedy=hint) from None


def _look_over(yaml: Any, text: str, name: str) -> None:
    """Refuses, before anything is composed, what could grow."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise InvalidInputError(f"{_at(name, event.start_mark)}: aliases (*{event.anchor}) are not read here",
                                    remedy="write the value out")  # fmt: skip
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > _MAX_DEPTH:
                raise InvalidInputError(f"{_at(name, event.start_mark)}: nested deeper than {_MAX_DEPTH} levels",
                                        remedy="is it the right file?")  # fmt: skip
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


def _node(yaml: Any, loader: Any, node: Any, name: str) -> Node:
    where = _at(name, node.start_mark)
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, Node] = {}
        keys: dict[str, str] = {}
        for key, value in node.value:
            place = _at(name, key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidInputError(f"{place}: a key is no plain word", remedy="write key: value")
            if key.value in entries:
                raise InvalidInputError(
                    f"{place}: {key.value!r} comes twice, first at line {keys[key.value].rsplit(':', 2)[1]}",
                    remedy="delete one of them",
                )
            keys[key.value] = place
            entries[key.value] = _node(yaml, loader, value, name)
        return Node(where, entries=entries, keys=keys)
    if isinstance(node, yaml.SequenceNode):
        return Node(where, items=tuple(_node(yaml, loader, each, name) for each in node.value))
    try:
        return Node(where, loader.construct_object(node))
    except ValueError as error:  # a date like 2026-99-99
        raise InvalidInputError(
            f"{where}: {node.value!r} cannot be read ({error})", remedy="put it in quotes"
        ) from None


def _at(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
