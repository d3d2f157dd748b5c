"""Expand: releases by humans, stop bounds, attempts declared lost, checkpoints that may go."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("experiment", schema=None) as batch_op:
        batch_op.add_column(sa.Column("released_at", sa.DateTime(timezone=True), nullable=True))

    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.add_column(sa.Column("stop_since", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("declared_lost_by", sa.String(length=100), nullable=True))

    with op.batch_alter_table("checkpoint", schema=None) as batch_op:
        batch_op.add_column(sa.Column("state", sa.String(length=16), server_default="committed", nullable=False))
        batch_op.add_column(sa.Column("score", sa.Double(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("checkpoint", schema=None) as batch_op:
        batch_op.drop_column("score")
        batch_op.drop_column("state")

    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.drop_column("declared_lost_by")
        batch_op.drop_column("stop_since")

    with op.batch_alter_table("experiment", schema=None) as batch_op:
        batch_op.drop_column("released_at")
