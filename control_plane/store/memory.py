"""The store in memory, for tests and simulations. Records go through JSON as in SQL: nothing lives here only."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

from control_plane.store.port import Heard, Where
from control_plane.store.records import KINDS, Kind, Number, from_json, to_json
from maskfleet.errors import AlreadyExistsError

R = TypeVar("R")
Tables = dict[str, dict[str, str]]


class MemoryTransaction:
    """A copy of the tables that replaces them at the end."""

    def __init__(self, tables: Tables) -> None:
        self.tables = {name: dict(rows) for name, rows in tables.items()}
        self.topics: set[str] = set()

    def _found(self, kind: type[R], where: Where | None) -> list[R]:
        about = KINDS[kind]
        records = [from_json(kind, json.loads(row)) for row in self.tables.get(about.table, {}).values()]
        return [r for r in records if all(about.columns[c](r) == v for c, v in (where or {}).items())]

    async def get(self, kind: type[R], key: str) -> R | None:
        row = self.tables.get(KINDS[kind].table, {}).get(key)
        return None if row is None else from_json(kind, json.loads(row))

    async def select(
        self,
        kind: type[R],
        where: Where | None = None,
        *,
        after: str | int | None = None,
        limit: int | None = None,
        descending: bool = False,
    ) -> list[R]:
        order: Any = KINDS[kind].order
        found = sorted(self._found(kind, where), key=order, reverse=descending)
        if after is not None:
            found = [r for r in found if (order(r) < after if descending else order(r) > after)]
        return found[:limit]

    async def counts(self, kind: type, column: str, where: Where | None = None) -> dict[Any, int]:
        found: list[Any] = self._found(kind, where)
        return dict(Counter(KINDS[kind].columns[column](r) for r in found))

    async def total(self, kind: type) -> int:
        return len(self.tables.get(KINDS[kind].table, {}))

    async def put(self, *records: Any) -> None:
        for record in records:
            about = KINDS[type(record)]
            rows = self.tables.setdefault(about.table, {})
            self._check_order(about, record)
            rows[about.key(record)] = json.dumps(to_json(record))
            self.topics.update(about.topics(record))

    def _check_order(self, about: Kind, record: Any) -> None:
        key, place = about.key(record), about.order(record)
        for other in self._found(type(record), None):
            if about.key(other) != key and about.order(other) == place:
                raise AlreadyExistsError(f"there is another of {about.table} at {place!r}", remedy="choose another")

    async def delete(self, kind: type, keys: Iterable[str]) -> None:
        rows = self.tables.get(KINDS[kind].table, {})
        for key in keys:
            rows.pop(key, None)

    async def next_number(self, name: str) -> int:
        found = await self.get(Number, name)
        number = Number(name, (found.value if found else 0) + 1)
        await self.put(number)
        return number.value


class MemoryStore:
    """Everything in dictionaries."""

    def __init__(self) -> None:
        self._tables: Tables = {}
        self._turn = asyncio.Lock()
        self._heard: list[Heard] = []

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[MemoryTransaction]:
        yield MemoryTransaction(self._tables)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[MemoryTransaction]:
        async with self._turn:
            transaction = MemoryTransaction(self._tables)
            yield transaction
            self._tables = transaction.tables
        for topic in sorted(transaction.topics):
            for heard in self._heard:
                heard(topic)

    def follow(self, heard: Heard) -> None:
        self._heard.append(heard)

    def follow_others(self, heard: Heard) -> None:
        """There are no others."""

    async def close(self) -> None:
        """Nothing to let go of."""
