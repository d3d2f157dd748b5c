"""Expand: lists of a name in one state by an index of both, which serves a name in any state as well."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("experiment", schema=None) as batch_op:
        batch_op.create_index("ix_experiment_name_state_created_at_id", ["name", "state", "created_at", "id"])
        batch_op.drop_index("ix_experiment_name_created_at_id")


def downgrade() -> None:
    with op.batch_alter_table("experiment", schema=None) as batch_op:
        batch_op.create_index("ix_experiment_name_created_at_id", ["name", "created_at", "id"])
        batch_op.drop_index("ix_experiment_name_state_created_at_id")
