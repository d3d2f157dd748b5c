"""Expand: projects with quota and use, scheduling columns beside the spec, stops by the platform, excluded nodes.

``recreate="never"``: SQLite's other way makes a table anew and drops the old one, to which other rows refer.
"""

import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_IS_OPEN = sa.text("outcome IS NULL")
_IS_UNSETTLED = sa.text("outcome IS NOT NULL AND NOT is_settled")
_EXPERIMENT_INDEXES = {
    "ix_experiment_state_created_at_id": ["state", "created_at", "id"],
    "ix_experiment_project_name_created_at": ["project", "name", "created_at"],
    "ix_experiment_project_state_created_at_id": ["project", "state", "created_at", "id"],
    "ix_experiment_name_created_at_id": ["name", "created_at", "id"],
    "ix_experiment_queue": ["state", "desired", "enqueued_at", "id", "version"],
}


def upgrade() -> None:
    op.create_table(
        "project",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("weight", sa.Double(), server_default="1", nullable=False),
        sa.Column("quota_workers", sa.Integer(), nullable=True),
        sa.Column("quota_cpus", sa.Double(), nullable=True),
        sa.Column("quota_gpus", sa.Double(), nullable=True),
        sa.Column("quota_experiments", sa.Integer(), nullable=True),
        sa.Column("used", sa.Double(), server_default="0", nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_project")),
    )
    op.create_table(
        "exclusion",
        sa.Column("cluster", sa.String(length=64), nullable=False),
        sa.Column("node_id", sa.String(length=100), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["cluster"], ["cluster.name"], name=op.f("fk_exclusion_cluster")),
        sa.PrimaryKeyConstraint("cluster", "node_id", name=op.f("pk_exclusion")),
    )
    with op.batch_alter_table("cluster", recreate="never") as batch_op:
        batch_op.add_column(sa.Column("labels", sa.JSON(), nullable=True))

    with op.batch_alter_table("experiment", recreate="never") as batch_op:
        batch_op.add_column(sa.Column("wishes", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("is_preemptible", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("max_runtime_s", sa.Double(), server_default="86400", nullable=False))
        batch_op.add_column(sa.Column("budget_cpu_hours", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("budget_gpu_hours", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("expected_s", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("spent_s", sa.Double(), server_default="0", nullable=False))
        for name, columns in _EXPERIMENT_INDEXES.items():
            batch_op.create_index(name, columns, unique=False)

    with op.batch_alter_table("attempt", recreate="never") as batch_op:
        batch_op.add_column(sa.Column("alternative", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("plan", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("stop_mode", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("stop_reason", sa.Text(), nullable=True))
        batch_op.create_index("ix_attempt_open", ["id"], unique=False, sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN)
        batch_op.create_index(
            "ix_attempt_unsettled", ["id"], unique=False, sqlite_where=_IS_UNSETTLED, postgresql_where=_IS_UNSETTLED
        )
        batch_op.create_index("ix_attempt_ended_at", ["ended_at"], unique=False)

    _found_projects()
    _copy_limits()


def _found_projects() -> None:
    """One row for every project that experiments name; until now a project was no more than a name."""
    project = sa.table("project", sa.column("name"), sa.column("created_at", sa.DateTime(timezone=True)))
    experiment = sa.table("experiment", sa.column("project"))
    names = op.get_bind().execute(sa.select(experiment.c.project).distinct()).scalars().all()
    now = datetime.now(UTC)
    if rows := [{"name": name, "created_at": now} for name in sorted({*names, "default"})]:
        op.get_bind().execute(sa.insert(project), rows)


def _copy_limits() -> None:
    """``max_runtime_s`` of what has not ended yet, from the specs; what has ended needs it no more."""
    experiment = sa.table("experiment", *(sa.column(name) for name in ("id", "state", "max_runtime_s")), _spec())
    living = experiment.c.state.not_in(("succeeded", "failed", "cancelled"))
    rows = op.get_bind().execute(sa.select(experiment.c.id, experiment.c.spec).where(living)).all()
    for key, spec in rows:
        document = json.loads(spec) if isinstance(spec, str) else spec
        limit = (document.get("policy") or {}).get("max_runtime_s", 86_400)
        op.get_bind().execute(sa.update(experiment).where(experiment.c.id == key).values(max_runtime_s=float(limit)))


def _spec() -> sa.ColumnClause:  # type: ignore[type-arg]
    return sa.column("spec", sa.JSON())


def downgrade() -> None:
    with op.batch_alter_table("attempt", recreate="never") as batch_op:
        for name in ("ix_attempt_ended_at", "ix_attempt_unsettled", "ix_attempt_open"):
            batch_op.drop_index(name)
        for name in ("stop_reason", "stop_mode", "plan", "alternative"):
            batch_op.drop_column(name)

    with op.batch_alter_table("experiment", recreate="never") as batch_op:
        for name in _EXPERIMENT_INDEXES:
            batch_op.drop_index(name)
        for name in ("spent_s", "expected_s", "budget_gpu_hours", "budget_cpu_hours", "max_runtime_s"):
            batch_op.drop_column(name)
        for name in ("is_preemptible", "wishes"):
            batch_op.drop_column(name)

    with op.batch_alter_table("cluster", recreate="never") as batch_op:
        batch_op.drop_column("labels")

    op.drop_table("exclusion")
    op.drop_table("project")
