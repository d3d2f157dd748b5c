"""The document a user writes: one experiment."""

import hashlib
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StrictInt, StringConstraints, field_validator, model_validator

from fairlead.spec.data import NO_DATA, DataSpec
from fairlead.spec.document import Document, Name, ParameterName, unfit
from fairlead.spec.energy import EnergySpec
from fairlead.spec.environment import EnvironmentSpec
from fairlead.spec.evaluation import EvaluationSpec, GateSpec, refuse_undeclared
from fairlead.spec.mitigation import MitigationSpec
from fairlead.spec.predictions import ColumnsSpec, PredictionsSpec, compared, refuse_strangers
from fairlead.spec.privacy import PrivacySpec
from fairlead.spec.probes import ProbesSpec
from fairlead.spec.search import SearchSpec

SIGNALS = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGKILL", "SIGSEGV", "SIGTERM")
EVALUATION = "evaluation"
"""The workload of an experiment that trains nothing and counts predictions made elsewhere."""
WorkloadName = Annotated[
    str,
    StringConstraints(max_length=300, pattern=r"^([a-z][a-z0-9_]*|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """One way to run it, whole: all of it on one cluster that carries ``labels``."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    labels: tuple[tuple[str, str], ...] = ()
    trials: int = 0
    """Of a sweep: trials at a time, to which the workers belong in equal parts; 0 of what is none."""

    @property
    def is_least(self) -> bool:
        """Whether there is no smaller way to run it: where a sweep cannot train one trial, it cannot train any."""
        return self.trials <= 1

    @property
    def cpus(self) -> float:
        """All CPUs together."""
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """All GPUs together."""
        return self.workers * self.gpus_per_worker


Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class AlternativeSpec(Document):
    """Another way to run it; what is absent is as in ``resources``."""

    workers: int | None = Field(default=None, ge=1, le=4096)
    cpus_per_worker: float | None = Field(default=None, gt=0, le=1024)
    gpus_per_worker: float | None = Field(default=None, ge=0, le=64)
    labels: dict[Name, Label] | None = Field(default=None, max_length=10)


class ResourcesSpec(Document):
    """How many workers train one model, and what each of them holds."""

    workers: int = Field(default=1, ge=1, le=4096)
    """Data-parallel ranks. ``batch_size`` of our workloads is the global one, shared among them."""
    cpus_per_worker: float = Field(default=1, gt=0, le=1024)
    gpus_per_worker: float = Field(default=0, ge=0, le=64)
    strategy: Literal["ddp"] = "ddp"
    labels: dict[Name, Label] = Field(default_factory=dict, max_length=10)
    """What the cluster must carry; its operator says what it does: ``{gpu: h100}``."""
    any_of: tuple[AlternativeSpec, ...] = Field(default=(), max_length=8)
    """Other ways that will do as well, tried in this order where the first is not free."""

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """All ways that will do, the preferred one first."""
        return (self._wish(AlternativeSpec()), *(self._wish(other) for other in self.any_of))

    def _wish(self, other: AlternativeSpec) -> Wish:
        labels = self.labels if other.labels is None else other.labels
        return Wish(
            workers=self.workers if other.workers is None else other.workers,
            cpus_per_worker=self.cpus_per_worker if other.cpus_per_worker is None else other.cpus_per_worker,
            gpus_per_worker=self.gpus_per_worker if other.gpus_per_worker is None else other.gpus_per_worker,
            labels=tuple(sorted(labels.items())),
        )

    def chosen(self, index: int) -> "ResourcesSpec":
        """These resources with the wish of that number in the place of the first."""
        wish = self.wishes[index]
        return self.amended(
            workers=wish.workers,
            cpus_per_worker=wish.cpus_per_worker,
            gpus_per_worker=wish.gpus_per_worker,
            labels=dict(wish.labels),
            any_of=(),
        )

    @property
    def cpus(self) -> float:
        """All CPUs together."""
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """All GPUs together."""
        return self.workers * self.gpus_per_worker


class RetriesSpec(Document):
    """New attempts allowed, by what ended the last one."""

    infra: int = Field(default=5, ge=0, le=100)
    oom: int = Field(default=1, ge=0, le=100)
    stalled: int = Field(default=1, ge=0, le=100)
    user_error: int = Field(default=0, ge=0, le=100)


class CheckpointsSpec(Document):
    """Which checkpoints are kept; older ones are deleted while the experiment goes on."""

    keep_last: int = Field(default=2, ge=1, le=10_000)
    """The newest so many."""
    keep_best: int = Field(default=1, ge=0, le=10_000)
    """And so many with the best ``metric``."""
    metric: Annotated[str, StringConstraints(min_length=1, max_length=250)] | None = None
    """A reported metric, by its last value before the checkpoint. Absent: none counts as best."""
    mode: Literal["min", "max"] = "min"


class RuleSpec(Document):
    """What an error means for this workload: it replaces the platform's own judgement of a failed attempt.

    It looks at how a rank ended its process (``exit_code``), or at what the ranks printed last (``log``).
    """

    exit_code: Annotated[StrictInt, Field(ge=0, le=255)] | Literal[SIGNALS] | None = None  # type: ignore[valid-type]
    """``75``, or a signal's name, ``SIGSEGV``, or the 139 that shells make of it."""
    log: Annotated[str, StringConstraints(min_length=3, max_length=200)] | None = None
    """Plain text that one line holds; ``*`` stands for any text between. Looked for in the last 64 KiB of each rank."""
    then: Literal["infra_error", "user_error", "oom", "stalled", "retry", "fail"]
    """The outcome that it becomes, charged to that budget; ``retry`` is ``infra_error``, ``fail`` is never retried."""
    note: Annotated[str, StringConstraints(max_length=200)] = ""
    """For people; it stands in the attempt's reason."""

    @field_validator("log")
    @classmethod
    def _says_something(cls, log: str | None) -> str | None:
        if log is not None and ("\n" in log or len(log.replace("*", "").strip()) < 3):
            raise ValueError("a pattern is one line with at least three characters besides '*'")
        return log

    @model_validator(mode="after")
    def _looks_at_one_thing(self) -> Self:
        if (self.exit_code is None) is (self.log is None):
            raise ValueError("a rule has either exit_code or log")
        return self

    @property
    def code(self) -> int | None:
        """The exit code, with signals as shells count them: 128 and the signal's number."""
        return 128 + signal.Signals[self.exit_code] if isinstance(self.exit_code, str) else self.exit_code

    def matches(self, line: str) -> bool:
        """Whether ``line`` holds the pattern. Takes time in proportion to the line, whatever the pattern is."""
        position = 0
        for part in (self.log or "").split("*"):
            found = line.find(part, position)
            if found < 0:
                return False
            position = found + len(part)
        return self.log is not None


class PolicySpec(Document):
    """Limits, and what to do when something breaks."""

    priority: int = Field(default=50, ge=0, le=100)
    """Higher goes first."""
    preemptible: bool = False
    """Whether it may be stopped for one of higher priority: at its last checkpoint, and back to its old place."""
    max_runtime_s: float = Field(default=86_400, gt=0)
    """Run time over all attempts together."""
    stall_timeout_s: float = Field(default=600, gt=0)
    """Time without a reported step after which an attempt is stopped."""
    idle_limit_s: float | None = Field(default=None, ge=60, exclude_if=lambda value: value is None)  # as mitigation
    """Time after which workers are stopped that hold resources and do nothing: all use less than 5 % of a CPU each.
    Absent: they may. The attempt ends as ``over_budget`` and is not tried again; its last checkpoint stays."""
    retries: RetriesSpec = RetriesSpec()
    rules: tuple[RuleSpec, ...] = Field(default=(), max_length=20)
    """What errors of this workload mean; the first that matches counts."""
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    keep_alive_s: float = Field(default=0, ge=0, le=3600)
    """After an error, a stall or a lack of memory, how long the processes stay for a look; a cancel ends them."""


class BudgetSpec(Document):
    """What it may use up over all attempts; it is then stopped at its last checkpoint and fails as ``over_budget``."""

    cpu_hours: float | None = Field(default=None, gt=0, le=1e9)
    gpu_hours: float | None = Field(default=None, gt=0, le=1e9)


class TrialRef(Document):
    """One trial of a sweep."""

    experiment: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    trial: int = Field(ge=0)


class RegisterSpec(Document):
    """Where a model that passes its gates goes."""

    name: Name
    alias: Name = "candidate"


class ExperimentSpec(Document):
    """One experiment: what to train, on what, with what, and what the result must prove.

    Or, with ``predictions``, an evaluation: what a model made elsewhere said, and what that must prove.
    """

    name: Name
    project: Name = "default"
    workload: WorkloadName
    """A built-in workload, or ``package.module:function`` of your own code; ``evaluation`` trains nothing."""
    code: Annotated[str, StringConstraints(max_length=1000)] | None = None
    """A directory beside the spec that is uploaded by content hash; stored as ``sha256:<hex>``."""
    environment: EnvironmentSpec | None = Field(default=None, exclude_if=lambda value: value is None)  # as mitigation
    params: dict[ParameterName, Any] = Field(default_factory=dict)
    # As mitigation: left out where there are none.
    data: DataSpec = Field(default_factory=lambda: NO_DATA, exclude_if=lambda data: not data.is_there)
    """Absent: the workload, one of your own, reads its data itself, and the platform evaluates nothing."""
    resources: ResourcesSpec = ResourcesSpec()
    # Left out where there is none: specs without it keep their hashes, and agents of older releases can read them.
    predictions: ColumnsSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of an ``evaluation``: which column of the file at ``data.uri`` is what. Of ``data`` nothing else may be said."""
    mitigation: MitigationSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    energy: EnergySpec | None = Field(default=None, exclude_if=lambda value: value is None)  # as mitigation
    privacy: PrivacySpec | None = Field(default=None, exclude_if=lambda value: value is None)  # as mitigation
    search: SearchSpec | None = Field(default=None, exclude_if=lambda value: value is None)  # as mitigation
    """Makes it a sweep: it trains many times, a trial each, judged on the validation split."""
    start_from: TrialRef | None = Field(default=None, exclude_if=lambda value: value is None)  # as mitigation
    """A finished trial whose last checkpoint it goes on from: with the same parameters it only evaluates."""
    evaluation: EvaluationSpec = EvaluationSpec()
    probes: ProbesSpec | None = Field(default=None, exclude_if=lambda value: value is None)  # as mitigation
    gates: tuple[GateSpec, ...] = Field(default=(), max_length=100)
    register_as: RegisterSpec | None = Field(default=None, alias="register")
    policy: PolicySpec = PolicySpec()
    budget: BudgetSpec = BudgetSpec()
    seed: int = Field(default=0, ge=0, lt=2**32)
    labels: dict[Name, Annotated[str, StringConstraints(max_length=200)]] = Field(default_factory=dict)
    """Free words for finding it again; they become tags."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    @field_validator("params")
    @classmethod
    def _is_json(cls, params: dict[str, Any]) -> dict[str, Any]:
        if (flaw := unfit(params)) is not None:
            raise ValueError(f"{flaw.pointer.lstrip('/')}: {flaw.message}")
        return params

    @model_validator(mode="after")
    def _asks_nothing_of_data_that_are_not_there(self) -> Self:
        if self.data.is_there:
            return self
        if self.predictions is not None:
            raise ValueError("predictions lie in a file or a directory: name it as data.uri")
        asked: dict[str, Any] = {
            "gates": self.gates,
            "evaluation": self.evaluation != EvaluationSpec(),
            "mitigation": self.mitigation,
            "privacy": self.privacy,
            "probes": self.probes,
            "energy": self.energy,
            "search": self.search,
            "register": self.register_as,
        }
        if found := [name for name, value in asked.items() if value]:
            raise ValueError(
                f"there is no data, and {', '.join(found)} cannot be without: rows that the platform knows are what it "
                f"counts, compares and reports; name them under data.uri, or leave {', '.join(found)} out"
            )
        return self

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if self.predictions is not None:
            refuse_strangers(self.predictions, self.evaluation, self.gates)
            return self
        if self.evaluation.task is not None:
            raise ValueError(
                "evaluation.task is for predictions made elsewhere: what is trained says itself what it is"
            )
        refuse_undeclared(self.evaluation, self.gates)
        known = set(self.data.sensitive)
        groupings = () if self.evaluation.groupings == "all" else self.evaluation.groupings
        asked = [("evaluation.groupings", g) for g in groupings] + [("gates", g.by) for g in self.gates]
        asked.append(("evaluation.control", self.evaluation.control))
        if self.mitigation is not None:
            asked.append(("mitigation.by", self.mitigation.by))
        for where, names in asked:
            if strangers := set(names) - known:
                raise ValueError(f"{where} names {sorted(strangers)}, which data.sensitive does not list")
        gate_names = [gate.name for gate in self.gates]
        if len(set(gate_names)) != len(gate_names):
            raise ValueError("two gates have one name; give each an id")
        return self

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if self.predictions is not None and self.workload != EVALUATION:
            raise ValueError(
                f"predictions are for workload: {EVALUATION}, which trains nothing; {self.workload} trains"
            )
        if self.predictions is None and self.workload == EVALUATION:
            raise ValueError(f"workload: {EVALUATION} needs predictions: which column is what; {{}} takes the defaults")
        return self

    @model_validator(mode="after")
    def _can_be_swept(self) -> Self:
        if self.search is None:
            return self
        if self.predictions is not None:
            raise ValueError("search is for training, and predictions are made already")
        if self.privacy is not None:
            raise ValueError(
                "privacy is of one training: every trial would spend its own, and their sum is what was spent; leave "
                "one of search and privacy out"
            )
        if self.start_from is not None:
            raise ValueError("start_from is for one training, and a sweep begins many: leave one of the two out")
        if self.data.split.validation == 0:
            raise ValueError("trials are judged on the validation split, and data.split gives it no rows")
        if self.mitigation is not None and not self.mitigation.is_in_training:
            raise ValueError(
                "thresholds are chosen on the validation split, and so trials cannot be judged there: search without "
                "mitigation by thresholds, and promote the best trial with it"
            )
        return self

    @model_validator(mode="after")
    def _thresholds_can_be_chosen_and_used(self) -> Self:
        if self.mitigation is None or self.mitigation.is_in_training:
            return self
        if self.data.split.validation == 0:
            raise ValueError("thresholds are chosen on the validation split, and data.split gives it no rows")
        told = set(self.data.features or ()) - set(self.data.bins)
        unseen = [name for name in self.mitigation.by if name not in told]
        if self.register_as is not None and unseen:
            raise ValueError(
                "a registered model with a threshold a group must be told the group whenever it predicts: "
                f"list {', '.join(unseen)} under data.features (bins cannot be), or register nothing"
            )
        return self

    @model_validator(mode="after")
    def _mitigation_lets_rows_be_private(self) -> Self:
        if self.privacy is not None and self.mitigation is not None and self.mitigation.is_in_training:
            raise ValueError(
                f"privacy needs a loss in which each row stands alone, and {self.mitigation.method} weighs rows by "
                "others: take mitigation by thresholds, or leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _nothing_else_tells_of_private_rows(self) -> Self:
        if self.privacy is not None and self.probes is not None and self.probes.drift is not None:
            raise ValueError(
                "privacy protects the train split, and probes.drift shows how its values are spread: leave one out"
            )
        attributions = self.probes.attributions if self.probes else None
        if self.privacy is not None and attributions is not None and attributions.baseline == "mean":
            raise ValueError(
                "privacy protects the train split, and attributions from the mean of its rows tell what that is: "
                "take probes.attributions.baseline zero"
            )
        return self

    @model_validator(mode="after")
    def _attributions_are_of_inputs(self) -> Self:
        asked = self.probes.attributions if self.probes else None
        named, told = set(asked.share_of) if asked else set(), self.data.features
        strangers = named & set(self.data.sensitive) if told is None else named - set(told)
        if strangers:
            raise ValueError(
                f"probes.attributions.share_of names {sorted(strangers)}, which is no input: list it in data.features"
            )
        return self

    @model_validator(mode="after")
    def _probes_have_rows_and_names(self) -> Self:
        if self.probes is not None and self.data.split.test == 0:
            raise ValueError("probes look at the test split, and data.split gives it no rows")
        if self.probes is not None and self.probes.temperature and self.data.split.validation == 0:
            raise ValueError("a temperature is fitted on the validation split, and data.split gives it no rows")
        for gate in self.gates:
            if gate.condition is not None and gate.condition not in self.conditions:
                there = ", ".join(self.conditions) or "none: ask for some under probes"
                raise ValueError(f"gate {gate.name} asks for condition {gate.condition!r}; there are {there}")
        return self

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names under which probes count the test split once more."""
        return self.probes.conditions if self.probes else ()

    @property
    def measured(self) -> dict[str, Document]:
        """What is to be measured beside the counts, by section of the report."""
        sections: dict[str, Document | None] = {"energy": self.energy, "privacy": self.privacy}
        sections |= self.probes.measured if self.probes else {}
        return {name: asked for name, asked in sections.items() if asked is not None}

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """All ways to run it, the preferred one first: a sweep takes as many trials at a time as there is room for."""
        if self.search is None:
            return self.resources.wishes
        return tuple(
            replace(wish, workers=slots * wish.workers, trials=slots)
            for wish in self.resources.wishes
            for slots in self.search.slot_counts
        )

    def chosen(self, index: int) -> "ExperimentSpec":
        """This spec with the resources of one trial of wish ``index``."""
        index //= 1 if self.search is None else len(self.search.slot_counts)
        return self if index == 0 else self.amended(resources=self.resources.chosen(index))

    def of_trial(self, point: Mapping[str, Any]) -> "ExperimentSpec":
        """What one trial of this sweep trains: without gates, and without looks at a finished model."""
        nothing = {"search": None, "gates": (), "register_as": None, "probes": None, "energy": None}
        evaluation = self.evaluation.amended(groupings=self.groupings)
        return self.amended(params={**self.params, **point}, evaluation=evaluation, **nothing)

    @property
    def is_user_code(self) -> bool:
        """Whether the workload is the user's own rather than a built-in one."""
        return ":" in self.workload

    @property
    def is_evaluation(self) -> bool:
        """Whether nothing is trained: predictions made elsewhere are counted."""
        return self.predictions is not None

    @property
    def of_predictions(self) -> PredictionsSpec:
        """What ``fairlead evaluate`` needs of an evaluation. Raises ``ValueError`` for what trains."""
        if self.predictions is None:
            raise ValueError(f"{self.workload} trains: there are no predictions beside it")
        return PredictionsSpec(name=self.name, columns=self.predictions, evaluation=self.evaluation, gates=self.gates)

    @property
    def sensitive(self) -> tuple[str, ...]:
        """The attributes whose values are compared, in the order given."""
        if self.predictions is not None:
            return compared(self.predictions, self.evaluation, self.gates)
        return self.data.sensitive

    @property
    def groupings(self) -> tuple[tuple[str, ...], ...]:
        """The evaluation's groupings and those that gates need, each once, in the order given."""
        sensitive = self.sensitive
        if self.evaluation.groupings == "all":
            masks = range(1, 2 ** len(sensitive))
            asked = [tuple(n for i, n in enumerate(sensitive) if mask >> i & 1) for mask in masks]
        else:
            asked = [grouping for grouping in self.evaluation.groupings if grouping]
        return tuple(dict.fromkeys([*asked, *(gate.by for gate in self.gates if gate.by)]))


def spec_hash(spec: ExperimentSpec) -> str:
    """The spec's name by content: ``sha256:`` over its canonical JSON, defaults included."""
    text = json.dumps(spec.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of the spec, for editors and other languages."""
    schema = ExperimentSpec.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
