"""The tables: a record as JSON, with the columns beside it that it is found and ordered by.

Columns and rows are filled from :data:`control_plane.store.records.KINDS`. A change here needs a migration; a test
compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from control_plane.store.records import KINDS


class Row(SQLModel):
    """What every table has."""

    key: str = Field(primary_key=True)
    body: str


class Named(Row):
    """Ordered by a text."""

    place: str = Field(unique=True)


class Numbered(Row):
    """Ordered by a number."""

    place: int = Field(unique=True, sa_type=BigInteger)


class Numbers(Named, table=True):
    __tablename__ = "numbers"


class Requests(Named, table=True):
    __tablename__ = "requests"


class JoinTokens(Named, table=True):
    __tablename__ = "join_tokens"


class Devices(Named, table=True):
    __tablename__ = "devices"
    name: str = Field(index=True)


class Assignments(Named, table=True):
    __tablename__ = "assignments"
    key: str = Field(primary_key=True, foreign_key="devices.key")
    release_id: str | None = Field(foreign_key="releases.key", index=True)


class Models(Numbered, table=True):
    __tablename__ = "models"
    name: str = Field(index=True)


class Releases(Numbered, table=True):
    __tablename__ = "releases"
    state: str = Field(index=True)
    unlogged: int | None = Field(index=True)


class Builds(Numbered, table=True):
    __tablename__ = "builds"
    release_id: str = Field(foreign_key="releases.key", index=True)
    state: str = Field(index=True)
    target: str
    lease_id: str | None = Field(index=True)
    recipe: str | None = Field(index=True)
    cache_key: str | None = Field(index=True)


class EngineProofs(Named, table=True):
    __tablename__ = "engine_proofs"


class Rollouts(Numbered, table=True):
    __tablename__ = "rollouts"
    active: int = Field(index=True)


class Members(Named, table=True):
    __tablename__ = "members"
    rollout_id: str = Field(foreign_key="rollouts.key", index=True)
    device_id: str = Field(foreign_key="devices.key", index=True)
    state: str


class Decisions(Named, table=True):
    __tablename__ = "decisions"
    rollout_id: str = Field(foreign_key="rollouts.key", index=True)
    verdict: str


class HealthWindows(Numbered, table=True):
    __tablename__ = "health_windows"
    device_id: str = Field(foreign_key="devices.key", index=True)


class HealthMarks(Named, table=True):
    __tablename__ = "health_marks"
    device_id: str = Field(foreign_key="devices.key", index=True)


class Events(Numbered, table=True):
    __tablename__ = "events"
    subject: str = Field(index=True)


def table(kind: type) -> Any:
    """The table of a kind of record."""
    return SQLModel.metadata.tables[KINDS[kind].table]
