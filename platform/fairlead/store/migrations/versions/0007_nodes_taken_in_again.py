"""Expand: who has excluded a node, and when it was taken in again."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("exclusion", schema=None) as batch_op:
        batch_op.add_column(sa.Column("created_by", sa.String(length=100), server_default="settle", nullable=False))
        batch_op.add_column(sa.Column("readmitted_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    # The release before knows only of nodes that are excluded: a row of another would exclude it once more.
    op.execute("DELETE FROM exclusion WHERE readmitted_at IS NOT NULL")
    with op.batch_alter_table("exclusion", schema=None) as batch_op:
        batch_op.drop_column("readmitted_at")
        batch_op.drop_column("created_by")
