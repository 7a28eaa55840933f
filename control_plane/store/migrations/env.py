"""Run by alembic, on the connection that it was handed."""

from typing import Any, Literal

from alembic import context
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

import control_plane.store.tables  # noqa: F401  # fills the metadata


def rendered(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """SQLModel's own text type is written as SQLAlchemy's, so that old steps need no SQLModel."""
    return "sa.String()" if kind == "type" and isinstance(item, AutoString) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    render_item=rendered,
)
with context.begin_transaction():
    context.run_migrations()
