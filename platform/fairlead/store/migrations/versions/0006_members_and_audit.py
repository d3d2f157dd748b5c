"""Expand: members with roles, tokens that are narrower than their member, an audit that only grows, bundles by project."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_REFUSE = "CREATE TRIGGER audit_{verb}_refused BEFORE {verb} ON audit "
_SQLITE = _REFUSE + "BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END"
_POSTGRESQL = (
    "CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'the audit only grows'; END $$",
    _REFUSE + "FOR EACH STATEMENT EXECUTE FUNCTION audit_only_grows()",
)


def upgrade() -> None:
    with op.batch_alter_table("token", schema=None) as batch_op:
        batch_op.add_column(sa.Column("label", sa.String(length=100), nullable=True))
        batch_op.add_column(sa.Column("project", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("role", sa.String(length=16), server_default="admin", nullable=False))
        batch_op.add_column(sa.Column("created_by", sa.String(length=100), nullable=True))
        batch_op.add_column(sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))

    op.create_table(
        "membership",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("member", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "member", name=op.f("pk_membership")),
    )
    op.create_index("ix_membership_member", "membership", ["member"], unique=False)
    # Until now every user's token could do everything: it still can.
    op.execute(
        "INSERT INTO membership (project, member, role, created_by, created_at) "
        "SELECT '*', name, 'admin', 'migration', min(created_at) FROM token WHERE kind = 'user' GROUP BY name"
    )

    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("token_id", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=True),
        sa.Column("before_sha256", sa.String(length=64), nullable=True),
        sa.Column("after_sha256", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_project_id", "audit", ["project", "id"], unique=False)
    _make_append_only()

    op.create_table(
        "bundle_project",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["bundle.sha256"], name=op.f("fk_bundle_project_sha256")),
        sa.PrimaryKeyConstraint("sha256", "project", name=op.f("pk_bundle_project")),
    )
    _keep_bundles_usable()


def _make_append_only() -> None:
    templates = _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else (_SQLITE,)
    for template in templates:
        for verb in ("UPDATE", "DELETE") if "{verb}" in template else ("",):
            op.execute(template.format(verb=verb))


def _keep_bundles_usable() -> None:
    """Each bundle belongs to the projects of the experiments that run it, and to the project that was the only one."""
    bundle = sa.table("bundle", *map(sa.column, ("sha256", "created_by", "created_at")))
    experiment = sa.table("experiment", sa.column("project"), sa.column("spec", sa.JSON()))
    code = experiment.c.spec["code"].as_string()
    used = (
        sa.select(bundle.c.sha256, experiment.c.project, bundle.c.created_by, bundle.c.created_at)
        .join(experiment, code == sa.literal("sha256:") + bundle.c.sha256)
        .distinct()
    )
    unused = sa.select(bundle.c.sha256, sa.literal("default"), bundle.c.created_by, bundle.c.created_at)
    columns = ["sha256", "project", "created_by", "created_at"]
    target = sa.table("bundle_project", *map(sa.column, columns))
    op.execute(target.insert().from_select(columns, sa.union(used, unused)))


def downgrade() -> None:
    op.drop_table("bundle_project")
    op.drop_index("ix_audit_project_id", table_name="audit")
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_only_grows()")
    op.drop_index("ix_membership_member", table_name="membership")
    op.drop_table("membership")
    with op.batch_alter_table("token", schema=None) as batch_op:
        for name in ("last_used_at", "created_by", "role", "project", "label"):
            batch_op.drop_column(name)
