"""What other processes wrote: PostgreSQL says it (LISTEN/NOTIFY), SQLite is asked once a second.

A notification is part of the transaction that it tells of: it goes out with the commit or not at all. After every
(re)connection anything may have changed meanwhile, and followers are told so (topic None). So a lost connection costs
time and no change.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterable

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from maskfleet.logs import get_logger

CHANNEL = "maskfleet"
MANY = 200
"""With more topics than this a transaction says only that much has changed."""

_POLL_S = 1.0
_QUIET_S = 5.0
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_log = get_logger(__name__)


class PostgresChannel:
    """Tells the other processes, and hears them.

    Args:
        engine: of the store.
        heard: told each topic that another process wrote; None where anything may have changed.
    """

    def __init__(self, engine: AsyncEngine, heard: Callable[[str | None], None]) -> None:
        self._engine = engine
        self._heard = heard
        self._me = uuid.uuid4().hex

    async def tell(self, connection: AsyncConnection, topics: Iterable[str]) -> None:
        """Notifies of topics, in a transaction that wrote them."""
        listed = sorted(topics)
        if not listed:
            return
        told = [f"{self._me} {topic}" for topic in (listed if len(listed) <= MANY else [""])]
        query = sa.text("SELECT pg_notify(:channel, told) FROM unnest(CAST(:told AS text[])) AS told")
        await connection.execute(query, {"channel": CHANNEL, "told": told})

    async def listen(self) -> None:
        """Listens until it is canceled; comes back by itself when the database does."""
        failures = 0
        while True:
            try:
                async with await self._connected() as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._heard(None)
                    if failures:
                        _log.info("the store tells of changes again")
                    failures = 0
                    await self._hear(connection)
            except (psycopg.Error, OSError) as error:
                if not failures:
                    _log.warning("the store does not tell of changes", reason=" ".join(str(error).split()))
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1

    async def _connected(self) -> psycopg.AsyncConnection:
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        options = {"connect_timeout": 5, **options, "autocommit": True}
        return await psycopg.AsyncConnection.connect(*arguments, **options)

    async def _hear(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            async for notify in connection.notifies(timeout=_QUIET_S):
                sender, _, topic = notify.payload.partition(" ")
                if sender != self._me:
                    self._heard(topic or None)
            # Silence may be a connection that is dead and does not know it.
            await asyncio.wait_for(connection.execute("SELECT 1"), _QUIET_S)


class SqlitePolling:
    """Asks SQLite whether another connection, of whichever process, has written.

    Args:
        engine: of the store.
        heard: told None where something has changed.
    """

    def __init__(self, engine: AsyncEngine, heard: Callable[[str | None], None]) -> None:
        self._engine = engine
        self._heard = heard

    async def listen(self) -> None:
        """Asks until it is canceled."""
        while True:
            with contextlib.suppress(DBAPIError, OSError):
                async with self._engine.connect() as connection:
                    before = None
                    while True:
                        # It moves with every commit that this connection did not make itself.
                        version = await connection.scalar(sa.text("PRAGMA data_version"))
                        if before is not None and version != before:
                            self._heard(None)
                        before = version
                        await asyncio.sleep(_POLL_S)
            await asyncio.sleep(_POLL_S)
