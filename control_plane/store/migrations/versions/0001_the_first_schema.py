"""The first schema

Revision: 0001, after nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_devices_name"), ["name"], unique=False)

    op.create_table(
        "join_tokens",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    op.create_table(
        "models",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_models_name"), ["name"], unique=False)

    op.create_table(
        "numbers",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    op.create_table(
        "releases",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_releases_state"), ["state"], unique=False)

    op.create_table(
        "requests",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    op.create_table(
        "rollouts",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollouts_active"), ["active"], unique=False)

    op.create_table(
        "assignments",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("release_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["key"],
            ["devices.key"],
        ),
        sa.ForeignKeyConstraint(
            ["release_id"],
            ["releases.key"],
        ),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("assignments", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_assignments_release_id"), ["release_id"], unique=False)

    op.create_table(
        "builds",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("release_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("lease_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["release_id"],
            ["releases.key"],
        ),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("builds", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_builds_lease_id"), ["lease_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_builds_release_id"), ["release_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_builds_state"), ["state"], unique=False)

    op.create_table(
        "health_marks",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.key"],
        ),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("health_marks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_health_marks_device_id"), ["device_id"], unique=False)

    op.create_table(
        "health_windows",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.key"],
        ),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("health_windows", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_health_windows_device_id"), ["device_id"], unique=False)

    op.create_table(
        "members",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.key"],
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"],
            ["rollouts.key"],
        ),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("place"),
    )
    with op.batch_alter_table("members", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_members_device_id"), ["device_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_members_rollout_id"), ["rollout_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("members", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_members_rollout_id"))
        batch_op.drop_index(batch_op.f("ix_members_device_id"))

    op.drop_table("members")
    with op.batch_alter_table("health_windows", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_health_windows_device_id"))

    op.drop_table("health_windows")
    with op.batch_alter_table("health_marks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_health_marks_device_id"))

    op.drop_table("health_marks")
    with op.batch_alter_table("builds", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_builds_state"))
        batch_op.drop_index(batch_op.f("ix_builds_release_id"))
        batch_op.drop_index(batch_op.f("ix_builds_lease_id"))

    op.drop_table("builds")
    with op.batch_alter_table("assignments", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_assignments_release_id"))

    op.drop_table("assignments")
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_rollouts_active"))

    op.drop_table("rollouts")
    op.drop_table("requests")
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_releases_state"))

    op.drop_table("releases")
    op.drop_table("numbers")
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_models_name"))

    op.drop_table("models")
    op.drop_table("join_tokens")
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_devices_name"))

    op.drop_table("devices")
