"""Expand: batches remember whether the down-sampled series have their points."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("batch", schema=None) as batch_op:
        batch_op.add_column(sa.Column("folded_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_index("ix_batch_folded_at_experiment_id", ["folded_at", "experiment_id"], unique=False)
    op.execute("UPDATE batch SET folded_at = received_at")  # until now a batch was folded as it came


def downgrade() -> None:
    with op.batch_alter_table("batch", schema=None) as batch_op:
        batch_op.drop_index("ix_batch_folded_at_experiment_id")
        batch_op.drop_column("folded_at")
