"""The tables. ARCHITECTURE.md says who may write which column, and under which fence."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Json = JSON()  # text on every database: jsonb would turn 1e20 into a whole number and sort the keys
_IS_OPEN = "outcome IS NULL"
_IS_UNRECORDED = "recorded_at IS NULL AND ended_at IS NOT NULL"
_IS_UNSETTLED = "outcome IS NOT NULL AND NOT is_settled"
BigId = BigInteger().with_variant(Integer(), "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC on every database; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would mean something else elsewhere."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """The root of all tables; constraints have fixed names so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: Json, list[Any]: Json}  # noqa: RUF012 - SQLAlchemy's


class ExperimentRow(Table):
    """A spec and its life. ``version`` equals the number of its events."""

    __tablename__ = "experiment"
    __table_args__ = (
        Index("ix_experiment_state_due_at", "state", "due_at"),
        Index("ix_experiment_created_at_id", "created_at", "id"),
        Index("ix_experiment_project_created_at", "project", "created_at"),
        Index("ix_experiment_state_created_at_id", "state", "created_at", "id"),
        Index("ix_experiment_project_name_created_at", "project", "name", "created_at"),
        Index("ix_experiment_project_state_created_at_id", "project", "state", "created_at", "id"),
        Index("ix_experiment_name_state_created_at_id", "name", "state", "created_at", "id"),
        Index("ix_experiment_queue", "state", "desired", "enqueued_at", "id", "version"),
        Index("ix_experiment_project_register_name", "project", "register_name"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    workload: Mapped[str] = mapped_column(String(300))
    spec: Mapped[dict[str, Any]]
    spec_hash: Mapped[str] = mapped_column(String(80))
    labels: Mapped[dict[str, Any]]
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    desired: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    waiting: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int]
    current_attempt_no: Mapped[int]

    priority: Mapped[int]
    workers: Mapped[int]
    cpus: Mapped[float]
    gpus: Mapped[float]
    wishes: Mapped[list[Any] | None]
    """Labels and alternatives of ``resources``, in order; null where there is nothing but the columns before."""
    is_preemptible: Mapped[bool] = mapped_column(server_default=false())
    max_runtime_s: Mapped[float] = mapped_column(server_default="86400")
    budget_cpu_hours: Mapped[float | None]
    budget_gpu_hours: Mapped[float | None]
    expected_s: Mapped[float | None]
    """Run time of earlier experiments like it; for estimates only."""
    spent_s: Mapped[float] = mapped_column(server_default="0")
    """Run time of its attempts that have ended."""
    enqueued_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]
    """When a human last let it go on after it was held: attempts that ended before count no more."""

    total_steps: Mapped[int | None]
    last_step: Mapped[int | None]
    metrics: Mapped[dict[str, Any]]

    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    mlflow_url: Mapped[str | None] = mapped_column(String(500))
    mlflow_version: Mapped[int]
    """The version of this row that MLflow has seen."""
    report_sha256: Mapped[str | None] = mapped_column(String(80))
    report_outcome: Mapped[str | None] = mapped_column(String(16))
    gates: Mapped[list[Any]]
    register_name: Mapped[str | None] = mapped_column(String(64))
    """Under which name its spec asks to register the model; null where it asks for nothing."""
    registration: Mapped[dict[str, Any] | None]
    sweep: Mapped[dict[str, Any] | None]
    """Of a sweep: its trials by state and which is best, as they are now."""
    derived_from: Mapped[str | None] = mapped_column(String(64))
    """The sweep whose trial it trains once more, or that it goes on from."""


class AttemptRow(Table):
    """One try at running an experiment. Open while ``outcome`` is null."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("experiment_id", "attempt_no"),
        Index("ix_attempt_cluster_outcome", "cluster", "outcome"),
        Index("ix_attempt_open", "id", sqlite_where=text(_IS_OPEN), postgresql_where=text(_IS_OPEN)),
        Index("ix_attempt_unsettled", "id", sqlite_where=text(_IS_UNSETTLED), postgresql_where=text(_IS_UNSETTLED)),
        Index("ix_attempt_ended_at", "ended_at"),
    )

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"))
    attempt_no: Mapped[int]
    cluster: Mapped[str] = mapped_column(ForeignKey("cluster.name"))
    runner_name: Mapped[str] = mapped_column(String(100), unique=True)
    storage_path: Mapped[str] = mapped_column(Text)
    workers: Mapped[int]
    cpus: Mapped[float]
    gpus: Mapped[float]
    created_at: Mapped[datetime]
    leased_at: Mapped[datetime | None]
    lease_epoch: Mapped[int]
    token_sha256: Mapped[str | None] = mapped_column(String(64))
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    ray_session: Mapped[str | None] = mapped_column(String(100))
    node_id: Mapped[str | None] = mapped_column(String(100))

    observation: Mapped[str] = mapped_column(String(16))
    observed_at: Mapped[datetime | None]
    """When it was leased, or last seen present."""
    observed_detail: Mapped[str] = mapped_column(Text)
    death_since: Mapped[datetime | None]
    """First of the sightings that make an absence evidence of death."""
    death_reason: Mapped[str] = mapped_column(Text)
    last_step: Mapped[int | None]
    stop_since: Mapped[datetime | None]
    """When its agent was first asked to stop it."""
    declared_lost_by: Mapped[str | None] = mapped_column(String(100))
    """The human who says that it is dead: evidence by word instead of by sight."""
    alternative: Mapped[int] = mapped_column(server_default="0")
    """Which of the wishes it got."""
    plan: Mapped[dict[str, Any] | None]
    """Workers by node id, as placement counted on; Ray may do otherwise."""
    trial_workers: Mapped[int | None]
    """Of a sweep: workers of one trial; it holds ``workers`` over these slots, and may come to hold more or fewer."""
    resized_at: Mapped[datetime | None]
    """When it last came to hold more or fewer."""
    shrunk_at: Mapped[datetime | None]
    cpu_s: Mapped[float] = mapped_column(server_default="0")
    """Seconds of one CPU that it had held when it was resized."""
    gpu_s: Mapped[float] = mapped_column(server_default="0")
    stop_mode: Mapped[str | None] = mapped_column(String(16))
    """Why the platform itself wants it stopped: ``preempt``, ``budget``."""
    stop_reason: Mapped[str | None] = mapped_column(Text)

    outcome: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    detail: Mapped[str] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None]
    result_sha256: Mapped[str | None] = mapped_column(String(80))
    is_settled: Mapped[bool]
    """Whether the experiment has moved on because of the outcome."""


class EventRow(Table):
    """What happened to an experiment; ``seq`` counts from 1 without gaps and never changes."""

    __tablename__ = "event"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(64))
    from_state: Mapped[str | None] = mapped_column(String(16))
    to_state: Mapped[str | None] = mapped_column(String(16))
    attempt_no: Mapped[int | None]
    actor: Mapped[str] = mapped_column(String(100))
    reason: Mapped[str] = mapped_column(Text)
    payload: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class CheckpointRow(Table):
    """A complete checkpoint that was made visible."""

    __tablename__ = "checkpoint"
    __table_args__ = (UniqueConstraint("experiment_id", "attempt_no", "step"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"))
    attempt_no: Mapped[int]
    step: Mapped[int]
    path: Mapped[str] = mapped_column(Text)
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    committed_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(16), server_default="committed")
    """``committed``; ``rejected``: a resume found it unusable; ``deleting``: no resume may use it; ``deleted``."""
    score: Mapped[float | None]
    """The metric by which the best are kept, as it was at this step."""


class TrialRow(Table):
    """One point of a sweep and what became of it."""

    __tablename__ = "trial"
    __table_args__ = (
        Index("ix_trial_experiment_id_state_no", "experiment_id", "state", "no"),
        Index("ix_trial_experiment_id_value", "experiment_id", "excess", "value", "no"),
        Index(
            "ix_trial_unrecorded",
            "experiment_id",
            "no",
            sqlite_where=text(_IS_UNRECORDED),
            postgresql_where=text(_IS_UNRECORDED),
        ),
    )

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"), primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt_no: Mapped[int]
    """Of the attempt that has run it last; of an inherited one 0."""
    state: Mapped[str] = mapped_column(String(16))
    origin: Mapped[str] = mapped_column(String(16))
    parent: Mapped[int | None]
    params: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(Text)
    detail: Mapped[str] = mapped_column(Text)
    values: Mapped[dict[str, Any]]
    """Of the metrics that objectives and constraints look at; what is not finite by its name."""
    metrics: Mapped[dict[str, Any]]
    curves: Mapped[dict[str, Any]]
    """By metric: [step, at_ms, value] each, thinned; the first objective's first."""
    value: Mapped[float | None]
    """Of the first objective; null where it is not finite or was never reported."""
    excess: Mapped[float | None]
    """How far it is beyond all constraints together: 0 where it keeps them, null where that is not known."""
    last_step: Mapped[int | None]
    tries: Mapped[int]
    """How often it was begun."""
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    checkpoint: Mapped[dict[str, Any] | None]
    """``CheckpointRef`` of the newest one that is kept."""
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    recorded_at: Mapped[datetime | None]
    """When MLflow was given all of it."""


class AmendmentRow(Table):
    """A change to a sweep that runs; it never changes itself."""

    __tablename__ = "amendment"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"), primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Counts from 1 within the sweep."""
    kind: Mapped[str] = mapped_column(String(16))
    payload: Mapped[dict[str, Any]]
    actor: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


class BatchRow(Table):
    """Metric points that wait for the recorder; offsets of a stream are contiguous."""

    __tablename__ = "batch"
    __table_args__ = (
        UniqueConstraint("attempt_id", "stream", "first_offset"),
        Index("ix_batch_recorded_at_id", "recorded_at", "id"),
        Index("ix_batch_folded_at_experiment_id", "folded_at", "experiment_id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempt.id"))
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"), index=True)
    stream: Mapped[str] = mapped_column(String(16))
    first_offset: Mapped[int] = mapped_column(BigInteger)
    next_offset: Mapped[int] = mapped_column(BigInteger)
    payload: Mapped[list[Any]]
    received_at: Mapped[datetime]
    recorded_at: Mapped[datetime | None]
    folded_at: Mapped[datetime | None]
    """When its points went into the down-sampled series."""


class StreamRow(Table):
    """Where the next batch of a stream must start."""

    __tablename__ = "stream"

    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempt.id"), primary_key=True)
    stream: Mapped[str] = mapped_column(String(16), primary_key=True)
    next_offset: Mapped[int] = mapped_column(BigInteger)


class SeriesRow(Table):
    """A down-sampled series of one metric: at most ``series.MAX_POINTS``, every ``stride``-th of all."""

    __tablename__ = "series"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(250), primary_key=True)
    stride: Mapped[int]
    seen: Mapped[int]
    points: Mapped[list[Any]]
    """[step, at_ms, value] each; a value that is not finite is its name."""


class ClusterRow(Table):
    """A Ray cluster, as its agent last described it."""

    __tablename__ = "cluster"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    agent_epoch: Mapped[int]
    agent_version: Mapped[str] = mapped_column(String(64))
    ray_version: Mapped[str] = mapped_column(String(64))
    ray_session: Mapped[str | None] = mapped_column(String(100))
    ray_session_since: Mapped[datetime | None]
    nodes: Mapped[list[Any]]
    last_sync_at: Mapped[datetime | None]
    labels: Mapped[dict[str, Any] | None]
    """What operators say of it, for specs to ask for: ``{"gpu": "h100"}``."""


class ExclusionRow(Table):
    """A node that gets no workers until an admin takes it in again; the row stays, since it says when that was."""

    __tablename__ = "exclusion"

    cluster: Mapped[str] = mapped_column(ForeignKey("cluster.name"), primary_key=True)
    node_id: Mapped[str] = mapped_column(String(100), primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(100), server_default="settle")
    """An admin, or the loop that judges nodes."""
    readmitted_at: Mapped[datetime | None]
    """Null: it is excluded."""


class ModelVersionRow(Table):
    """A model version that Fairlead registered in MLflow, as it was then; it never changes."""

    __tablename__ = "model_version"
    __table_args__ = (
        Index("ix_model_version_name_version", "name", "version"),
        Index("ix_model_version_registered_at_experiment_id", "registered_at", "experiment_id"),
        Index("ix_model_version_project_registered_at_experiment_id", "project", "registered_at", "experiment_id"),
    )

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiment.id"), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(20))
    alias: Mapped[str] = mapped_column(String(64))
    model_id: Mapped[str | None] = mapped_column(String(100))
    """MLflow's logged model behind it; null where a release before this table registered it, as is the run."""
    run_id: Mapped[str | None] = mapped_column(String(64))
    registered_at: Mapped[datetime]


class RegistryFlagRow(Table):
    """Something in MLflow's registry that is not what Fairlead registered; gone once it is mended."""

    __tablename__ = "registry_flag"
    __table_args__ = (Index("ix_registry_flag_project", "project"),)

    name: Mapped[str] = mapped_column(String(256), primary_key=True)
    version: Mapped[str] = mapped_column(String(20), primary_key=True)
    """Empty where it is about the model."""
    alias: Mapped[str] = mapped_column(String(256), primary_key=True)
    """Empty where it is about none."""
    code: Mapped[str] = mapped_column(String(32), primary_key=True)
    project: Mapped[str | None] = mapped_column(String(64))
    experiment_id: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    advice: Mapped[str] = mapped_column(Text)
    first_seen_at: Mapped[datetime]


class RegistryCheckRow(Table):
    """The last whole comparison with MLflow's registry; one row."""

    __tablename__ = "registry_check"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    checked_at: Mapped[datetime]
    versions: Mapped[int]
    """Versions of Fairlead's models that MLflow had."""


class ProjectRow(Table):
    """Who owns experiments, what they may hold at once, and what they have used. An absent quota is no limit."""

    __tablename__ = "project"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    weight: Mapped[float] = mapped_column(server_default="1")
    """Its share of what is there, beside the others' weights."""
    quota_workers: Mapped[int | None]
    quota_cpus: Mapped[float | None]
    quota_gpus: Mapped[float | None]
    quota_experiments: Mapped[int | None]
    """Those that hold resources at once."""
    used: Mapped[float] = mapped_column(server_default="0")
    """Decayed use as of ``used_at``, in seconds of one CPU; see ``fairlead.queueing``."""
    used_at: Mapped[datetime | None]


class TokenRow(Table):
    """A bearer token, of which only the hash is kept."""

    __tablename__ = "token"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(100))
    """Whom it speaks for: a member of projects, or an agent."""
    sha256: Mapped[str] = mapped_column(String(64))
    cluster: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    label: Mapped[str | None] = mapped_column(String(100))
    """What it is for, in its maker's words."""
    project: Mapped[str | None] = mapped_column(String(64))
    """The only project that it is good for; null: all of its member's."""
    role: Mapped[str] = mapped_column(String(16), server_default="admin")
    """The highest role that it is good for."""
    created_by: Mapped[str | None] = mapped_column(String(100))
    """Null: the server was set up with it."""
    last_used_at: Mapped[datetime | None]
    """To the minute: written at most that often."""


class MembershipRow(Table):
    """The role that a member has in a project, or, with ``rights.EVERYWHERE`` as its project, in all of them."""

    __tablename__ = "membership"
    __table_args__ = (Index("ix_membership_member", "member"),)

    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    member: Mapped[str] = mapped_column(String(100), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


class AuditRow(Table):
    """One write by a user, added in the transaction that made it. Triggers refuse to change or delete a row."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_project_id", "project", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(100))
    token_id: Mapped[str] = mapped_column(String(32))
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    """The operation, as the OpenAPI document calls it."""
    target: Mapped[str] = mapped_column(String(200))
    """What was written: a kind and a key, such as ``experiment/3f9c0a1b2c4d``."""
    project: Mapped[str | None] = mapped_column(String(64))
    before_sha256: Mapped[str | None] = mapped_column(String(64))
    """Of what users may write of the target; null: it was not there."""
    after_sha256: Mapped[str | None] = mapped_column(String(64))


class IdempotencyRow(Table):
    """The stored answer to a POST, replayed when its key comes back with the same body."""

    __tablename__ = "idempotency"

    principal: Mapped[str] = mapped_column(String(100), primary_key=True)
    route: Mapped[str] = mapped_column(String(200), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    headers: Mapped[dict[str, Any]]
    body: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime]


class BundleRow(Table):
    """An uploaded code bundle; its bytes lie on the shared storage."""

    __tablename__ = "bundle"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


class BundleProjectRow(Table):
    """A project that has uploaded a bundle: others neither run nor read it, even if they know its digest."""

    __tablename__ = "bundle_project"

    sha256: Mapped[str] = mapped_column(ForeignKey("bundle.sha256"), primary_key=True)
    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


class LeaseRow(Table):
    """Who runs the control loops. ``epoch`` grows with every change of hands."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(100))
    epoch: Mapped[int]
    expires_at: Mapped[datetime]
    renewals: Mapped[int] = mapped_column(BigInteger)


class WebhookEndpointRow(Table):
    """An address that wants to hear of events. Its secrets follow from its id and their numbers, and are not stored."""

    __tablename__ = "webhook_endpoint"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project: Mapped[str | None] = mapped_column(String(64))
    """Only events of this project; null: of all."""
    kinds: Mapped[list[Any]]
    """Kinds of events, or states that one moves to; empty: all."""
    url: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    """``active``; ``disabled``: nothing new is kept for it, and nothing is sent."""
    reason: Mapped[str] = mapped_column(Text)
    """Why it is disabled."""
    version: Mapped[int]
    secret_no: Mapped[int]
    old_secret_until: Mapped[datetime | None]
    """Until when the secret before it signs as well."""
    failing_since: Mapped[datetime | None]
    """The first failure after the last success."""
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class OutboxRow(Table):
    """A message on its way to one endpoint, written in the transaction of its event."""

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("endpoint_id", "message_id"),
        Index("ix_outbox_endpoint_id_state_due_at", "endpoint_id", "state", "due_at"),
        Index("ix_outbox_state_created_at", "state", "created_at"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoint.id", ondelete="CASCADE"))
    message_id: Mapped[str] = mapped_column(String(120))
    """The same however often it is sent, to whichever endpoint: receivers know by it what they have."""
    kind: Mapped[str] = mapped_column(String(64))
    experiment_id: Mapped[str | None] = mapped_column(ForeignKey("experiment.id"))
    seq: Mapped[int | None]
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    """``pending``, ``delivered``, or ``failed`` after the last try."""
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    tries: Mapped[int]
    delivered_at: Mapped[datetime | None]
    lock_token: Mapped[str | None] = mapped_column(String(32))
    lock_expires_at: Mapped[datetime | None]


class DeliveryRow(Table):
    """One try to deliver a message."""

    __tablename__ = "delivery"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    outbox_id: Mapped[int] = mapped_column(ForeignKey("outbox.id", ondelete="CASCADE"), index=True)
    at: Mapped[datetime]
    status: Mapped[int | None]
    """What was answered; null: nothing was."""
    error: Mapped[str] = mapped_column(Text)
    took_ms: Mapped[int]
