"""Engines are found again, proven and logged

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "engine_proofs",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("builds", schema=None) as batch_op:
        batch_op.add_column(sa.Column("recipe", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("cache_key", sa.String(), nullable=True))
        batch_op.create_index(batch_op.f("ix_builds_cache_key"), ["cache_key"], unique=False)
        batch_op.create_index(batch_op.f("ix_builds_recipe"), ["recipe"], unique=False)

    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("unlogged", sa.Integer(), nullable=True))
        batch_op.create_index(batch_op.f("ix_releases_unlogged"), ["unlogged"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_releases_unlogged"))
        batch_op.drop_column("unlogged")

    with op.batch_alter_table("builds", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_builds_recipe"))
        batch_op.drop_index(batch_op.f("ix_builds_cache_key"))
        batch_op.drop_column("cache_key")
        batch_op.drop_column("recipe")

    op.drop_table("engine_proofs")
