"""Brings a database to the schema of this version, at start.

A SQLite file is copied beside itself first (``plane.db.before-<revision>``, the revision being the new one). A database
that a newer version wrote is refused and not touched.

A new step, after a change of the tables: ``python -m control_plane.store.migrations.running "Why it is needed"``.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from maskfleet.errors import PreconditionError


def configuration(connection: sa.Connection | None = None) -> Config:
    """Where alembic finds the steps, and which database it works on."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def migrate(url: sa.URL) -> None:
    """Takes every step that a database lacks, all or none.

    Raises:
        PreconditionError: a newer version wrote it.
    """
    sync = url.set(drivername={"sqlite": "sqlite"}.get(url.get_backend_name(), "postgresql+psycopg"))
    engine = sa.create_engine(sync)
    if engine.dialect.name == "sqlite":
        # Python's driver commits before each CREATE on its own account, unless it is kept from beginning at all.
        sa.event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
        sa.event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.connect() as connection:
            config = configuration(connection)
            script = ScriptDirectory.from_config(config)
            head, current = script.get_current_head(), _current(connection)
            if current == head:
                return
            try:
                script.get_revision(current)
            except CommandError:
                raise PreconditionError(
                    f"the store has schema {current}, which this version does not know",
                    remedy="install the maskfleet that wrote it, or a newer one",
                ) from None
            if current is not None and url.get_backend_name() == "sqlite":
                _back_up(Path(str(url.database)), f"before-{head}")
            connection.rollback()  # looking began a transaction
            with connection.begin():
                command.upgrade(config, "head")
    finally:
        engine.dispose()


def _current(connection: sa.Connection) -> Any:
    return MigrationContext.configure(connection).get_current_revision()


def _back_up(path: Path, suffix: str) -> None:
    copy = path.with_name(f"{path.name}.{suffix}")
    copy.touch(mode=0o600)
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    try:
        source.backup(target)  # a consistent copy, write-ahead log included
    finally:
        source.close()
        target.close()


def write_step(why: str) -> None:
    """Writes the step from what the steps so far make to what the tables say."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        config = configuration(connection)
        command.upgrade(config, "head")
        head = ScriptDirectory.from_config(config).get_current_head() or "0"
        command.revision(config, why, autogenerate=True, rev_id=f"{int(head) + 1:04d}")
    engine.dispose()


if __name__ == "__main__":
    write_step(sys.argv[1])
