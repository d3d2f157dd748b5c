"""What a sweep found, as one document: which trial is best, by how much, what did not work, and how long it took.

Pure: made of the trials' rows and of the runner's summary, the same for the same input. A report has all that its page
shows (``fairlead.evaluation.sweep_page``). Of many trials it lists only some, and says how many; all are in the table
of ``trials_csv``.

*Keeps*: whether a trial that ran to its end keeps all constraints. A value that was never reported, or is not a number,
is null.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from statistics import median
from typing import Any, TypeVar

from fairlead.evaluation.drawing import count, figure
from fairlead.protocol import SweepSummary
from fairlead.search.best import best, front, nearest_miss, values_of
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import ExperimentSpec, from_mapping
from fairlead.spec.search import ObjectiveSpec, SearchSpec

SCHEMA = "sweep-report/1"
MOST_LISTED = 1_000
"""Trials in the report, and so on the page."""
MOST_RANKED = 20
MOST_ON_FRONT = 200
MOST_STEPS = 300
"""Improvements of a history that are listed."""
MOST_REASONS = 20
MOST_LETTERS = 200
"""Of a reason: those that differ only behind count as one."""
ENDINGS = {
    "trials": "all that were asked for have run",
    "grid": "the whole grid has been tried",
    "plateau": "it no longer got better",
    "hours": "its hours were over",
    "budget": "its budget was spent",
    "finished": "somebody asked it to finish",
}
"""Why a sweep ended, for people."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What spreadsheets take for a formula where a text begins with it."""

Report = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepTrial:
    """A trial as the report looks at it."""

    no: int
    state: TrialState
    params: Mapping[str, Any]
    """Its point."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Of the metrics that objectives and constraints look at, as far as reported."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Others; bounds of an objective are found here and among ``values``."""
    excesses: Mapping[str, float] = field(default_factory=dict)
    """By constraint: how far it is beyond its limit, 0 or less where it keeps it."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str = ""
    origin: str = "proposed"
    last_step: int | None = None

    @property
    def took_s(self) -> float | None:
        """From its begin to its end."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())

    def value(self, metric: str) -> float | None:
        """As it was last reported; None where it never was, or is not finite."""
        return _known(self.values.get(metric, self.metrics.get(metric)))

    def bounds(self, metric: str) -> tuple[float, float] | None:
        """One-sided bounds of a metric, where both were reported."""
        lower, upper = self.value(f"{metric}.lower95"), self.value(f"{metric}.upper95")
        return None if lower is None or upper is None or lower > upper else (lower, upper)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepProvenance:
    """Where the trials come from."""

    experiment: str
    attempt: int
    created: datetime
    data_digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Who is best, by the rules of ``fairlead.search.best``."""

    best: SweepTrial | None
    """Of one objective."""
    front: tuple[SweepTrial, ...]
    """Of several."""
    nearest: SweepTrial | None
    """Where none keeps all constraints."""


def standing(search: SearchSpec, trials: Iterable[SweepTrial]) -> Standing:
    """The best trial or the front, else the nearest miss."""
    by_no = {trial.no: trial for trial in trials}
    plain = [_plain(search, trial) for trial in by_no.values()]
    first = best(search, plain)
    if first is None:
        missed = nearest_miss(search, plain)
        return Standing(best=None, front=(), nearest=None if missed is None else by_no[missed.no])
    if len(search.objectives) == 1:
        return Standing(best=by_no[first.no], front=(), nearest=None)
    return Standing(best=None, front=tuple(by_no[one.no] for one in front(search, plain)), nearest=None)


def headline(search: SearchSpec, trials: Sequence[SweepTrial], found: Standing, ended_because: str) -> str:
    """What became of the sweep, in one line of plain English; not a sentence, so that it may stand behind others."""
    why = f"ended because {ENDINGS.get(ended_because, ended_because)}"
    many = f"{count(len(trials))} trial{'' if len(trials) == 1 else 's'}"
    if found.best is not None:
        return f"{many}: best is trial {found.best.no} ({_told(search.objectives[0], found.best)}); {why}"
    if found.front:
        return f"{many}: {_front_told(search, found.front)}; {why}"
    if found.nearest is not None:
        return (
            f"{many}, none keeps all constraints; nearest is trial {found.nearest.no} ({_missed(found.nearest)}); {why}"
        )
    if not trials:
        return f"no trial was begun; {why}"
    return f"{many}, none ran to its end with a value; {_commonest(trials)}{why}"


def build_sweep_report(
    spec: ExperimentSpec, summary: SweepSummary, trials: Sequence[SweepTrial], *, provenance: SweepProvenance
) -> dict[str, Any]:
    """The report as JSON. Raises ``ValueError`` for a spec that is no sweep."""
    if spec.search is None:
        raise ValueError("the spec has no search")
    search, rows = spec.search, sorted(trials, key=lambda trial: trial.no)
    found = standing(search, rows)
    ranked = ranking(search, rows, found)
    histories = [_history(search, position, rows) for position in range(len(search.objectives))]
    metrics = drawn_metrics(search, rows)
    told = partial(entry, search, metrics)
    report = {
        "schema": SCHEMA,
        "experiment": provenance.experiment,
        "attempt": provenance.attempt,
        "created": provenance.created.isoformat(),
        "name": spec.name,
        "project": spec.project,
        "workload": spec.workload,
        "data": {"uri": spec.data.uri, "digest": provenance.data_digest, "split": "validation"},
        "code": spec.code,
        "params": dict(spec.params),
        "search": search.model_dump(mode="json", exclude_defaults=True),
        "headline": headline(search, rows, found, summary.ended_because),
        "ended_because": summary.ended_because,
        "num_trials": len(rows),
        "counts": {str(state): sum(trial.state is state for trial in rows) for state in TrialState},
        "objectives": [
            {"metric": one.metric, "direction": "maximize" if one.is_maximized else "minimize", "history": history}
            for one, history in zip(search.objectives, histories, strict=True)
        ],
        "constraints": [_constraint(text, rows) for text in search.constraints],
        "metrics": metrics,
        "num_keeping": sum(keeps(trial) for trial in rows),
        "best": told(found.best) if found.best else None,
        "num_on_front": len(found.front),
        "front": [told(trial) for trial in spread(found.front, MOST_ON_FRONT)],
        "nearest": told(found.nearest) if found.nearest else None,
        "ranking": [told(trial) for trial in ranked],
        "importance": _importance(summary),
        "failures": _reasons(rows, TrialState.FAILED),
        "prunings": _reasons(rows, TrialState.PRUNED),
        "time": _time(rows),
        "trials": [told(trial) for trial in _listed(rows, found, ranked, histories)],
        "limitations": _limitations(search, summary, rows, found),
    }
    return dict(sorted(report.items()))


def drawn_metrics(search: SearchSpec, trials: Sequence[SweepTrial]) -> list[str]:
    """What objectives and constraints look at; of a bound also the value that it bounds, where it was reported."""
    found = list(search.metrics)
    for metric in search.metrics:
        bounded = bounded_by(metric)
        if bounded not in found and any(trial.value(bounded) is not None for trial in trials):
            found.append(bounded)
    return found


def search_of(report: Report) -> SearchSpec:
    """What the report's sweep looked for."""
    return from_mapping(SearchSpec, report["search"])


def shown_metrics(report: Report) -> list[str]:
    """What is shown of each trial: a bound only where it does not stand beside the value that it bounds."""
    metrics = report["metrics"]
    return [name for name in metrics if bounded_by(name) == name or bounded_by(name) not in metrics]


def bounded_by(metric: str) -> str:
    """What a bound bounds; of what is no bound, itself."""
    return metric.removesuffix(".upper95").removesuffix(".lower95")


def keeps(trial: SweepTrial) -> bool:
    """Whether it ran to its end and keeps all constraints."""
    return trial.state is TrialState.SUCCEEDED and all(excess <= 0 for excess in trial.excesses.values())


def ranking(search: SearchSpec, trials: Sequence[SweepTrial], found: Standing) -> list[SweepTrial]:
    """The first few: those on the front, those that keep all constraints, those that miss them least."""
    on_front = {trial.no for trial in found.front}
    ended = [trial for trial in trials if trial.state is TrialState.SUCCEEDED and _has_values(search, trial)]

    def place(trial: SweepTrial) -> tuple[bool, float, float, int]:
        beyond = sum(max(0.0, excess) for excess in trial.excesses.values())
        value = trial.values[search.objectives[0].metric]
        return trial.no not in on_front, beyond, -value if search.objectives[0].is_maximized else value, trial.no

    return sorted(ended, key=place)[:MOST_RANKED]


def entry(search: SearchSpec, metrics: Sequence[str], trial: SweepTrial) -> dict[str, Any]:
    """A trial with its parameters, and its values of ``metrics`` with their bounds."""
    bounds = {metric: trial.bounds(metric) for metric in metrics}
    return {
        "no": trial.no,
        "state": str(trial.state),
        "keeps": keeps(trial),
        "origin": trial.origin,
        "params": dict(trial.params),
        "values": {metric: trial.value(metric) for metric in metrics},
        "bounds": {metric: list(both) for metric, both in bounds.items() if both is not None},
        "excesses": {text: _known(trial.excesses.get(text)) for text in search.constraints},
        "took_s": trial.took_s,
        "last_step": trial.last_step,
    }


def trials_csv(search: SearchSpec, trials: Iterable[SweepTrial]) -> bytes:
    """All trials as a table for spreadsheets. A text that one of them would take for a formula begins with ``'``."""
    rows = sorted(trials, key=lambda trial: trial.no)
    values = drawn_metrics(search, rows)
    sides = [f"{metric}.{side}95" for metric in values for side in ("lower", "upper")]
    metrics = values + [one for one in sides if one not in values and any(row.value(one) is not None for row in rows)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["trial", "state", "keeps", "origin", "reason", "started_at", "ended_at", "took_s", "last_step"]
        + [f"params.{name}" for name in search.space]
        + metrics
        + [f"beyond {text}" for text in search.constraints]
    )
    for trial in rows:
        times = [None if at is None else at.isoformat() for at in (trial.started_at, trial.ended_at)]
        cells = [trial.no, str(trial.state), keeps(trial), trial.origin, trial.reason, *times, trial.took_s]
        cells += [trial.last_step, *(trial.params.get(name) for name in search.space)]
        cells += [*(trial.value(name) for name in metrics), *(trial.excesses.get(text) for text in search.constraints)]
        writer.writerow([cell_of(cell) for cell in cells])
    return stream.getvalue().encode()


def cell_of(value: Any) -> Any:
    """A value as a cell of such a table: lists and the like as JSON."""
    if isinstance(value, list | tuple | dict | bool):
        return json.dumps(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


# ---- words ----------------------------------------------------------------------------------------------------------


def _told(objective: ObjectiveSpec, trial: SweepTrial) -> str:
    return f"{objective.metric} {figure(trial.values[objective.metric])}"


def _front_told(search: SearchSpec, on_front: Sequence[SweepTrial]) -> str:
    firsts = [_told(one, _extreme(one, on_front)) for one in search.objectives]
    if len(on_front) == 1:
        return f"trial {on_front[0].no} is the best in every objective ({', '.join(firsts)})"
    return f"{count(len(on_front))} are on the Pareto front, as good as {' or '.join(firsts)}"


def _extreme(objective: ObjectiveSpec, trials: Sequence[SweepTrial]) -> SweepTrial:
    sign = -1 if objective.is_maximized else 1
    return min(trials, key=lambda trial: (sign * trial.values[objective.metric], trial.no))


def _missed(trial: SweepTrial) -> str:
    beyond = {text: excess for text, excess in trial.excesses.items() if excess > 0}
    return ", ".join(
        f"{figure(excess)} beyond {text}" if math.isfinite(excess) else f"no value for {text}"
        for text, excess in beyond.items()
    )


def _commonest(trials: Sequence[SweepTrial]) -> str:
    failures = _reasons(trials, TrialState.FAILED)
    if not failures:
        return ""
    first, num = failures[0], sum(one["num"] for one in failures)
    return (
        f"{num} failed, {'' if num == first['num'] else 'most often '}with {first['reason'] or 'no reason given'!r}; "
    )


def _limitations(search: SearchSpec, summary: SweepSummary, trials: Sequence[SweepTrial], found: Standing) -> list[str]:
    told = [
        "Values are those on the validation split, by which the best was picked out of many: expect it to be somewhat "
        "worse on rows that no trial has seen. Promoting a trial evaluates it on the test split.",
    ]
    if any(trial.bounds(metric) for trial in trials for metric in drawn_metrics(search, trials)):
        told.append("Bounds hold for one trial at a time, not for the best of many.")
    if search.early_stopping is not None:
        told.append("A trial that was stopped early is compared with others only up to where it was stopped.")
    if odd := sum(trial.state is TrialState.SUCCEEDED and not _has_values(search, trial) for trial in trials):
        told.append(f"{_many(odd)} ran to the end without a finite number for each objective, and cannot be compared.")
    if inherited := sum(trial.origin == "inherited" for trial in trials):
        told.append(f"{_many(inherited)} were taken over from an earlier sweep; they are not in the times.")
    if left := sum(trial.state is TrialState.RUNNING for trial in trials):
        told.append(f"{_many(left)} had not ended when the sweep did.")
    seen = (summary.best, tuple(sorted(summary.front)), summary.nearest)
    here = (_no(found.best), tuple(trial.no for trial in found.front), _no(found.nearest))
    if len(search.objectives) > 1:
        seen, here = (None, *seen[1:]), (None, *here[1:])
    if seen != here:
        told.append(
            "What the sweep's runner last said about the best is not what the stored trials say; this report goes by "
            "the stored trials."
        )
    return told


def _many(num: int) -> str:
    return "1 trial" if num == 1 else f"{num} trials"


# ---- parts ----------------------------------------------------------------------------------------------------------


def _plain(search: SearchSpec, trial: SweepTrial) -> Trial:
    values = values_of(search, trial.values)
    return Trial(no=trial.no, point=trial.params, state=trial.state, values=values or (), excesses=dict(trial.excesses))


def _has_values(search: SearchSpec, trial: SweepTrial) -> bool:
    """Whether it can be compared with others: a finite number for each objective."""
    return all(_known(trial.values.get(one.metric)) is not None for one in search.objectives)


def _no(trial: SweepTrial | None) -> int | None:
    return None if trial is None else trial.no


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _history(search: SearchSpec, position: int, trials: Sequence[SweepTrial]) -> dict[str, Any]:
    """Each trial that was better than all before it, by number; among those that keep all constraints."""
    objective = search.objectives[position]
    sign = -1 if objective.is_maximized else 1
    steps: list[tuple[int, float]] = []
    since = 0
    for trial in trials:
        value = _known(trial.values.get(objective.metric))
        since += trial.state is not TrialState.RUNNING
        if value is None or not keeps(trial) or (steps and sign * value >= sign * steps[-1][1]):
            continue
        steps.append((trial.no, value))
        since = 0
    kept = spread(steps, MOST_STEPS)
    return {"improvements": [list(step) for step in kept], "num": len(steps), "trials_since": since}


def _constraint(text: str, trials: Sequence[SweepTrial]) -> dict[str, Any]:
    ended = [trial for trial in trials if trial.state is TrialState.SUCCEEDED]
    known = [trial.excesses[text] for trial in ended if math.isfinite(trial.excesses.get(text, math.inf))]
    return {"text": text, "num": len(ended), "num_known": len(known), "num_keeping": sum(one <= 0 for one in known)}


def _importance(summary: SweepSummary) -> list[dict[str, Any]]:
    known = [(name, _known(share)) for name, share in summary.importance.items()]
    there = [(name, share) for name, share in known if share is not None]
    return [{"parameter": name, "share": share} for name, share in sorted(there, key=lambda one: (-one[1], one[0]))]


def _reasons(trials: Sequence[SweepTrial], state: TrialState) -> list[dict[str, Any]]:
    """Why trials ended in ``state``, the commonest first, with some of them as examples."""
    there = [trial for trial in trials if trial.state is state]
    counts = Counter(trial.reason[:MOST_LETTERS] for trial in there)
    found = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    listed = [
        {"reason": reason, "num": num, "trials": [one.no for one in there if one.reason[:MOST_LETTERS] == reason][:5]}
        for reason, num in found[:MOST_REASONS]
    ]
    if rest := found[MOST_REASONS:]:
        told = f"{len(rest)} other reasons"
        listed.append({"reason": told, "num": sum(num for _, num in rest), "trials": []})
    return listed


def _time(trials: Sequence[SweepTrial]) -> dict[str, Any]:
    """How long trials took, and how many ended an hour, from the first begin to the last end."""
    own = [trial for trial in trials if trial.origin != "inherited"]
    took = [trial.took_s for trial in own if trial.took_s is not None]
    started = min((trial.started_at for trial in own if trial.started_at), default=None)
    ended = max((trial.ended_at for trial in own if trial.ended_at), default=None)
    wall = None if started is None or ended is None else max(0.0, (ended - started).total_seconds())
    return {
        "started_at": started.isoformat() if started else None,
        "ended_at": ended.isoformat() if ended else None,
        "wall_s": wall,
        "trial_s": sum(took),
        "median_trial_s": median(took) if took else None,
        "trials_an_hour": len(took) / wall * 3600 if took and wall else None,
        "mean_concurrency": sum(took) / wall if took and wall else None,
    }


def _listed(
    trials: Sequence[SweepTrial],
    found: Standing,
    ranked: Sequence[SweepTrial],
    histories: Sequence[Mapping[str, Any]],
) -> list[SweepTrial]:
    """All, or those that matter and of the others every so-many-th."""
    if len(trials) <= MOST_LISTED:
        return list(trials)
    chosen = {trial.no for trial in (*ranked, *spread(found.front, MOST_ON_FRONT))}
    chosen |= {step[0] for history in histories for step in history["improvements"][-100:]}
    chosen |= {trial.no for trial in (found.best, found.nearest) if trial is not None}
    others = [trial for trial in trials if trial.no not in chosen]
    chosen |= {trial.no for trial in spread(others, MOST_LISTED - len(chosen))}
    return [trial for trial in trials if trial.no in chosen]


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly, both ends included."""
    if len(items) <= most:
        return list(items)
    if most < 2:
        return list(items[:most])
    return [items[number * (len(items) - 1) // (most - 1)] for number in range(most)]
