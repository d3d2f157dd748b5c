"""Expand: attempts of sweeps may come to hold more or less while they run."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("trial_workers", sa.Integer(), nullable=True))
    op.add_column("attempt", sa.Column("resized_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("attempt", sa.Column("shrunk_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("attempt", sa.Column("cpu_s", sa.Double(), server_default="0", nullable=False))
    op.add_column("attempt", sa.Column("gpu_s", sa.Double(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("attempt", "gpu_s")
    op.drop_column("attempt", "cpu_s")
    op.drop_column("attempt", "shrunk_at")
    op.drop_column("attempt", "resized_at")
    op.drop_column("attempt", "trial_workers")
