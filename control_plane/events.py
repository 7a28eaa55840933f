"""The fleet's history: noted inside the transaction that it tells of, so that an event is there if and only if that is.

Example::

    async with store.writing() as tx:
        await tx.put(release)
        await note(tx, "release.ready", release.id, "every build passed", now=clock.now())

Kinds in use: ``device.enrolled|connected|disconnected``, ``model.created``, ``release.created|ready|failed|canceled``,
``release.logged``, ``engine.proven``, ``rollout.created|moved``, ``member.moved``, ``decision``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from control_plane.changes import Changes
from control_plane.domain.event import KEPT, PLANE, Event
from control_plane.store.port import Reading, Store, Writing
from control_plane.store.records import EVENTS_TOPIC

MAX_TEXT = 1000
_BATCH = 500


async def note(tx: Writing, kind: str, subject: str, text: str, actor: str = PLANE, *, now: datetime) -> Event:
    """Writes an event in a transaction; whoever follows events hears of it after the commit.

    Args:
        tx: of what happened.
        kind: as ``rollout.moved``.
        subject: id of what it is about.
        text: a sentence for people; cut at 1000 characters.
        actor: a role, a device's id, or ``plane``.
        now: by the plane's clock.
    """
    number = await tx.next_number("event")
    event = Event(number, now, kind, subject, text[:MAX_TEXT], actor)
    await tx.put(event)
    if number > KEPT:
        await tx.delete(Event, [str(number - KEPT)])
    return event


class Events:
    """What operators read of the history."""

    def __init__(self, store: Store, changes: Changes) -> None:
        self._store = store
        self._changes = changes

    async def newest(self, subject: str, *, before: int | None, limit: int) -> list[Event]:
        """Events, newest first.

        Args:
            subject: about this only; all where it is empty.
            before: begin below this number.
            limit: how many at most.
        """
        async with self._store.reading() as look:
            return await look.select(Event, _about(subject), after=before, limit=limit, descending=True)

    async def follow(self, subject: str, after: int) -> AsyncIterator[Event]:
        """Events as they happen, none left out, none twice.

        Args:
            subject: about this only; all where it is empty.
            after: begin above this number; 0 for what happens from now on. A number that is yet to come (the store was
                restored from a copy) counts as the newest one.
        """
        with self._changes.following(EVENTS_TOPIC) as change:
            async with self._store.reading() as look:
                newest = await _newest(look)
            last = min(after, newest) if after else newest
            while True:
                async with self._store.reading() as look:
                    found = await look.select(Event, _about(subject), after=last, limit=_BATCH)
                for event in found:
                    yield event
                    last = event.number
                if len(found) < _BATCH:
                    await change.wait()


async def _newest(look: Reading) -> int:
    found = await look.select(Event, descending=True, limit=1)
    return found[0].number if found else 0


def _about(subject: str) -> dict[str, str | int | None]:
    return {"subject": subject} if subject else {}
