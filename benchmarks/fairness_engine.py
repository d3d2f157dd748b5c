"""Counting, all margins and crosses, six metrics with all bounds, and a thousand replicates, beside Fairlearn.

Both measure the same made-up population: three attributes with 2, 5 and 4 levels, so 40 cells and seven groupings.
Ours gives every value with its interval, and each of six aggregates with bounds; Fairlearn's ``MetricFrame`` gives the
same values and aggregates, and no interval at all. ``ROWS``: of ours; ``COMPARED``: of both; ``RUNS``: of ours.
"""

import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size
from fairlead.evaluation import CountState, Grouping, disparity, draw_tables, grouping
from fairlead.evaluation.groups import every_subset
from fairlead.evaluation.metrics import Counts, group_estimates
from fairlead.workload import Attribute

NAME = "fairness_engine"
ROWS, COMPARED, RUNS = 10_000_000, 1_000_000, 5
REPLICATES = 1000
LEVELS = {"sex": 2, "age_band": 5, "region": 4}
METRICS = (
    "accuracy_score",
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "false_negative_rate",
    "precision_score",
)
AGGREGATES = ("difference", "ratio", "difference_to_overall", "ratio_to_overall", "group_min", "group_max")
ALPHA = 0.05
Values = dict[tuple[str, ...], float]
"""By metric, aggregate or group, and grouping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FairnessEngine:
    """Time and memory of the whole, once the predictions are in memory, and how many times longer Fairlearn takes."""

    seconds_10m_rows: float
    extra_mb: float
    fairlearn_ratio_1m: float
    max_abs_difference: float
    """Between any value of ours and Fairlearn's, where both are defined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """Encoded columns in memory, n rows each."""

    codes: NDArray[np.int16]
    labels: NDArray[np.int8]
    predictions: NDArray[np.int8]
    hashes: NDArray[np.uint64]

    def first(self, rows: int) -> "Population":
        """Its first rows."""
        return Population(
            codes=self.codes[:rows],
            labels=self.labels[:rows],
            predictions=self.predictions[:rows],
            hashes=self.hashes[:rows],
        )


def population(rows: int, *, seed: int = 0) -> Population:
    """Applicants of whom some groups are selected more often than others."""
    generator = np.random.default_rng(seed)
    columns = [generator.integers(0, levels, rows, dtype=np.int16) for levels in LEVELS.values()]
    codes = np.stack(columns, axis=1)
    chance = np.float32(0.3) + np.float32(0.02) * codes.sum(axis=1, dtype=np.float32)
    labels = (generator.random(rows, dtype=np.float32) < chance).astype(np.int8)
    keeps = generator.random(rows, dtype=np.float32) < 0.8
    predictions = np.where(keeps, labels, generator.random(rows, dtype=np.float32) < chance).astype(np.int8)
    return Population(
        codes=codes,
        labels=labels,
        predictions=predictions,
        hashes=generator.integers(0, 2**64, rows, dtype=np.uint64),
    )


def measure() -> Measurement:
    """Ours alone on all rows, then both on some of them."""
    rows, compared, runs = size("ROWS", ROWS), size("COMPARED", COMPARED), size("RUNS", RUNS)
    people = population(max(rows, compared))
    for library in ("scipy.optimize", "scipy.special"):
        importlib.import_module(library)  # loaded before the clock starts
    extra_mb = extra_memory_mb(lambda: engine(people.first(rows)))  # first: freed memory is not given back at once
    ours = [timed(lambda: engine(people.first(rows))) for _ in range(runs)]
    few = [timed(lambda: engine(people.first(compared))) for _ in range(runs)]
    theirs = timed(lambda: fairlearn(people.first(compared)))
    apart = differences(few[0].found, theirs.found)
    few_s = statistics.median(each.wall_s for each in few)
    result = FairnessEngine(
        seconds_10m_rows=statistics.median(each.wall_s for each in ours),
        extra_mb=extra_mb,
        fairlearn_ratio_1m=theirs.wall_s / few_s,
        max_abs_difference=max(apart.values()),
    )
    details = {
        "ours": [{"wall_s": each.wall_s, "processor_s": each.processor_s} for each in ours],
        "ours_compared_s": few_s,
        "fairlearn": {"wall_s": theirs.wall_s, "processor_s": theirs.processor_s},
        "values_compared": len(apart),
        "max_abs_difference": max(apart.values()),
        "stages_s": stages(people.first(rows)),
    }
    sizes = {"rows": rows, "compared": compared, "runs": runs, "replicates": REPLICATES, "cells": 40}
    return Measurement(result=result, sizes=sizes, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result: seconds for the compared rows, and ours for all."""
    details, sizes = document["details"], document["sizes"]
    seconds = {
        f"Fairlead, {sizes['rows']:,} rows": (document["result"]["seconds_10m_rows"], True),
        f"Fairlead, {sizes['compared']:,} rows": (details["ours_compared_s"], True),
        f"Fairlearn, {sizes['compared']:,} rows, no intervals": (details["fairlearn"]["wall_s"], False),
    }
    rows = [
        Bar(label=name, value=value, low=value, high=value, is_ours=ours) for name, (value, ours) in seconds.items()
    ]
    (directory / f"{NAME}.svg").write_text(bars("Seconds for 40 cells, 7 groupings, 6 metrics", rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """What was found, and how long it took."""

    found: Values
    wall_s: float
    processor_s: float


def timed(job: Callable[[], Values]) -> Timed:
    """Run ``job`` once."""
    wall, processor = time.perf_counter(), time.process_time()
    found = job()
    return Timed(found=found, wall_s=time.perf_counter() - wall, processor_s=time.process_time() - processor)


def extra_memory_mb(job: Callable[[], Values]) -> float:
    """How far the resident memory rose above where it was before ``job``."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _resident_mb("VmRSS")
    job()
    return max(0.0, _resident_mb("VmHWM") - before)


def _resident_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(f"{field} is not in /proc/self/status: this benchmark needs Linux")


# ---- ours -----------------------------------------------------------------------------------------------------------


def engine(people: Population) -> Values:
    """Count, then every value with its interval, every aggregate with its bounds, and replicates of the values."""
    state = counted(people)
    overall = grouping(state)
    found: Values = {}
    for by in groupings():
        groups = grouping(state, by)
        found |= dict(values(groups, overall))
    replicated(state)
    return found


def counted(people: Population) -> CountState:
    """The state of all rows."""
    state = CountState(attributes=attributes(), classes=("refused", "granted"))
    state.update(people.codes, people.labels, people.predictions, record_hashes=people.hashes)
    return state


def attributes() -> list[Attribute]:
    """Attributes with numbered levels."""
    return [Attribute(name=name, levels=tuple(map(str, range(levels)))) for name, levels in LEVELS.items()]


def groupings() -> tuple[tuple[str, ...], ...]:
    """All margins and crosses."""
    return every_subset([*LEVELS])


def values(groups: Grouping, overall: Grouping) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every value and aggregate that Fairlearn has too; intervals and bounds are made beside them."""
    known = [index for index, is_unknown in enumerate(groups.is_unknown) if not is_unknown]
    for metric in METRICS:
        estimates = group_estimates(metric, groups.counts)
        estimates.limits(ALPHA / 2)
        for index in known:
            yield (metric, *groups.keys[index], *groups.by), float(estimates.values[index])
        yield (metric, "overall"), float(group_estimates(metric, overall.counts).values[0])
        for aggregate in AGGREGATES:
            name = f"{metric}_{aggregate}"
            value = disparity(name, groups, overall.counts, alpha=ALPHA, min_support=30).of_all.value
            yield (name, *groups.by), np.nan if value is None else value


def replicated(state: CountState) -> NDArray[np.float64]:
    """Every metric of every cell in each of a thousand resamplings, shape (metrics, replicates, cells)."""
    drawn = draw_tables(state.counts, replicates=REPLICATES, name=NAME)
    flat = Counts(table=drawn.reshape(-1, *drawn.shape[2:]), classes=state.classes)
    return np.stack([group_estimates(metric, flat).values.reshape(drawn.shape[:2]) for metric in METRICS])


def stages(people: Population) -> dict[str, float]:
    """Seconds of each part, one run."""
    marks = [time.perf_counter()]
    state = counted(people)
    marks.append(time.perf_counter())
    overall, margins = grouping(state), [grouping(state, by) for by in groupings()]
    marks.append(time.perf_counter())
    for groups in margins:
        dict(values(groups, overall))
    marks.append(time.perf_counter())
    replicated(state)
    marks.append(time.perf_counter())
    names = ("count", "margins", "values_and_bounds", "replicates")
    return {name: round(end - start, 4) for name, start, end in zip(names, marks, marks[1:], strict=False)}


# ---- Fairlearn ------------------------------------------------------------------------------------------------------


def fairlearn(people: Population) -> Values:
    """The same values and aggregates from one ``MetricFrame`` a grouping."""
    from fairlearn.metrics import MetricFrame  # seconds to import; loads pandas and scikit-learn

    found: Values = {}
    columns = {name: people.codes[:, index] for index, name in enumerate(LEVELS)}
    for by in groupings():
        frame = MetricFrame(
            metrics=_their_metrics(),
            y_true=people.labels,
            y_pred=people.predictions,
            sensitive_features={name: columns[name] for name in by},
        )
        aggregates = {
            "difference": frame.difference(),
            "ratio": frame.ratio(),
            "difference_to_overall": frame.difference(method="to_overall"),
            "ratio_to_overall": frame.ratio(method="to_overall"),
            "group_min": frame.group_min(),
            "group_max": frame.group_max(),
        }
        for metric in METRICS:
            found[(metric, "overall")] = float(frame.overall[metric])
            for key, value in frame.by_group[metric].items():
                levels = key if isinstance(key, tuple) else (key,)
                found[(metric, *map(str, levels), *by)] = float(value)
            found |= {(f"{metric}_{name}", *by): float(each[metric]) for name, each in aggregates.items()}
    return found


def _their_metrics() -> dict[str, Callable[..., float]]:
    from fairlearn import metrics as theirs
    from sklearn.metrics import accuracy_score, precision_score

    own = {name: getattr(theirs, name) for name in METRICS if hasattr(theirs, name)}
    return {"accuracy_score": accuracy_score, "precision_score": precision_score, **own}


def differences(ours: Values, theirs: Values) -> Values:
    """How far each pair of values is apart, where both are defined. Raises ``ValueError`` where one side lacks one."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"not the same values: {sorted(ours.keys() ^ theirs.keys())[:5]}")
    apart = {key: abs(ours[key] - theirs[key]) for key in ours}
    return {key: value for key, value in apart.items() if not np.isnan(value)}
