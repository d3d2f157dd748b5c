"""Expand: the model versions that were registered, beside their experiments, and what differs from them in MLflow.

What was registered before is read from the experiments. Which logged model is behind a version they do not say.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    versions = op.create_table(
        "model_version",
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=20), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.String(length=100), nullable=True),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiment.id"], name=op.f("fk_model_version_experiment_id")),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_model_version")),
    )
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.create_index("ix_model_version_name_version", ["name", "version"])
        batch_op.create_index("ix_model_version_registered_at_experiment_id", ["registered_at", "experiment_id"])
        batch_op.create_index(
            "ix_model_version_project_registered_at_experiment_id", ["project", "registered_at", "experiment_id"]
        )
    op.create_table(
        "registry_flag",
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("version", sa.String(length=20), nullable=False),
        sa.Column("alias", sa.String(length=256), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=True),
        sa.Column("experiment_id", sa.String(length=64), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("advice", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", "alias", "code", name=op.f("pk_registry_flag")),
    )
    with op.batch_alter_table("registry_flag", schema=None) as batch_op:
        batch_op.create_index("ix_registry_flag_project", ["project"])
    op.create_table(
        "registry_check",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_check")),
    )
    _note_registered(versions)


def _note_registered(versions: sa.Table) -> None:
    """The event that names the version says when it was registered."""
    event = sa.table(
        "event",
        sa.column("experiment_id"),
        sa.column("kind"),
        sa.column("at", sa.DateTime(timezone=True)),
        sa.column("payload", sa.JSON()),
    )
    experiment = sa.table("experiment", sa.column("id"), sa.column("project"))
    told = sa.select(event.c.experiment_id, experiment.c.project, event.c.at, event.c.payload)
    told = told.join(experiment, experiment.c.id == event.c.experiment_id).where(event.c.kind == "registered")
    rows = {
        key: {
            "experiment_id": key,
            "project": project,
            "name": payload["name"],
            "version": payload["version"],
            "alias": payload["alias"],
            "registered_at": at,
        }
        for key, project, at, payload in op.get_bind().execute(told)
    }
    if rows:
        op.bulk_insert(versions, list(rows.values()))


def downgrade() -> None:
    op.drop_table("registry_check")
    op.drop_table("registry_flag")
    op.drop_table("model_version")
