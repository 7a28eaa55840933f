"""The steps make what the tables say; a SQLite file is copied first; a newer schema is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlmodel import SQLModel

import control_plane.store.tables
from control_plane.store.migrations.running import migrate
from control_plane.store.records import KINDS
from control_plane.store.sql import SqlStore, sqlite_url
from maskfleet.errors import InvalidInputError, PreconditionError, UnavailableError


def revise(path: Path, revision: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    database.close()


def test_the_steps_make_what_the_tables_say(tmp_path: Path) -> None:
    url = sa.make_url(sqlite_url(tmp_path / "plane.db"))
    migrate(url)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    engine.dispose()


def test_every_kind_of_record_has_its_table_and_columns() -> None:
    for kind, about in KINDS.items():
        rows = control_plane.store.tables.table(kind)
        assert set(rows.c.keys()) == {"key", "body", "place", *about.columns}, about.table


async def test_a_newer_schema_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "plane.db"
    await (await SqlStore.opened(sqlite_url(path))).close()
    revise(path, "9999")
    before = path.read_bytes()
    with pytest.raises(PreconditionError, match="9999"):
        await SqlStore.opened(sqlite_url(path))
    assert path.read_bytes() == before


def test_a_file_is_copied_before_it_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plane.db"
    migrate(sa.make_url(sqlite_url(path)))
    from alembic.script import ScriptDirectory

    monkeypatch.setattr(ScriptDirectory, "get_current_head", lambda _self: "next")
    with sqlite3.connect(path) as database:
        current = database.execute("SELECT version_num FROM alembic_version").fetchall()
    database.close()
    migrate(sa.make_url(sqlite_url(path)))
    with sqlite3.connect(tmp_path / "plane.db.before-next") as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == current
    copy.close()
    assert (tmp_path / "plane.db.before-next").stat().st_mode & 0o777 == 0o600


async def test_opening_twice_changes_nothing_and_copies_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        await (await SqlStore.opened(sqlite_url(tmp_path / "plane.db"))).close()
    assert [p.name for p in tmp_path.iterdir() if "before" in p.name] == []


@pytest.mark.parametrize("url", ["", "plane.db", "mysql://localhost/x"])
async def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(InvalidInputError, match="URL"):
        await SqlStore.opened(url)


async def test_a_database_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        await SqlStore.opened(sqlite_url(tmp_path / "no" / "such" / "folder" / "plane.db"))
    with pytest.raises(UnavailableError):
        await SqlStore.opened("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
