"""What admission asks of a sweep: is there something to look for, and will what it aims at ever be reported?"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.errors import Problem
from fairlead.evaluation.groups import requested_groupings
from fairlead.evaluation.metrics import Task
from fairlead.evaluation.tracked import is_tracked, problem_with_key
from fairlead.search.space import problems_with_space, size
from fairlead.spec import ExperimentSpec, Manifest, SearchSpec, TrialRef
from fairlead.spec.search import AshaSpec, DimensionSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundTrial:
    """A trial that ``start_from`` names, as the store has it."""

    spec: ExperimentSpec
    """Of its sweep."""
    point: Mapping[str, Any]
    has_ended: bool
    has_checkpoint: bool


# ---- what can never run ---------------------------------------------------------------------------------------------


def problems_with_search(spec: ExperimentSpec, manifest: Manifest | None, tasks: Sequence[Task]) -> tuple[Problem, ...]:
    """Why this sweep can never find anything. ``tasks``: those that its workload may turn out to have."""
    search = spec.search
    if search is None:
        return ()
    return (
        *problems_with_space(search, spec.params, manifest),
        *_never_looked_for(search),
        *_unknown_metrics(spec, search, manifest, tasks),
        *_stopping_problems(search),
    )


def _never_looked_for(search: SearchSpec) -> Iterator[Problem]:
    """Parameters whose conditions no point meets, each by itself meeting them or not."""
    for name in search.order():
        allowed = _conditions(search, name)
        if lost := [other for other, values in allowed.items() if not values]:
            message = f"is looked for at no point: its conditions leave no value of {lost[0]}"
            yield Problem(pointer=f"/search/space/{name}/when", message=message)


def _conditions(search: SearchSpec, name: str) -> dict[str, list[Any]]:
    """What must hold for a parameter to be looked for, the conditions of those on which it depends included."""
    found: dict[str, list[Any]] = {}
    for other, values in search.space[name].when.items():
        for each, allowed in [(other, list(values)), *_conditions(search, other).items()]:
            found[each] = [value for value in found.get(each, allowed) if value in allowed]
    return found


def _unknown_metrics(
    spec: ExperimentSpec, search: SearchSpec, manifest: Manifest | None, tasks: Sequence[Task]
) -> Iterator[Problem]:
    for pointer, metric in _aims(search):
        if is_tracked(metric):
            found = [problem_with_key(metric, task=task, groupings=_groupings(spec)) for task in tasks]
            if all(found) and found[0] is not None:
                yield Problem(pointer=pointer, message=found[0])
        elif manifest is not None and manifest.metrics and metric not in manifest.metrics:
            yield Problem(
                pointer=pointer,
                message=f"{spec.workload} reports no {metric!r}",
                suggestion=_nearest(metric, manifest.metrics),
            )


def _aims(search: SearchSpec) -> Iterator[tuple[str, str]]:
    """What objectives and constraints look at, and where they say so."""
    for index, objective in enumerate(search.objectives):
        yield f"/search/objectives/{index}", objective.metric
    for index, (metric, _) in enumerate(search.requirements):
        yield f"/search/constraints/{index}", metric


def _groupings(spec: ExperimentSpec) -> tuple[tuple[str, ...], ...]:
    """By which the report of one of its trials compares groups: what only its gates compare is none of them."""
    return requested_groupings(spec.evaluation, (), spec.data.sensitive)


def _nearest(metric: str, known: Sequence[str]) -> str:
    near = next(iter(difflib.get_close_matches(metric, known, n=1)), None)
    return f"did you mean {near!r}?" if near else f"it reports {', '.join(known)}, and the report has rai/..."


def _stopping_problems(search: SearchSpec) -> Iterator[Problem]:
    """What is known at the end of a trial cannot stop it before."""
    metric = search.objectives[0].metric
    if search.early_stopping is not None and is_tracked(metric):
        yield Problem(
            pointer="/search/early_stopping",
            message=f"{metric!r} is only known at a trial's end, and early stopping compares what is reported before",
            suggestion="aim at a metric that the workload reports, and make this one a constraint; or leave it out",
        )


def problems_with_inherited(
    spec: ExperimentSpec, find_spec: Callable[[str], ExperimentSpec | None] | None
) -> tuple[Problem, ...]:
    """Why an earlier sweep says nothing to this one."""
    named = spec.search.inherit if spec.search is not None else None
    if spec.search is None or named is None or find_spec is None:
        return ()
    message, earlier = None, find_spec(named)
    if earlier is None:
        message = f"there is no experiment {named!r} in project {spec.project!r}"
    elif earlier.search is None:
        message = f"{named} is no sweep, so it has no trials"
    elif missing := [one.metric for one in spec.search.objectives if one.metric not in earlier.search.metrics]:
        message = f"the trials of {named} have no {missing[0]!r}: it aimed at {', '.join(earlier.search.metrics)}"
    elif set(earlier.search.space) != set(spec.search.space):
        other = sorted(set(earlier.search.space) ^ set(spec.search.space))[0]
        message = f"the trials of {named} are points of another space: only one of the two has {other!r}"
    return () if message is None else (Problem(pointer="/search/inherit", message=message),)


# ---- going on from a trial ------------------------------------------------------------------------------------------


_MUST_AGREE = ("workload", "code", "data")


def problems_with_start(spec: ExperimentSpec, trial: FoundTrial | None, *, is_known: bool) -> tuple[Problem, ...]:
    """Why training cannot go on from the trial. ``is_known``: it was looked for."""
    if spec.start_from is None:
        return ()
    message = _why_private(spec) or (_why_no_start(spec, spec.start_from, trial) if is_known else None)
    return () if message is None else (Problem(pointer="/start_from", message=message),)


def _why_private(spec: ExperimentSpec) -> str | None:
    if spec.privacy is None:
        return None
    return "the trial was trained without privacy, and what it has learnt of its rows stays: leave start_from out"


def _why_no_start(spec: ExperimentSpec, ref: TrialRef, trial: FoundTrial | None) -> str | None:
    if trial is None:
        return f"there is no trial {ref.trial} of a sweep {ref.experiment!r} in project {spec.project!r}"
    if not trial.has_ended:
        return f"trial {ref.trial} of {ref.experiment} has not ended"
    if other := [name for name in _MUST_AGREE if getattr(spec, name) != getattr(trial.spec, name)]:
        return f"trial {ref.trial} of {ref.experiment} is of another training: its {other[0]} differs"
    if _in_training(spec) != _in_training(trial.spec):
        return f"trial {ref.trial} of {ref.experiment} was trained with other mitigation"
    if not trial.has_checkpoint:
        return f"trial {ref.trial} of {ref.experiment} kept no checkpoint: leave start_from out, and it trains anew"
    return None


def _in_training(spec: ExperimentSpec) -> object:
    asked = spec.mitigation
    return (asked.method, asked.by) if asked is not None and asked.is_in_training else None


def warnings_of_start(spec: ExperimentSpec, trial: FoundTrial | None) -> tuple[str, ...]:
    """Parameters that are not those of the trial: what it has learnt may not fit them."""
    if trial is None:
        return ()
    before = {**trial.spec.params, **trial.point}
    other = sorted(name for name in before.keys() | spec.params.keys() if before.get(name) != spec.params.get(name))
    if not other:
        return ()
    return (f"start_from: {', '.join(other)} differ from the trial's, whose checkpoint may not fit them",)


# ---- what a user may not have meant ---------------------------------------------------------------------------------


def sweep_warnings(spec: ExperimentSpec, manifest: Manifest | None) -> tuple[str, ...]:
    """Of a sweep: what will be otherwise than it looks."""
    search = spec.search
    if search is None:
        return ()
    found = [*_of_space(search), *_of_stopping(spec, search, manifest)]
    reported = [metric for _, metric in _aims(search) if not is_tracked(metric)]
    if manifest is None and reported:
        names = ", ".join(dict.fromkeys(reported))
        found.append(f"without a manifest nobody knows whether the workload reports {names}: see to it")
    later = [name for name in ("energy", "probes") if getattr(spec, name) is not None]
    if later:
        found.append(f"trials go without {' and '.join(later)}: what is promoted is looked at so")
    if search.chosen.name.startswith("optuna:") and spec.code is None:
        found.append(f"{search.chosen.name} must be installed on the cluster: no code is uploaded")
    return tuple(found)


def _of_space(search: SearchSpec) -> Iterator[str]:
    points = _count(search)
    if points is None or points >= search.trials:
        return
    counted = f"the space has {points} point{'s' if points != 1 else ''}, fewer than the {search.trials} trials"
    ends = "the sweep ends with the last of them" if search.chosen.name == "grid" else "some are tried more than once"
    yield f"{counted}: {ends}"


def _count(search: SearchSpec) -> int | None:
    """Points of the space, counted up to the trials; None where they are endless."""
    dimensions = search.space.values()
    if any(one.choice is None and not one.is_whole and one.step is None for one in dimensions):
        return None
    always = math.prod(_num_values(one) for one in dimensions if not one.when)
    if always >= search.trials or not any(one.when for one in dimensions):
        return always
    return size(search, most=search.trials)


def _num_values(one: DimensionSpec) -> int:
    """How many values a dimension has, without listing them."""
    if one.choice is not None:
        return len(one.choice)
    low, high = one.bounds
    return int((high - low) / (one.step or 1) * (1 + 1e-12)) + 1


def _of_stopping(spec: ExperimentSpec, search: SearchSpec, manifest: Manifest | None) -> Iterator[str]:
    steps = _most_steps(spec, search, manifest)
    asked = search.early_stopping
    if asked is None or steps is None or manifest is None:
        return
    rungs: AshaSpec | None = asked.asha or asked.hyperband
    if rungs is not None and rungs.max_resource > steps:
        yield (
            f"early_stopping.max_resource is {rungs.max_resource}, and no trial reports more than {steps} steps "
            f"({manifest.steps}): take {steps}"
        )
    grace = rungs.grace if rungs is not None else asked.median.grace if asked.median is not None else 0
    if grace >= steps:
        yield f"early_stopping.grace is {grace} and a trial has {steps} steps: no trial is ever stopped early"


def _most_steps(spec: ExperimentSpec, search: SearchSpec, manifest: Manifest | None) -> int | None:
    """Steps that the longest trial reports, where the manifest says which parameter says so."""
    if manifest is None or manifest.steps is None:
        return None
    dimension = search.space.get(manifest.steps)
    if dimension is None:
        found = [manifest.with_defaults(spec.params).get(manifest.steps)]
    else:
        found = list(dimension.choice or dimension.bounds)
    whole = [value for value in found if isinstance(value, int) and not isinstance(value, bool)]
    return max(whole) if whole and len(whole) == len(found) else None
