"""Expand: trials of sweeps, and the amendments to those that run."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
_UNRECORDED = sa.text("recorded_at IS NULL AND ended_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "trial",
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt_no", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("curves", sa.JSON(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("excess", sa.Double(), nullable=True),
        sa.Column("last_step", sa.Integer(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checkpoint", sa.JSON(), nullable=True),
        sa.Column("mlflow_run_id", sa.String(length=64), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"], name=op.f("fk_trial_experiment_id")),
        sa.PrimaryKeyConstraint("experiment_id", "no", name=op.f("pk_trial")),
    )
    with op.batch_alter_table("trial", schema=None) as batch_op:
        batch_op.create_index("ix_trial_experiment_id_state_no", ["experiment_id", "state", "no"])
        batch_op.create_index("ix_trial_experiment_id_value", ["experiment_id", "excess", "value", "no"])
        batch_op.create_index(
            "ix_trial_unrecorded",
            ["experiment_id", "no"],
            sqlite_where=_UNRECORDED,
            postgresql_where=_UNRECORDED,
        )
    op.create_table(
        "amendment",
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"], name=op.f("fk_amendment_experiment_id")),
        sa.PrimaryKeyConstraint("experiment_id", "no", name=op.f("pk_amendment")),
    )
    op.add_column("experiment", sa.Column("sweep", sa.JSON(), nullable=True))
    op.add_column("experiment", sa.Column("derived_from", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("experiment", "derived_from")
    op.drop_column("experiment", "sweep")
    op.drop_table("amendment")
    op.drop_table("trial")
