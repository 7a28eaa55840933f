"""Creates are idempotent: the same request id gives the same answer, and never a second release or rollout.

Example::

    async with store.writing() as tx:
        if (done := await earlier(tx, asked)) is not None:
            return await tx.get(Release, done)
        …
        await tx.put(asked.done(release.id, now))
"""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import datetime

from control_plane.store.port import Reading
from control_plane.store.records import Request
from maskfleet.errors import AlreadyExistsError, InvalidInputError
from maskfleet.ids import new_id

_MAX_ID = 128


@dataclasses.dataclass(frozen=True)
class Asked:
    """A create, as it was asked for.

    Attributes:
        request_id: chosen by the caller, or by us where it chose none.
        call: the method, and a digest of everything else in the request.
    """

    request_id: str
    call: str

    @classmethod
    def of(cls, request_id: str, method: str, content: bytes) -> Asked:
        """From a request.

        Args:
            request_id: as the caller gave it; may be empty.
            method: the method's name.
            content: the request without its id, the same bytes for the same request.

        Raises:
            InvalidInputError: the id is too long.
        """
        if len(request_id) > _MAX_ID:
            raise InvalidInputError(f"the request id has {len(request_id)} characters", remedy=f"use at most {_MAX_ID}")
        return cls(request_id or new_id("req"), f"{method} {hashlib.sha256(content).hexdigest()}")

    def done(self, result: str, now: datetime) -> Request:
        """The record of it."""
        return Request(self.request_id, self.call, result, now)


async def earlier(tx: Reading, asked: Asked) -> str | None:
    """What came of the same request before; None where it is new.

    Raises:
        AlreadyExistsError: the id was used for something else.
    """
    found = await tx.get(Request, asked.request_id)
    if found is None:
        return None
    if found.call != asked.call:
        raise AlreadyExistsError(
            f"request id {asked.request_id} was used for another request", remedy="use a fresh id for each request"
        )
    return found.result
