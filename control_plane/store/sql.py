"""The store in SQL: SQLite in a file by default, PostgreSQL by URL.

SQLite runs with a write-ahead log, foreign keys and a busy timeout; every commit is on the disk before it returns, for
what was promised to an operator or a device must outlive a power cut. A transaction that writes begins IMMEDIATE, so
that it never finds at its end that another one wrote in between; PostgreSQL does the same with an advisory lock.

>>> # store = await SqlStore.opened(sqlite_url(data.path / "plane.db"))
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from control_plane.store.listening import PostgresChannel, SqlitePolling
from control_plane.store.migrations.running import migrate
from control_plane.store.port import Heard, Where
from control_plane.store.records import KINDS, Number, from_json, to_json
from control_plane.store.tables import table
from maskfleet.errors import (
    AlreadyExistsError,
    DiskFullError,
    FleetError,
    InternalError,
    InvalidInputError,
    UnavailableError,
)

R = TypeVar("R")
_BUSY_MS = 10_000
_WRITER_LOCK = 0x6D61736B  # any number, the same in every plane


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


def _async_url(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        parsed = None
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
    if parsed is None or parsed.get_backend_name() not in drivers:
        raise InvalidInputError(
            "the store's URL is none that the plane knows",
            remedy="give postgresql://user@host/database, or sqlite:////absolute/path.db",
        )
    return parsed.set(drivername=drivers[parsed.get_backend_name()])


class SqlTransaction:
    """A transaction on one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self._postgres = connection.dialect.name == "postgresql"
        self.topics: set[str] = set()

    async def get(self, kind: type[R], key: str) -> R | None:
        rows = table(kind)
        body = await self.connection.scalar(sa.select(rows.c.body).where(rows.c.key == key))
        return None if body is None else from_json(kind, json.loads(body))

    def _place(self, rows: Any) -> Any:
        """The order, by code points everywhere: PostgreSQL sorts texts by language unless it is told otherwise."""
        text = isinstance(rows.c.place.type, sa.String)
        return sa.collate(rows.c.place, "C") if text and self._postgres else rows.c.place

    async def select(
        self,
        kind: type[R],
        where: Where | None = None,
        *,
        after: str | int | None = None,
        limit: int | None = None,
        descending: bool = False,
    ) -> list[R]:
        rows = table(kind)
        place = self._place(rows)
        query = sa.select(rows.c.body).where(*_conditions(rows, where))
        query = query.order_by(place.desc() if descending else place.asc())
        if after is not None:
            query = query.where(place < after if descending else place > after)
        if limit is not None:
            query = query.limit(limit)
        return [from_json(kind, json.loads(body)) for body in await self.connection.scalars(query)]

    async def counts(self, kind: type, column: str, where: Where | None = None) -> dict[Any, int]:
        rows = table(kind)
        query = sa.select(rows.c[column], sa.func.count()).where(*_conditions(rows, where)).group_by(rows.c[column])
        return {value: int(number) for value, number in await self.connection.execute(query)}

    async def total(self, kind: type) -> int:
        return int(await self.connection.scalar(sa.select(sa.func.count()).select_from(table(kind))) or 0)

    async def put(self, *records: Any) -> None:
        insert: Any = postgresql.insert if self._postgres else sqlite.insert
        by_kind: dict[type, list[Any]] = {}
        for record in records:
            by_kind.setdefault(type(record), []).append(record)
        for kind, listed in by_kind.items():
            about, rows = KINDS[kind], table(kind)
            query = insert(rows)
            query = query.on_conflict_do_update(
                index_elements=["key"], set_={c.name: query.excluded[c.name] for c in rows.c if c.name != "key"}
            )
            values: list[dict[str, Any]] = [
                {"key": about.key(r), "body": json.dumps(to_json(r)), "place": about.order(r)}
                | {name: column(r) for name, column in about.columns.items()}
                for r in listed
            ]
            await self.connection.execute(query, values)
            for record in listed:
                self.topics.update(about.topics(record))

    async def delete(self, kind: type, keys: Iterable[str]) -> None:
        rows = table(kind)
        await self.connection.execute(sa.delete(rows).where(rows.c.key.in_(list(keys))))

    async def next_number(self, name: str) -> int:
        found = await self.get(Number, name)
        number = Number(name, (found.value if found else 0) + 1)
        await self.put(number)
        return number.value


def _conditions(rows: Any, where: Where | None) -> list[Any]:
    return [rows.c[column] == value for column, value in (where or {}).items()]


class SqlStore:
    """A database."""

    def __init__(self, engine: AsyncEngine, *, shared: bool) -> None:
        self.engine = engine
        self._turn = asyncio.Lock()
        self._heard: list[Heard] = []
        self._others_heard: list[Heard] = []
        self._channel = PostgresChannel(engine, self._others) if engine.dialect.name == "postgresql" else None
        self._listening: asyncio.Task[None] | None = None
        self._shared = shared

    @classmethod
    async def opened(cls, url: str, *, shared: bool = True) -> SqlStore:
        """Brings the schema up to date and opens the database.

        Args:
            url: of the database.
            shared: whether other processes may write to it.

        Raises:
            InvalidInputError: the URL is none.
            PreconditionError: a newer version wrote this database.
            UnavailableError: it does not answer.
        """
        parsed = _async_url(url)
        with _translated():
            await asyncio.to_thread(migrate, parsed)
            try:
                if parsed.get_backend_name() == "sqlite":
                    engine = create_async_engine(parsed, connect_args={"timeout": _BUSY_MS / 1000})
                    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
                else:
                    engine = create_async_engine(parsed, pool_pre_ping=True)
            except (NoSuchModuleError, ImportError) as error:
                raise InvalidInputError(
                    f"the database driver is missing ({error})", remedy="install maskfleet[plane]"
                ) from None
        return cls(engine, shared=shared)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[SqlTransaction]:
        with _translated():
            async with self.engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    await connection.exec_driver_sql("BEGIN")
                yield SqlTransaction(connection)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[SqlTransaction]:
        with _translated():
            # In this process writers wait here, where waiting is fair and costs nothing.
            async with self._turn, self.engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER_LOCK)))
                try:
                    transaction = SqlTransaction(connection)
                    yield transaction
                    if self._channel is not None:
                        await self._channel.tell(connection, transaction.topics)
                    await connection.commit()
                except BaseException:
                    await connection.rollback()
                    raise
            self._tell(transaction.topics)

    def _tell(self, topics: Iterable[str]) -> None:
        for topic in sorted(topics):
            for heard in self._heard:
                heard(topic)

    def follow(self, heard: Heard) -> None:
        self._heard.append(heard)
        self._listen()

    def follow_others(self, heard: Heard) -> None:
        self._others_heard.append(heard)
        self._listen()

    def _listen(self) -> None:
        if self._shared and self._listening is None:
            listener = self._channel or SqlitePolling(self.engine, self._others)
            self._listening = asyncio.create_task(listener.listen())

    def _others(self, topic: str | None) -> None:
        for heard in (*self._heard, *self._others_heard):
            heard(topic)

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver is not to begin transactions on its own: writing() does, IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors of the database as errors of the catalogue."""
    try:
        yield
    except FleetError:
        raise
    except IntegrityError as error:
        if "place" in str(error.orig) and "unique" in str(error.orig).lower():
            raise AlreadyExistsError("the name is taken by another", remedy="choose another name") from None
        raise InternalError(f"the store refused a record ({error.orig})", remedy="report this") from None
    except DBAPIError as error:
        text = str(error.orig).lower()
        if "full" in text or f"errno {errno.ENOSPC}" in text or "no space" in text:
            raise DiskFullError("the store's disk is full", remedy="make room on the plane's data directory") from None
        raise UnavailableError(
            f"the store does not answer ({' '.join(str(error.orig).split())})",
            remedy="check the database and try again",
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"the store does not answer ({error})", remedy="check the database and try again"
        ) from None
