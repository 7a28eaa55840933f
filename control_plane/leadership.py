"""Who drives: of the planes on one database, one moves rollouts at a time.

- PostgreSQL: an advisory lock on a session of its own. The server gives it to the next one when that session ends,
  as it does when its process is killed.
- SQLite: a lock on a file beside the database.
- Memory: nobody else is there.

A lease can be lost without noticing (a cut connection). So each transaction of the driver asks, under the writers'
lock, whether the session still holds it (:class:`FencedStore`), and the next driver takes a turn of the writers before
it reads: what its predecessor wrote is there by then, and nothing more comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from control_plane.store.memory import MemoryStore
from control_plane.store.port import Reading, Store, Writing
from control_plane.store.sql import SqlStore, SqlTransaction
from maskfleet.errors import UnavailableError

_KEYS = (0x6D61736B, 0x64726976)  # "mask", "driv": any two numbers, the same in every plane
_ANSWER_S = 5.0


def elsewhere() -> UnavailableError:
    """What a call is told that only the driver can do."""
    return UnavailableError(
        "another plane on this database drives the rollouts",
        remedy="call that one, or try again if it has just stopped",
    )


class Lease(Protocol):
    """The right to drive."""

    async def hold(self) -> bool:
        """Takes the right where it is free, or makes sure of it; whether this process has it now."""
        ...

    async def check(self, tx: Writing) -> None:
        """In a transaction that writes: whether this process still has it.

        Raises:
            UnavailableError: it has not.
        """
        ...

    async def release(self) -> None:
        """Gives the right back."""
        ...


class Alone:
    """Nobody else can be there."""

    async def hold(self) -> bool:
        return True

    async def check(self, tx: Writing) -> None:
        """Nothing to check."""

    async def release(self) -> None:
        """Nothing to give back."""


class FileLease:
    """A lock on a file; it goes with the process.

    Args:
        path: of the file; it is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    async def hold(self) -> bool:
        if self._file is not None:
            return True
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    async def check(self, tx: Writing) -> None:
        if self._file is None:
            raise elsewhere()

    async def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class AdvisoryLease:
    """PostgreSQL's advisory lock, held by a session of its own.

    Args:
        engine: of the store.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._session: AsyncConnection | None = None
        self._pid = 0

    async def hold(self) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_S):
                if self._session is not None:
                    await self._session.execute(sa.text("SELECT 1"))
                    return True
                return await self._take()
        except (DBAPIError, OSError, TimeoutError):
            await self.release()
            return False

    async def _take(self) -> bool:
        session = await self._engine.connect()
        taken = False
        try:
            # Autocommit: a session that holds a lock for days must hold no transaction open.
            session = await session.execution_options(isolation_level="AUTOCOMMIT")
            # A machine that vanished is noticed in half a minute. (On a Unix socket this says nothing.)
            for setting, value in (("idle", 10), ("interval", 5), ("count", 3)):
                await session.execute(sa.text(f"SET tcp_keepalives_{setting} = {value}"))
            lock = sa.text("SELECT pg_try_advisory_lock(:a, :b), pg_backend_pid()")
            taken, pid = (await session.execute(lock, dict(zip("ab", _KEYS)))).one()
            if taken:
                self._session, self._pid = session, pid
        finally:
            if not taken:
                await session.close()
        return bool(taken)

    async def check(self, tx: Writing) -> None:
        if self._session is None or not isinstance(tx, SqlTransaction):
            raise elsewhere()
        held = sa.text(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = :pid AND classid = :a "
            "AND objid = :b AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        found = await tx.connection.scalar(held, {"pid": self._pid, **dict(zip("ab", _KEYS))})
        if found is None:
            raise elsewhere()

    async def release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(DBAPIError, OSError, TimeoutError):
                # The session ends with it, and with the session the lock: the pool would keep both.
                await session.invalidate()
            with contextlib.suppress(DBAPIError, OSError, TimeoutError):
                await session.close()


def lease_for(store: Store) -> Lease:
    """The lease that suits a store."""
    if isinstance(store, SqlStore):
        if store.engine.dialect.name == "postgresql":
            return AdvisoryLease(store.engine)
        path = store.engine.url.database
        return FileLease(Path(f"{path}.driver")) if path else Alone()
    if isinstance(store, MemoryStore):
        return Alone()
    raise TypeError(f"no lease for {type(store).__name__}")


class FencedStore:
    """A store whose transactions write only as long as a lease is held.

    Args:
        store: that is written.
        lease: that must be held.
    """

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self.follow = store.follow
        self.follow_others = store.follow_others
        self.close = store.close

    def reading(self) -> AbstractAsyncContextManager[Reading]:
        """As the store's."""
        return self._store.reading()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[Writing]:
        """As the store's.

        Raises:
            UnavailableError: another process drives.
        """
        async with self._store.writing() as tx:
            await self._lease.check(tx)
            yield tx
