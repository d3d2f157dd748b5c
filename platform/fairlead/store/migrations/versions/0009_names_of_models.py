"""Expand: under which name a spec asks to register its model, to find whom a later one is held against."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NAME = {"sqlite": "json_extract(spec, '$.register.name')", "postgresql": "spec #>> '{register,name}'"}


def upgrade() -> None:
    with op.batch_alter_table("experiment", recreate="never") as batch_op:
        batch_op.add_column(sa.Column("register_name", sa.String(length=64), nullable=True))
        batch_op.create_index("ix_experiment_project_register_name", ["project", "register_name"])
    op.execute(f"UPDATE experiment SET register_name = {NAME[op.get_bind().dialect.name]}")


def downgrade() -> None:
    with op.batch_alter_table("experiment", recreate="never") as batch_op:
        batch_op.drop_index("ix_experiment_project_register_name")
        batch_op.drop_column("register_name")
