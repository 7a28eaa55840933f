"""What the plane needs of a store: records by key, lists by column, transactions. Memory and SQL pass one suite.

- :meth:`Store.writing` is one transaction: all of it is there afterwards, or nothing. Writers take turns, and each sees
  what those before it wrote, so that read, check and write need no further lock.
- :meth:`Store.reading` sees a state that stands still and keeps nobody waiting.

Example::

    async with store.writing() as tx:
        number = await tx.next_number("rollout")
        await tx.put(rollout)
    async with store.reading() as tx:
        page = await tx.select(Rollout, after=token, limit=100, descending=True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

R = TypeVar("R")
Where = Mapping[str, str | int | None]
Heard = Callable[[str | None], None]
"""Takes a topic; None where anything may have changed."""


class Reading(Protocol):
    """A look at the store."""

    async def get(self, kind: type[R], key: str) -> R | None:
        """The record with a key, or None."""
        ...

    async def select(
        self,
        kind: type[R],
        where: Where | None = None,
        *,
        after: str | int | None = None,
        limit: int | None = None,
        descending: bool = False,
    ) -> list[R]:
        """Records in order.

        Args:
            kind: of which kind.
            where: columns and the values that they must have.
            after: begin behind this value of the order.
            limit: how many at most.
            descending: from the highest to the lowest.
        """
        ...

    async def counts(self, kind: type, column: str, where: Where | None = None) -> dict[Any, int]:
        """How many records there are by the values of a column."""
        ...

    async def total(self, kind: type) -> int:
        """How many records there are."""
        ...


class Writing(Reading, Protocol):
    """A transaction that writes."""

    async def put(self, *records: Any) -> None:
        """Writes records, each in place of the one with its key.

        Raises:
            AlreadyExistsError: another record has the same place in the order (two devices of one name).
        """
        ...

    async def delete(self, kind: type, keys: Iterable[str]) -> None:
        """Removes records; those that are not there are left out."""
        ...

    async def next_number(self, name: str) -> int:
        """The next value of a counter, from 1; it never goes back."""
        ...


class Store(Protocol):
    """Where the plane keeps what it knows."""

    def reading(self) -> AbstractAsyncContextManager[Reading]:
        """A look that changes nothing.

        Raises:
            UnavailableError: the database does not answer.
        """
        ...

    def writing(self) -> AbstractAsyncContextManager[Writing]:
        """A transaction; an exception undoes it.

        Raises:
            UnavailableError: the database does not answer.
            DiskFullError: there is no room.
        """
        ...

    def follow(self, heard: Heard) -> None:
        """Has topics told (:data:`~control_plane.store.records.KINDS`) of everything that is written from now on, by
        this process or another one that uses the same database. Called in the event loop, after the commit.
        """
        ...

    def follow_others(self, heard: Heard) -> None:
        """The same, of what other processes write."""
        ...

    async def close(self) -> None:
        """Lets go of files and connections."""
        ...
