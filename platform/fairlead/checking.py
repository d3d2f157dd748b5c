"""How good a workload must be: bars that hold as means over seeds, and a run that shows whether they do.

A workload's manifest names its *check*. A check trains the workload for a seed, which draws the split as well as the
weights, and measures what the bars speak of. A *bar* is a requirement on the mean over seeds of one measured value, or
of its difference to (or ratio over) a baseline's value, which was measured with the same seed on the same split.
"""

import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

from fairlead.data import find_manifests, find_specs, open_dataset
from fairlead.data.context import KeepingOutlet, LocalContext, check_complete
from fairlead.data.export import Origin
from fairlead.data.manifests import find_manifest
from fairlead.errors import BadInput, NotFound
from fairlead.evaluation.quantities import AnyState
from fairlead.spec import ExperimentSpec, Manifest, from_yaml
from fairlead.spec.evaluation import Requirement, required
from fairlead.workload import Workload

FULL_SEEDS = 5
SHORT_SEEDS = 1


class Measure(Protocol):
    """Trains once and says what came of it, by name; baselines too. ``scratch``: an empty directory of its own."""

    def __call__(self, seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """``require``, such as ``>= 0.95``, of the mean over seeds of ``value``, against ``baseline`` if there is one."""

    value: str
    require: str
    baseline: str | None = None
    compared: Literal["difference", "ratio"] = "difference"

    @property
    def requirement(self) -> Requirement:
        """Raises ``ValueError`` where ``require`` cannot be read."""
        found = required(self.require)
        if found is None:
            raise ValueError(f"{self.require!r} is no requirement, such as '>= 0.95'")
        return found

    @property
    def name(self) -> str:
        """For people: ``accuracy``, ``auc - linear_auc``, ``recall / popularity_recall``."""
        if self.baseline is None:
            return self.value
        return f"{self.value} {'-' if self.compared == 'difference' else '/'} {self.baseline}"

    def of(self, measured: Mapping[str, float]) -> float:
        """What is required of one seed's values. A ratio over nothing is NaN, which passes no bar."""
        value = measured[self.value]
        if self.baseline is None:
            return value
        other = measured[self.baseline]
        if self.compared == "difference":
            return value - other
        return value / other if other else math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A workload's bars. ``short_bars`` hold after the short form, which still learns, in seconds."""

    measure: Measure
    bars: tuple[Bar, ...]
    short_bars: tuple[Bar, ...]
    quick: Mapping[str, Any] = field(default_factory=dict)
    """``params`` and ``data`` over those of the ready spec with which two or three steps are reported within seconds:
    for tests of the page's form, not of what it learns. Without randomness that ranks draw apart, such as dropout."""
    rank_tolerance: float = 2e-3
    """How far, relatively, metrics of one rank and of two with equal global batches may lie apart under ``quick``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One bar over all seeds."""

    bar: Bar
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN for one seed."""
        if len(self.values) < 2:
            return math.nan
        return statistics.stdev(self.values) / math.sqrt(len(self.values))

    @property
    def is_met(self) -> bool:
        """Whether the mean meets the requirement."""
        return not math.isnan(self.mean) and self.bar.requirement.admits(Fraction(self.mean))


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a check found."""

    workload: str
    is_short: bool
    seeds: tuple[int, ...]
    measured: tuple[Mapping[str, float], ...]
    """By seed."""
    seconds: tuple[float, ...]
    """By seed, baselines included."""
    verdicts: tuple[Verdict, ...]

    @property
    def is_met(self) -> bool:
        """Whether every bar is."""
        return all(verdict.is_met for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """For files and ``--json``."""
        return {
            "workload": self.workload,
            "form": "short" if self.is_short else "full",
            "seeds": list(self.seeds),
            "seconds": [round(one, 2) for one in self.seconds],
            "measured": [dict(one) for one in self.measured],
            "bars": [
                {
                    "bar": verdict.bar.name,
                    "require": verdict.bar.require,
                    "mean": verdict.mean,
                    "standard_error": None if math.isnan(verdict.standard_error) else verdict.standard_error,
                    "values": list(verdict.values),
                    "is_met": verdict.is_met,
                }
                for verdict in self.verdicts
            ],
        }


def find_check(manifest: Manifest) -> Check:
    """The check that ``manifest`` names. Raises ``NotFound`` where it names none, ``BadInput`` for a wrong name."""
    if manifest.check is None:
        raise NotFound(f"the workload {manifest.name} has no check: name one in its manifest, as package.module:CHECK")
    module, _, attribute = manifest.check.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"the check {manifest.check} of {manifest.name} cannot be loaded: {error}") from error
    if not isinstance(found, Check):
        raise BadInput(f"{manifest.check} is no Check but {type(found).__name__}")
    return found


def run_check(
    name: str,
    *,
    is_short: bool,
    seeds: Sequence[int] | None = None,
    scratch: Path,
    told: Callable[[int, Mapping[str, float], float], None] = lambda seed, measured, seconds: None,
) -> Checked:
    """Measure seed after seed; ``told`` hears of each. Raises what training raises."""
    check = find_check(find_manifest(name))
    chosen = tuple(seeds if seeds is not None else range(SHORT_SEEDS if is_short else FULL_SEEDS))
    measured, seconds = [], []
    for seed in chosen:
        place = scratch / f"seed-{seed}"
        place.mkdir(parents=True)
        began = time.perf_counter()
        found = {name: float(value) for name, value in check.measure(seed, is_short=is_short, scratch=place).items()}
        measured.append(found)
        seconds.append(time.perf_counter() - began)
        told(seed, found, seconds[-1])
    bars = check.short_bars if is_short else check.bars
    verdicts = tuple(Verdict(bar=bar, values=tuple(bar.of(one) for one in measured)) for bar in bars)
    return Checked(
        workload=name,
        is_short=is_short,
        seeds=chosen,
        measured=tuple(measured),
        seconds=tuple(seconds),
        verdicts=verdicts,
    )


# ---- for measures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What came of one training on this machine, on one rank."""

    context: LocalContext
    reports: Sequence[tuple[int, Mapping[str, float]]]
    """Step and metrics."""

    @property
    def test(self) -> AnyState:
        """Counts of the test split, each row once. Raises ``BadInput`` where they are not."""
        state = self.context.states.get("test")
        if incomplete := check_complete(self.context.dataset, "test", state):
            raise BadInput(f"{incomplete.reason}: {incomplete.detail}")
        assert state is not None, "complete, so it is there"
        return state

    @property
    def last(self) -> Mapping[str, float]:
        """The metrics of the last step."""
        return self.reports[-1][1]


def ready_spec(
    name: str, *, seed: int = 0, params: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None
) -> ExperimentSpec:
    """The ready spec called ``name`` with ``seed`` for the split and the weights, and other ``params`` and ``data``.

    Raises ``NotFound`` for an unknown name.
    """
    paths = find_specs()
    if name not in paths:
        raise NotFound(f"there is no ready spec {name!r}; there are {', '.join(paths)}")
    spec = from_yaml(ExperimentSpec, paths[name].read_text(encoding="utf-8"))
    split = spec.data.split.amended(seed=seed).model_dump()
    changed = {**spec.data.model_dump(), "split": split, **(data or {})}
    return spec.amended(seed=seed, params={**spec.params, **(params or {})}, data=changed)


def train_once(train: Workload, spec: ExperimentSpec, **options: Any) -> Trained:
    """Train in this process on one rank; ``options``: those of ``LocalContext``, such as ``export_to``."""
    outlet = options.pop("outlet", None) or KeepingOutlet()
    manifest = find_manifest(spec.workload)
    params = manifest.with_defaults(spec.params)
    context = LocalContext(
        dataset=open_dataset(spec.data),
        origin=Origin(workload=spec.workload, module=manifest.module.partition(":")[0], params=params),
        outlet=outlet,
        seed=spec.seed,
        threshold=spec.evaluation.threshold,
        **options,
    )
    train(params, context)
    return Trained(context=context, reports=tuple(outlet.reports))


def checked_workloads() -> Iterator[str]:
    """Installed workloads that have a check."""

    return (name for name, manifest in find_manifests().items() if manifest.check is not None)
