"""What the REST API answers: the API writes these documents, the SDK and the CLI read them.

A client reads them by ``protocol.from_answer``, which leaves out the keys of a newer server, those of a spec included.
"""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fairlead.lifecycle import Desired, Observation, Outcome, State
from fairlead.protocol import Number
from fairlead.rights import Role
from fairlead.search.trials import TrialState
from fairlead.spec import Document, ExperimentSpec, Label, Manifest, Name
from fairlead.spec.search import MOST_TRIALS

T = TypeVar("T")
MemberName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]


class Representation(BaseModel):
    """A frozen answer; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class ProblemView(Representation):
    """One offending field of a refused document."""

    pointer: str
    message: str
    suggestion: str | None = None


class OverrideView(Representation):
    """A signed word of a person who lets a model pass a gate that it has not passed."""

    experiment: str
    gate: str
    outcome: str
    """What it overrides: ``fail`` or ``inconclusive``. That stays what is shown."""
    report_sha256: str
    by: str
    role: str
    reason: str
    at: str
    """ISO 8601, with the very letters that were signed."""
    expires_at: str | None = None
    """When somebody must look again; nothing happens by itself."""
    signature: dict[str, str]
    """Ed25519 over the other fields, as of a report."""


class GateOverride(Document):
    """Why a model may pass a gate that it has not passed."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, max_length=2000)]
    """For those who ask later: it is signed with your name."""
    expires_at: AwareDatetime | None = None
    """When somebody must look again."""


class ChampionView(Representation):
    """The champion that a gate holds a model against, on the same rows."""

    experiment: str | None = None
    name: str | None = None
    """Of the registered model."""
    version: str | None = None
    """Absent: MLflow has not given it one yet."""
    alias: str | None = None
    column: str | None = None
    """Which held its predictions, where these were made elsewhere."""
    of_model: float | None = None
    """The model's own value of the metric."""
    of_champion: float | None = None
    why_not_compared: str | None = None

    @property
    def who(self) -> str:
        """In words; empty where there is none."""
        if self.column is not None:
            return f"column {self.column}"
        if self.experiment is None:
            return ""
        version = f"version {self.version}" if self.version else "(being registered)"
        return f"{self.name} {version}, experiment {self.experiment}"

    @property
    def values(self) -> str:
        """Of both, in words; empty where there are none."""
        if self.of_model is None or self.of_champion is None:
            return ""
        return f"this model {self.of_model:.4f}, champion {self.of_champion:.4f}"


class GateView(Representation):
    """A gate and what became of it."""

    id: str
    metric: str
    by: tuple[str, ...] = ()
    require: str
    evidence: str
    condition: str | None = None
    """The probe whose counts it looks at; absent: the rows as they are."""
    within: tuple[str, ...] = ()
    """Attributes within whose strata groups are compared; empty: over all rows."""
    outcome: str
    """``pass``, ``fail`` or ``inconclusive``."""
    value: float | None = None
    bound: float | None = None
    why: str = ""
    rows_needed_per_group: int | None = None
    champion: ChampionView | None = None
    """Whom ``require`` means by ``champion``: value and bound are then the model's value less the champion's. Absent:
    the limit is a number."""
    override: OverrideView | None = None


class RegistrationView(Representation):
    """Whether a model version was registered, and if not, why."""

    is_registered: bool
    is_pending: bool = False
    """Decided, but MLflow has not answered yet."""
    name: str | None = None
    version: str | None = None
    alias: str | None = None
    reason: str = ""


class AttemptView(Representation):
    """One try at running an experiment."""

    attempt_no: int
    cluster: str
    observation: Observation
    outcome: Outcome | None = None
    reason: str = ""
    detail: str = ""
    last_step: int | None = None
    created_at: datetime
    leased_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    declared_lost_by: str | None = None
    """Who said that it is dead, where nobody could see it."""


class LossDeclaration(Document):
    """A human's word that an attempt is dead, or that a cluster is gone with all its attempts."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    """Why you know: it becomes an event."""
    force: bool = False
    """Even though its agent sees it at work."""


class ClusterView(Representation):
    """A Ray cluster as its agent last described it."""

    name: str
    state: str
    """``active``, or ``draining``, ``suspect`` or ``retired``: then it gets no offers."""
    why: str | None = None
    """Why it gets no offers."""
    is_agent_fresh: bool
    last_sync_at: datetime | None = None
    nodes: int = 0
    """Those that live."""
    nodes_excluded: int = 0
    """Those of them that get no workers."""
    cpus: float = 0
    gpus: float = 0
    cpus_in_use: float = 0
    """Held by open attempts."""
    gpus_in_use: float = 0
    open_attempts: int = 0
    agent_version: str = ""
    ray_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    """What operators say of it, for specs to ask for: ``{"gpu": "h100"}``."""


class NodeView(Representation):
    """One node of a cluster as its agent last described it, and whether it gets workers."""

    cluster: str
    node_id: str
    """Ray's own; a node that is started again comes under another one."""
    address: str = ""
    """Told to those who may see all projects."""
    is_alive: bool
    cpus: float = 0
    gpus: float = 0
    is_excluded: bool = False
    """It gets no workers until it is readmitted; what runs there goes on."""
    why: str = ""
    """Why it is excluded."""
    excluded_by: str | None = None
    """An admin; or ``settle``, the loop that excludes nodes on which one experiment after the other dies."""
    excluded_at: datetime | None = None


class NodeExclusion(Document):
    """An admin's word that a node is to get no more workers."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    """Why: everybody who sees the cluster may read it."""


class ClusterChange(Document):
    """Labels to set; null takes one away, what is absent stays."""

    labels: dict[Name, Label | None] = Field(max_length=20)


class MetricPointView(Representation):
    """One value of one metric; null where it is NaN or infinite, which ``flag`` then names."""

    step: int
    at_ms: int
    value: float | None
    flag: str | None = None


class SweepView(Representation):
    """How a sweep stands."""

    trials: int = 0
    """Asked for, with those that amendments have added; inherited ones do not count."""
    ended: int = 0
    """Of them."""
    counts: dict[TrialState, int] = Field(default_factory=dict)
    """By state, inherited ones included."""
    best: int | None = None
    """Of one objective: the best trial that keeps all constraints."""
    front: tuple[int, ...] = ()
    """Of several: those that none beats, that keep all constraints."""
    nearest: int | None = None
    """While none keeps all constraints: the one that is least far beyond them."""
    value: float | None = None
    """Of the best, for the objective."""
    ended_because: str = ""
    """Once it has ended: ``trials``, ``grid``, ``plateau``, ``hours``, ``budget`` or ``finished``."""
    importance: dict[str, Number] = Field(default_factory=dict)
    """By parameter: its share of the first objective's spread, once that is known."""


class TrialView(Representation):
    """One point of a sweep and what became of it."""

    no: int
    state: TrialState
    origin: str = "proposed"
    """``proposed``, ``enqueued`` by hand, or ``inherited`` from an earlier sweep."""
    parent: int | None = None
    """The trial from whose checkpoint it began."""
    attempt_no: int = 0
    """The attempt that has run it last; 0: it is inherited."""
    params: dict[str, Any] = Field(default_factory=dict)
    values: dict[str, Number | None] = Field(default_factory=dict)
    """Of the metrics that objectives and constraints look at; null where not finite (named in ``non_finite``)."""
    non_finite: dict[str, str] = Field(default_factory=dict)
    excess: float | None = None
    """How far it is beyond all constraints together: 0 where it keeps them; null: not known."""
    reason: str = ""
    last_step: int | None = None
    tries: int = 1
    has_checkpoint: bool = False
    """Whether it can be promoted as it is."""
    started_at: datetime | None = None
    ended_at: datetime | None = None


class TrialDetail(TrialView):
    """A trial with all its metrics and their courses."""

    detail: str = ""
    """Why it failed, for people."""
    metrics: dict[str, Number | None] = Field(default_factory=dict)
    """Last values; null where not finite."""
    curves: dict[str, tuple[MetricPointView, ...]] = Field(default_factory=dict)
    """Thinned; the first objective's first."""
    links: dict[str, str] = Field(default_factory=dict)


class AmendmentView(Representation):
    """A change to a sweep that runs; it never changes itself."""

    no: int
    """Counts from 1 within the sweep."""
    kind: str
    """``add_trials``, ``concurrency``, ``priority``, ``enqueue``, ``stop_trial`` or ``finish``."""
    actor: str
    payload: dict[str, Any] = Field(default_factory=dict)
    at: datetime


class SweepChange(Document):
    """A change to a sweep that runs: exactly one of these."""

    add_trials: int | None = Field(default=None, ge=1, le=MOST_TRIALS)
    """So many more."""
    concurrency: int | None = Field(default=None, ge=1, le=4096)
    """Trials at a time, at most; never more than it holds resources for."""
    priority: int | None = Field(default=None, ge=0, le=100)
    enqueue: dict[str, Any] | None = Field(default=None, max_length=200)
    """The point of a trial that is begun next: a value for each parameter that is looked for."""
    stop_trial: int | None = Field(default=None, ge=0)
    """The number of one that runs; it ends as ``pruned``."""
    finish: Literal[True] | None = None
    """Begin no more trials, let those that run end, and keep the best."""

    @model_validator(mode="after")
    def _is_one_change(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        """Which one."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


class Promotion(Document):
    """Which trial of a sweep is to become a model, and how."""

    trial: int | None = Field(default=None, ge=0)
    """Absent: the best. Of several objectives one must be named."""
    take: bool | None = None
    """Whether its last checkpoint is taken as it is, and only evaluated; otherwise it is trained once more. Absent:
    taken where it has one."""
    name: Name | None = None
    """Of the new experiment; absent: as the sweep's."""


class Extension(Document):
    """How much further an ended sweep is to go."""

    trials: int = Field(ge=1, le=MOST_TRIALS)
    """So many new ones."""


class ExperimentView(Representation):
    """An experiment as it is now. ``version`` is also its ETag."""

    id: str
    name: str
    project: str
    workload: str
    state: State
    desired: Desired
    reason: str
    """Why it is in this state."""
    waiting: str | None = None
    """While it waits: what for."""
    version: int
    priority: int
    spec_hash: str
    created_at: datetime
    updated_at: datetime
    released_at: datetime | None = None
    """When a human last let it go on after it was held."""
    attempt_no: int = 0
    last_step: int | None = None
    total_steps: int | None = None
    metrics: dict[str, Number | None] = Field(default_factory=dict)
    """Last value of each metric; null where it is NaN or infinite (named in ``non_finite``)."""
    non_finite: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    report_outcome: str | None = None
    gates: tuple[GateView, ...] = ()
    registration: RegistrationView | None = None
    sweep: SweepView | None = None
    """Of a sweep: how it stands."""
    derived_from: str | None = None
    """The sweep whose trial it promotes, or that it goes on from."""
    links: dict[str, str] = Field(default_factory=dict)


class ExperimentDetail(ExperimentView):
    """An experiment with its spec and its attempts."""

    spec: ExperimentSpec
    attempts: tuple[AttemptView, ...] = ()


class EventView(Representation):
    """One entry of an experiment's log; ``seq`` counts from 1 without gaps."""

    seq: int
    kind: str
    from_state: State | None = None
    to_state: State | None = None
    attempt_no: int | None = None
    actor: str
    reason: str = ""
    payload: dict[str, Any] = Field(default_factory=dict)
    at: datetime


class Page(Representation, Generic[T]):
    """Some of many: ``next`` is the address of what follows."""

    items: tuple[T, ...]
    next: str | None = None


class RegistryFlagView(Representation):
    """Something in MLflow's registry that is not what Fairlead registered."""

    code: str
    """``unregistered_version``, ``hash_mismatch``, ...; docs/operations.md has them all."""
    level: str
    """``error``: do not believe what the registry says; ``warning``: it may be meant so; ``notice``: told, no more."""
    name: str
    version: str | None = None
    """Absent where it is about the model."""
    alias: str | None = None
    project: str | None = None
    """Whose model it is; absent where Fairlead never registered one of that name."""
    experiment_id: str | None = None
    """The experiment that registered the version, or set the alias, where one did."""
    message: str
    advice: str
    """What to do next."""
    first_seen_at: datetime


class RegistryFlagsView(Representation):
    """What differs in MLflow's registry now, as far as the caller may see it."""

    checked_at: datetime | None = None
    """When all was last compared; absent: never yet, so that no flag means nothing."""
    items: tuple[RegistryFlagView, ...] = ()


class ModelVersionView(Representation):
    """A model version that was registered through the gates, and what is wrong with it in MLflow."""

    name: str
    version: str
    alias: str
    """What it was given when it was registered; another version may have it now."""
    project: str
    experiment_id: str
    registered_at: datetime
    report_sha256: str | None = None
    report_outcome: str | None = None
    overridden: tuple[str, ...] = ()
    """Gates that somebody let it pass."""
    flags: tuple[RegistryFlagView, ...] = ()


class MetricsView(Representation):
    """Last values, or the down-sampled series of some metrics."""

    last: dict[str, Number | None] = Field(default_factory=dict)
    non_finite: dict[str, str] = Field(default_factory=dict)
    series: dict[str, tuple[MetricPointView, ...]] = Field(default_factory=dict)


class QuotaView(Representation):
    """What a project may hold at once, what it holds, and what it has used. An absent limit is none."""

    project: str
    weight: float
    """Its share of what is there, beside the weights of the others."""
    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    experiments: int | None = None
    """Those that hold resources at once."""
    workers_held: int = 0
    cpus_held: float = 0
    gpus_held: float = 0
    experiments_held: int = 0
    used_cpu_hours: float = 0
    """Recent use: halved with every half-life, a GPU counting as 16 CPUs. Less use goes first."""


class QuotaChange(Document):
    """Limits to set; null takes one away, what is absent stays."""

    weight: float | None = Field(default=None, gt=0, le=1e6)
    workers: int | None = Field(default=None, ge=0, le=10**9)
    cpus: float | None = Field(default=None, ge=0, le=1e9)
    gpus: float | None = Field(default=None, ge=0, le=1e9)
    experiments: int | None = Field(default=None, ge=0, le=10**9)


class QueueEntryView(Representation):
    """An experiment in the queue. ``position`` counts from 1 over all projects."""

    position: int
    id: str
    name: str
    project: str
    priority: int
    workers: int
    cpus: float
    gpus: float
    enqueued_at: datetime
    waiting: str | None = None
    estimated_start_at: datetime | None = None
    basis: str = ""
    """What the estimate rests on, or why there is none."""


class QueueView(Representation):
    """The queue in the order in which experiments may go, as it was at ``as_of``."""

    as_of: datetime
    total: int
    """All that wait, of all projects."""
    items: tuple[QueueEntryView, ...]
    next: str | None = None


class WhyView(Representation):
    """Why an experiment is not running, and when it might."""

    id: str
    state: State
    desired: Desired
    is_waiting: bool
    reason: str
    """Admission, queue or placement, in words and numbers."""
    code: str
    """The reason's name, for programs: ``quota_in_use``, ``behind_others``."""
    position: int | None = None
    total: int | None = None
    ahead: tuple[str, ...] = ()
    """The next few that go first, the nearest last."""
    estimated_start_at: datetime | None = None
    basis: str = ""
    quota: QuotaView | None = None


class PlanView(Representation):
    """What would become of a spec. Nothing is stored."""

    is_valid: bool
    problems: tuple[ProblemView, ...] = ()
    warnings: tuple[str, ...] = ()
    fits: bool = False
    why: str = ""
    """Where it would run, or what it would wait for."""
    ahead: int = 0
    """Experiments that would go first."""
    ahead_ids: tuple[str, ...] = ()
    """The next few of them, the nearest last."""
    position: int | None = None
    """Its place in the queue, from 1."""
    code: str = ""
    """Why it would wait, for programs: ``quota_in_use``, ``no_cluster_fits``; empty where it fits."""
    cluster: str | None = None
    nodes: dict[str, int] = Field(default_factory=dict)
    """Workers by node, as placement would count on."""
    alternative: int | None = None
    """Which of the wishes it would get: 0 is ``resources`` itself, then ``any_of`` in order."""
    slots: int | None = None
    """Of a sweep: trials at a time with which it would begin."""
    estimated_start_at: datetime | None = None
    basis: str = ""
    """What the estimate rests on, or why there is none."""
    cpus: float = 0
    gpus: float = 0
    spec: ExperimentSpec | None = None
    """The spec with all defaults written out."""
    spec_hash: str | None = None


class LinkView(Representation):
    """An address that opens one page without a token until it expires."""

    url: str
    expires_at: datetime


EventName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]


class WebhookRequest(Document):
    """An address that wants to hear of events."""

    url: str
    """``https`` only. What its name means is looked up, and judged, at every call."""
    project: Name | None = None
    """Only events of this project; absent: of all."""
    kinds: Annotated[tuple[EventName, ...], Field(max_length=50)] = ()
    """Kinds of events, or states that one moves to, such as ``failed``; empty: all."""
    description: Annotated[str, StringConstraints(max_length=500)] = ""


class WebhookChange(Document):
    """What is to be different; what is absent stays."""

    url: str | None = None
    kinds: Annotated[tuple[EventName, ...], Field(max_length=50)] | None = None
    description: Annotated[str, StringConstraints(max_length=500)] | None = None
    is_enabled: bool | None = None
    """False: nothing new is kept for it, and nothing is sent. True: what waits is sent at once."""


class RotateRequest(Document):
    """How long the secret before goes on to sign as well."""

    keep_old_s: Annotated[int, Field(ge=0, le=7 * 86_400)] = 86_400


class ReplayRequest(Document):
    """What is to be sent once more: exactly one of messages, all that failed, or a range of time."""

    messages: Annotated[tuple[Annotated[str, StringConstraints(max_length=120)], ...], Field(max_length=500)] = ()
    """Their ids."""
    failed: bool = False
    """All that were given up."""
    since: AwareDatetime | None = None
    """Every event from then on, also those that were never sent."""
    until: AwareDatetime | None = None
    """With ``since``: only events before; absent: until now."""

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if bool(self.messages) + self.failed + (self.since is not None) != 1:
            raise ValueError("choose by exactly one of messages, failed and since")
        if self.until is not None and self.since is None:
            raise ValueError("until needs since")
        return self


class WebhookView(Representation):
    """An endpoint as it is now. ``version`` is also its ETag. Its secrets are shown when they are made, never here."""

    id: str
    url: str
    project: str | None = None
    kinds: tuple[str, ...] = ()
    description: str = ""
    state: str
    """``active`` or ``disabled``."""
    reason: str = ""
    """Why it is disabled."""
    version: int
    failing_since: datetime | None = None
    """The first failure after its last success."""
    old_secret_until: datetime | None = None
    """Until when the secret before signs as well."""
    created_by: str
    created_at: datetime
    updated_at: datetime


class WebhookWithSecret(WebhookView):
    """The same with its newest secret, this once."""

    secret: str
    """``whsec_<base64>``, as Standard Webhooks' libraries take it."""


class TryView(Representation):
    """One request of a delivery."""

    at: datetime
    status: int | None = None
    """What was answered; null: nothing was."""
    error: str = ""
    took_ms: int


class DeliveryView(Representation):
    """A message and how far it has come."""

    message_id: str
    """Its ``webhook-id``, the same at every try."""
    kind: str
    experiment_id: str | None = None
    seq: int | None = None
    state: str
    """``pending``, ``delivered``, or ``failed`` after the last try."""
    created_at: datetime
    due_at: datetime | None = None
    """When it is sent next, while it is pending."""
    delivered_at: datetime | None = None
    tries: tuple[TryView, ...] = ()


class ReplayView(Representation):
    """How many messages will be sent once more."""

    messages: int
    next_since: datetime | None = None
    """Where to go on, if there were more than one call takes."""


class WorkloadView(Representation):
    """A workload and its manifest."""

    name: str
    title: str
    manifest: Manifest


ProfileName = Literal["four_fifths", "nyc_ll144", "eu_ai_act_annex_iv", "model_card", "cyclonedx"]
"""Layouts of a report, as ``fairlead.evaluation.profiles`` makes them."""


class ReportKeyView(Representation):
    """What verifies the signatures of this server's reports."""

    alg: str
    key_id: str
    public_key: str
    """32 bytes in base64 (RFC 8032)."""


class VersionView(Representation):
    """What is running."""

    version: str
    protocol: int
    schema_revision: str
    mlflow_url: str
    report_key: ReportKeyView | None = None
    """None from servers of before reports were signed."""


class BundleView(Representation):
    """A stored code bundle."""

    sha256: str
    size: int
    is_new: bool


class WhoAmI(Representation):
    """The bearer of the token, and what it may do."""

    kind: str
    name: str
    token_id: str = ""
    expires_at: datetime | None = None
    everywhere: Role | None = None
    """The role in all projects, those to come included."""
    projects: dict[str, Role] = Field(default_factory=dict)
    """The role in each project that is named by itself."""


class TokenRequest(Document):
    """A token to be made. It reaches no further and lives no longer than the token that asks for it."""

    kind: Literal["user", "agent"] = "user"
    name: MemberName | None = None
    """The member that it speaks for; absent: whoever asks. Of an agent: any name."""
    label: Annotated[str, StringConstraints(max_length=100)] = ""
    """What it is for, to find it again."""
    project: Name | None = None
    """The only project that it is good for; absent: all of the member's."""
    role: Role | None = None
    """The highest role that it is good for; absent: as high as the token that asks for it."""
    cluster: Name | None = None
    """The cluster of an agent."""
    lifetime_days: float | None = Field(default=None, gt=0, le=3650)
    """Absent: as long as the token that asks for it."""

    @model_validator(mode="after")
    def _agents_have_a_cluster(self) -> Self:
        if (self.kind == "agent") != (self.cluster is not None):
            raise ValueError("an agent's token names its cluster, a user's token names none")
        return self


class TokenView(Representation):
    """A token without its secret."""

    id: str
    kind: str
    name: str
    label: str = ""
    project: str | None = None
    role: Role
    cluster: str | None = None
    created_by: str = ""
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    """To the minute."""
    revoked_at: datetime | None = None


class NewTokenView(TokenView):
    """A token with its secret, which is shown this once."""

    token: str


class MembershipRequest(Document):
    """The role that a member is to have."""

    role: Role


class MembershipView(Representation):
    """A member of a project, or, with ``*`` as its project, of all of them."""

    project: str
    member: str
    role: Role
    created_by: str = ""
    created_at: datetime


class ProjectView(Representation):
    """A project, and the caller's role in it."""

    name: str
    created_at: datetime | None = None
    role: Role


class AuditView(Representation):
    """One write by a user. Digests are of what users may write of the target; null: it was not there."""

    id: int
    at: datetime
    actor: str
    token_id: str = ""
    address: str = ""
    request_id: str = ""
    action: str
    """The operation, as the OpenAPI document calls it."""
    target: str
    project: str | None = None
    before_sha256: str | None = None
    after_sha256: str | None = None
