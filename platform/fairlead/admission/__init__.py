"""Stage 1: may this spec enter at all? Whether there is room now is placement's question."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fairlead.admission.sweeps import (
    FoundTrial,
    problems_with_inherited,
    problems_with_search,
    problems_with_start,
    sweep_warnings,
    warnings_of_start,
)
from fairlead.data.builtin import BUILTIN_PREFIX, builtin_problem
from fairlead.errors import Problem
from fairlead.evaluation import problem_with_gate
from fairlead.evaluation.champion import problem_with_champion
from fairlead.evaluation.metrics import Task as MeasuredTask
from fairlead.lockfile import read_lock
from fairlead.spec import CheckpointsSpec, DataSpec, ExperimentSpec, GateSpec, Manifest, TrialRef
from fairlead.spec.manifest import Task

__all__ = ["CODE_PREFIX", "Admitted", "FoundTrial", "Rejected", "RejectionReason", "admit"]
CODE_PREFIX = "sha256:"
_EVALUATION_MODULE = "fairlead.run.counting:count_predictions"
"""What runs instead of a workload; for the books, since ranks know it by the spec."""


class RejectionReason(StrEnum):
    """Why a spec may never enter as it is."""

    UNKNOWN_WORKLOAD = "unknown_workload"
    NOT_AN_EVALUATION = "not_an_evaluation"
    BAD_PARAMETERS = "bad_parameters"
    UNKNOWN_CODE = "unknown_code"
    BAD_ENVIRONMENT = "bad_environment"
    BAD_MITIGATION = "bad_mitigation"
    BAD_PRIVACY = "bad_privacy"
    BAD_PROBES = "bad_probes"
    BAD_SEARCH = "bad_search"
    BAD_START = "bad_start"
    BAD_GATE = "bad_gate"
    BAD_DATA = "bad_data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """The spec may wait for its turn; what follows from it is written out."""

    spec: ExperimentSpec
    workload_module: str
    """``package.module:function``."""
    task: Task | None
    """None: the data decide."""
    params: Mapping[str, Any]
    """The spec's parameters over the manifest's defaults."""
    total_steps: int | None
    """Of a sweep: its trials."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """Never, as it stands; each problem names its field."""

    reason: RejectionReason
    problems: tuple[Problem, ...]

    @property
    def detail(self) -> str:
        """The first problem in one line."""
        first = self.problems[0]
        return f"{first.pointer}: {first.message}" + (f"; {first.suggestion}" if first.suggestion else "")


def admit(
    spec: ExperimentSpec,
    *,
    manifests: Mapping[str, Manifest],
    has_bundle: Callable[[str], bool],
    find_bundled: Callable[[str, str], Manifest | None] | None = None,
    find_spec: Callable[[str], ExperimentSpec | None] | None = None,
    find_trial: Callable[[TrialRef], FoundTrial | None] | None = None,
    find_lock: Callable[[str], bytes | None] | None = None,
) -> Admitted | Rejected:
    """Decide whether ``spec`` may wait for its turn. ``has_bundle`` answers for a code bundle's sha256.

    ``find_bundled`` answers for the manifest that a bundle has for ``package.module:function``; None: none is read.
    ``find_spec`` answers for experiments of the project that ``compare_with`` and ``inherit`` may name, ``find_trial``
    for trials of its sweeps that ``start_from`` may name, and ``find_lock`` gives the lock that was uploaded as the
    only file of the bundle with that sha256; None: that is not looked at.
    """
    found = find_trial(spec.start_from) if find_trial is not None and spec.start_from is not None else None
    manifest = _manifest(spec, manifests, has_bundle, find_bundled)
    checks: tuple[tuple[RejectionReason, tuple[Problem, ...]], ...]
    if spec.is_evaluation:
        checks = (
            (RejectionReason.NOT_AN_EVALUATION, _training_problems(spec)),
            (RejectionReason.BAD_DATA, _predictions_problems(spec)),
            (RejectionReason.BAD_GATE, _gate_problems(spec, None)),
        )
    else:
        checks = (
            (RejectionReason.UNKNOWN_WORKLOAD, _workload_problems(spec, manifests)),
            (RejectionReason.UNKNOWN_CODE, _code_problems(spec, has_bundle)),
            (RejectionReason.BAD_ENVIRONMENT, _environment_problems(spec, find_lock)),
            (RejectionReason.BAD_PARAMETERS, manifest.problems_with(spec.params) if manifest else ()),
            (RejectionReason.BAD_DATA, _data_problems(spec, manifest)),
            (RejectionReason.BAD_MITIGATION, _mitigation_problems(spec, manifest, find_spec)),
            (RejectionReason.BAD_PRIVACY, _privacy_problems(spec, manifest)),
            (RejectionReason.BAD_PROBES, _probe_problems(spec, manifest)),
            (RejectionReason.BAD_GATE, _gate_problems(spec, manifest)),
            (RejectionReason.BAD_SEARCH, problems_with_search(spec, manifest, _possible_tasks(spec, manifest))),
            (RejectionReason.BAD_SEARCH, problems_with_inherited(spec, find_spec)),
            (RejectionReason.BAD_START, problems_with_start(spec, found, is_known=find_trial is not None)),
        )
    problems = tuple(problem for _, found in checks for problem in found)
    if problems:
        return Rejected(reason=next(reason for reason, found in checks if found), problems=problems)
    return _admitted(spec, manifest, found)


def _manifest(
    spec: ExperimentSpec,
    manifests: Mapping[str, Manifest],
    has_bundle: Callable[[str], bool],
    find_bundled: Callable[[str, str], Manifest | None] | None,
) -> Manifest | None:
    """Of what is installed by its name; of the user's own code the one in its bundle, if it may be looked into."""
    if spec.is_evaluation:
        return None
    if not spec.is_user_code:
        return manifests.get(spec.workload)
    if find_bundled is None or spec.code is None or not spec.code.startswith(CODE_PREFIX):
        return None
    sha256 = spec.code.removeprefix(CODE_PREFIX)
    return find_bundled(sha256, spec.workload) if has_bundle(sha256) else None


def _admitted(spec: ExperimentSpec, manifest: Manifest | None, start: FoundTrial | None) -> Admitted:
    params = manifest.with_defaults(spec.params) if manifest else dict(spec.params)
    steps = params.get(manifest.steps) if manifest and manifest.steps else params.get("epochs")
    if spec.search is not None:
        steps = spec.search.trials
    return Admitted(
        spec=spec,
        workload_module=manifest.module if manifest else _EVALUATION_MODULE if spec.is_evaluation else spec.workload,
        task=manifest.task if manifest else None,
        params=params,
        total_steps=steps if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0 else None,
        warnings=(*_warnings(spec, manifest), *sweep_warnings(spec, manifest), *warnings_of_start(spec, start)),
    )


def _training_problems(spec: ExperimentSpec) -> tuple[Problem, ...]:
    """What of an evaluation's spec would mean nothing; said rather than left unread."""
    given = {
        "code": (spec.code, "there is nothing to run"),
        "environment": (spec.environment, "there is nothing to run"),
        "params": (spec.params, "nothing is trained"),
        "seed": (spec.seed, "counting draws no random numbers"),
        "mitigation": (spec.mitigation, "the predictions are made already"),
        "privacy": (spec.privacy, "nothing is trained"),
        "energy": (spec.energy, "it is measured in training"),
        "probes": (spec.probes, "they look at a model, and there is none"),
        "start_from": (spec.start_from, "nothing is trained"),
        "register": (spec.register_as, "there is no model here to register"),
    }
    found = [
        (f"/{name}", f"{name} has no place in an evaluation", why) for name, (value, why) in given.items() if value
    ]
    if spec.policy.checkpoints != CheckpointsSpec():
        message = "checkpoints have no place in an evaluation"
        found.append(("/policy/checkpoints", message, "it writes none: one that is stopped begins again"))
    if any(wish.gpus_per_worker for wish in spec.resources.wishes):
        message = "an evaluation uses no GPUs"
        found.append(("/resources/gpus_per_worker", message, "counting is for CPUs; leave it out"))
    for name in sorted(spec.data.model_fields_set - {"uri"}):
        if getattr(spec.data, name) != DataSpec.model_fields[name].get_default(call_default_factory=True):
            message = f"{name} has no place in an evaluation"
            found.append((f"/data/{name}", message, "say under predictions what the columns mean"))
    return tuple(Problem(pointer=pointer, message=message, suggestion=why) for pointer, message, why in found)


def _predictions_problems(spec: ExperimentSpec) -> tuple[Problem, ...]:
    if not spec.data.uri.startswith(BUILTIN_PREFIX):
        return ()
    hint = "name a file of predictions, or a directory of them, that the cluster's nodes can read"
    return (Problem(pointer="/data/uri", message="built-in data are for training, not predictions", suggestion=hint),)


def _workload_problems(spec: ExperimentSpec, manifests: Mapping[str, Manifest]) -> tuple[Problem, ...]:
    if spec.is_user_code or spec.workload in manifests:
        return ()
    known = ", ".join(manifests) or "none is installed"
    hint = f"known: {known}; or name your own as package.module:function with `code: .`"
    return (Problem(pointer="/workload", message=f"there is no workload {spec.workload!r}", suggestion=hint),)


def _code_problems(spec: ExperimentSpec, has_bundle: Callable[[str], bool]) -> tuple[Problem, ...]:
    if spec.code is None:
        return ()
    if not spec.code.startswith(CODE_PREFIX):
        hint = "the CLI and the SDK upload the directory and write `sha256:<hex>` here"
        return (Problem(pointer="/code", message="code must be an uploaded bundle's sha256", suggestion=hint),)
    if not spec.is_user_code:
        message = f"{spec.workload!r} is built in and uses no code of yours"
        hint = "name the function as package.module:function, or leave code out"
        return (Problem(pointer="/code", message=message, suggestion=hint),)
    if not has_bundle(spec.code.removeprefix(CODE_PREFIX)):
        hint = "upload it first: POST /v1/code-bundles"
        return (Problem(pointer="/code", message="this bundle was never uploaded", suggestion=hint),)
    return ()


def _environment_problems(spec: ExperimentSpec, find_lock: Callable[[str], bytes | None] | None) -> tuple[Problem, ...]:
    """A lock that was not uploaded, or that does not pin everything."""
    if spec.environment is None:
        return ()
    pointer, named = "/environment/requirements", spec.environment.requirements
    if not named.startswith(CODE_PREFIX):
        hint = "the CLI and the SDK upload the file and write `sha256:<hex>` here"
        return (Problem(pointer=pointer, message="requirements must be an uploaded lock's sha256", suggestion=hint),)
    if find_lock is None:
        return ()
    content = find_lock(named.removeprefix(CODE_PREFIX))
    if content is None:
        hint = "upload it first, as the only file of a bundle: POST /v1/code-bundles"
        return (Problem(pointer=pointer, message="this lock was never uploaded", suggestion=hint),)
    flaws = read_lock(content).flaws
    return tuple(Problem(pointer=pointer, message=str(flaw), suggestion=flaw.suggestion) for flaw in flaws)


def _data_problems(spec: ExperimentSpec, manifest: Manifest | None) -> tuple[Problem, ...]:
    if not spec.data.is_there:
        return _without_data(spec, manifest)
    if spec.data.uri.startswith(BUILTIN_PREFIX) and (problem := builtin_problem(spec.data.uri)):
        return (problem,)
    if spec.data.streaming and spec.data.uri.startswith(BUILTIN_PREFIX):
        message = "built-in data are made in memory: there is nothing to stream"
        return (Problem(pointer="/data/streaming", message=message, suggestion="leave it out"),)
    if manifest is not None and (found := manifest.problems_with_streaming(spec.data)):
        return found
    if spec.data.streaming and spec.probes is not None:
        message = "probes look at all rows in memory, and these stay on disk"
        return (Problem(pointer="/data/streaming", message=message, suggestion="take probes out, or streaming"),)
    if spec.data.split.test == 0 and (spec.gates or spec.register_as):
        message = "there is no test split, so gates and registration have nothing to look at"
        return (Problem(pointer="/data/split/test", message=message, suggestion="give it 0.2 or more"),)
    return ()


def _without_data(spec: ExperimentSpec, manifest: Manifest | None) -> tuple[Problem, ...]:
    """A workload of the user's own may bring its data; of ours the manifest says whether it does."""
    if manifest is None or manifest.data == "own":
        return ()
    hint = f"name some as data.uri, such as {BUILTIN_PREFIX}diabetes or a file"
    return (Problem(pointer="/data", message=f"{spec.workload} trains on data, and there are none", suggestion=hint),)


def _mitigation_problems(
    spec: ExperimentSpec, manifest: Manifest | None, find_spec: Callable[[str], ExperimentSpec | None] | None
) -> tuple[Problem, ...]:
    """A method that the workload has not, or that its task cannot have; a "before" that is none."""
    asked = spec.mitigation
    if asked is None:
        return ()
    found = []
    if manifest is not None and asked.method not in manifest.mitigation:
        message = f"{spec.workload} does not carry out {asked.method}"
        hint = f"it has {', '.join(manifest.mitigation)}" if manifest.mitigation else "it has no mitigation"
        found.append(Problem(pointer="/mitigation/method", message=message, suggestion=hint))
    if manifest is not None and manifest.task == "multiclass" and asked.needs_two_classes:
        message = f"{asked.method} is for two classes"
        hint = "reweighing and group_dro take any number"
        found.append(Problem(pointer="/mitigation/method", message=message, suggestion=hint))
    if asked.compare_with is not None and find_spec is not None:
        why = _why_no_baseline(spec, asked.compare_with, find_spec(asked.compare_with))
        if why:
            found.append(Problem(pointer="/mitigation/compare_with", message=why))
    return tuple(found)


def _privacy_problems(spec: ExperimentSpec, manifest: Manifest | None) -> tuple[Problem, ...]:
    """A workload that has none; no rows by which ours could scale inputs without looking at protected ones."""
    if spec.privacy is None or manifest is None:
        return ()
    if not manifest.privacy:
        return (Problem(pointer="/privacy", message=f"{spec.workload} does not train with privacy"),)
    if spec.data.split.validation == 0:
        message = "privacy protects the train split, so inputs are scaled by validation rows, and there are none"
        return (Problem(pointer="/data/split/validation", message=message, suggestion="give it 0.1 or more"),)
    return ()


def _probe_problems(spec: ExperimentSpec, manifest: Manifest | None) -> tuple[Problem, ...]:
    """Probes for which the workload does not hand its model over."""
    asked = spec.probes.asked if spec.probes else ()
    if manifest is None:
        return ()
    hint = f"it has {', '.join(manifest.probes)}" if manifest.probes else "it has no probes"
    return tuple(
        Problem(pointer=f"/probes/{name}", message=f"{spec.workload} has no probe {name}", suggestion=hint)
        for name in asked
        if name not in manifest.probes
    )


_ROWS = ("uri", "target", "positive", "sensitive", "bins", "record_id", "split")
"""What of ``data`` says which rows are counted, under which labels and groups."""


def _why_no_baseline(spec: ExperimentSpec, named: str, baseline: ExperimentSpec | None) -> str | None:
    if baseline is None:
        return f"there is no experiment {named!r} in project {spec.project!r}"
    if baseline.mitigation is not None:
        return f"{named} has mitigation itself ({baseline.mitigation.method}), so it is no 'before'"
    other = [name for name in _ROWS if getattr(spec.data, name) != getattr(baseline.data, name)]
    return f"{named} is about other rows or groups: its data.{other[0]} differs" if other else None


def _gate_problems(spec: ExperimentSpec, manifest: Manifest | None) -> tuple[Problem, ...]:
    """Gates on metrics that no report will have. Where the data decide the task, either will do."""
    tasks = _possible_tasks(spec, manifest)
    found = []
    for index, gate in enumerate(spec.gates):
        messages = [
            problem_with_gate(gate, task=task, attributes=spec.sensitive, asked=spec.measured) for task in tasks
        ]
        problem = messages[0] if all(messages) else _share_problem(gate, spec)
        if problem is None and gate.requirement.is_relative:
            problem = problem_with_champion(spec.predictions, spec.register_as)
        if problem:
            found.append(Problem(pointer=f"/gates/{index}", message=problem))
    return tuple(found)


def _share_problem(gate: GateSpec, spec: ExperimentSpec) -> str | None:
    """A limit of the share of columns that are known not to be inputs."""
    asked = spec.probes.attributions if spec.probes else None
    if gate.metric != "attribution_share" or asked is None or asked.share_of:
        return None
    if set(spec.data.features or ()) & set(spec.data.sensitive):
        return None
    return (
        f"{gate.metric!r} is about sensitive attributes among the inputs, and data.features lists none: name columns "
        "under probes.attributions.share_of"
    )


def _possible_tasks(spec: ExperimentSpec, manifest: Manifest | None) -> tuple[MeasuredTask, ...]:
    """Where the data decide how many classes there are, either; what code of the user's own counts is not known."""
    if spec.is_evaluation and (task := spec.of_predictions.task) != "classification":
        return (task,)
    if spec.is_evaluation:
        return ("binary", "multiclass")
    if manifest is None:
        return ("binary", "multiclass", "regression", "ranking", "quality")
    if manifest.task is not None:
        return (manifest.task,)
    if manifest.measure is not None and spec.data.windows is not None:
        return ("quality",)  # windows have no labels, so their answers are graded
    return ("regression",) if spec.data.predict == "number" else ("binary", "multiclass")


def _warnings(spec: ExperimentSpec, manifest: Manifest | None) -> tuple[str, ...]:
    found = []
    if manifest is None and not spec.is_evaluation:
        found.append("this workload has no manifest: its parameters are passed on unchecked")
    if spec.is_user_code and spec.code is None:
        where = "on the cluster" if spec.environment is None else "on the cluster, or by its environment"
        found.append(f"no code is uploaded: the module must be installed {where}")
    if spec.environment is not None:
        found.append(
            "it has an environment of its own: each node that trains it builds that once and keeps it, and its "
            "processes start cold"
        )
    if spec.environment is not None and spec.register_as is not None:
        found.append("a registered model does not bring its environment along: who loads it installs the lock there")
    if spec.register_as and not spec.gates:
        found.append("there are no gates: the model will be registered whatever the report says")
    if spec.mitigation is not None and spec.mitigation.compare_with is None:
        found.append("mitigation.compare_with names no experiment: the report will not say what mitigation changed")
    if spec.mitigation is not None and not spec.mitigation.is_in_training:
        found.append(f"thresholds use {' and '.join(spec.mitigation.by)} whenever the model decides")
    if spec.sensitive and not spec.groupings:
        found.append("evaluation.groupings is empty: the report will compare no groups")
    return tuple(found)
