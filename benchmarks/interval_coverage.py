"""How often bounds of the gap between many groups hold the true gap, in simulated data, with Fairlearn's beside them.

In each setting k groups have true selection rates spread evenly around 0.4, over a width of ``gap``. A data set is
drawn, bounds at a nominal 95 % are computed, and it is counted how often ``upper95``, ``lower95`` and the two-sided
interval hold the truth. ``SIMULATED``: data sets a setting; ``FAIRLEARN``: of them, those that Fairlearn's bootstrap is
given too, with ``BOOTSTRAPS`` resamplings each (it resamples rows, so it takes seconds for one data set).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size
from fairlead.evaluation.estimates import Rates
from fairlead.evaluation.intervals import Bounds, gap_bounds, minimum_bounds, ratio_bounds

NAME = "interval_coverage"
SIMULATED, FAIRLEARN, BOOTSTRAPS = 2000, 20, 100
CENTRE, ALPHA = 0.4, 0.05
KINDS = ("difference", "ratio", "group_min")


@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalCoverage:
    """Shares of data sets; widths are those of two-sided intervals of the gap, the mean over settings."""

    min_coverage: float
    """The least of ``upper95``, ``lower95`` and the interval, over all settings, for the gap."""
    settings: int
    mean_width: float
    fairlearn_min_coverage: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """``rows``: of each group; 0 for 20 to 2,000 rows, geometric."""

    groups: int
    rows: int
    gap: float

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each group."""
        if self.rows:
            return np.full(self.groups, self.rows, dtype=np.int64)
        return np.geomspace(20, 2000, self.groups).round().astype(np.int64)

    @property
    def rates(self) -> NDArray[np.float64]:
        """The true rate of each group."""
        return CENTRE + np.linspace(-self.gap / 2, self.gap / 2, self.groups)

    @property
    def truth(self) -> dict[str, float]:
        """What each kind of bound should hold."""
        low, high = float(self.rates.min()), float(self.rates.max())
        return {"difference": high - low, "ratio": low / high, "group_min": low}

    @property
    def name(self) -> str:
        """``10 groups of 500, gap 0.1``."""
        return f"{self.groups} groups of {self.rows or '20 to 2,000'}, gap {self.gap:g}"


SETTINGS = (
    Setting(groups=2, rows=200, gap=0.0),
    Setting(groups=2, rows=200, gap=0.1),
    Setting(groups=10, rows=100, gap=0.0),
    Setting(groups=10, rows=1000, gap=0.0),
    Setting(groups=10, rows=500, gap=0.1),
    Setting(groups=20, rows=0, gap=0.0),
    Setting(groups=20, rows=0, gap=0.1),
)


def measure() -> Measurement:
    """All settings, ours on every data set, Fairlearn's on the first few."""
    simulated, theirs_on, bootstraps = (
        size("SIMULATED", SIMULATED),
        size("FAIRLEARN", FAIRLEARN),
        size("BOOTSTRAPS", BOOTSTRAPS),
    )
    found = [
        one_setting(setting, simulated=simulated, theirs_on=theirs_on, bootstraps=bootstraps) for setting in SETTINGS
    ]
    shares = [each["difference"][side] for each in found for side in ("upper95", "lower95", "interval")]
    result = IntervalCoverage(
        min_coverage=min(shares),
        settings=len(found),
        mean_width=float(np.mean([each["difference"]["mean_width"] for each in found])),
        fairlearn_min_coverage=min(each["fairlearn"]["interval"] for each in found),
    )
    sizes = {"simulated": simulated, "fairlearn": theirs_on, "bootstraps": bootstraps}
    return Measurement(result=result, sizes=sizes, details={"settings": found})


def one_setting(setting: Setting, *, simulated: int, theirs_on: int, bootstraps: int) -> dict[str, Any]:
    """Coverage and mean width of every kind in one setting, and of Fairlearn's bootstrap of the gap."""
    samples = draw_samples(setting, simulated)
    bounds = {kind: [bounds_of(kind, sample, setting.sizes) for sample in samples] for kind in KINDS}
    theirs = [their_interval(sample, setting.sizes, bootstraps) for sample in samples[:theirs_on]]
    return {
        "setting": setting.name,
        **{kind: coverage(each, setting.truth[kind]) for kind, each in bounds.items()},
        "fairlearn": their_coverage(theirs, setting.truth["difference"]),
    }


def draw_samples(setting: Setting, simulated: int) -> NDArray[np.int64]:
    """Selected rows of each group in each data set, shape (simulated, groups)."""
    drawn = np.random.default_rng(20).binomial(setting.sizes, setting.rates, size=(simulated, setting.groups))
    return np.asarray(drawn, dtype=np.int64)


def bounds_of(kind: str, selected: NDArray[np.int64], sizes: NDArray[np.int64]) -> Bounds:
    """The engine's bounds of one data set."""
    rates = Rates(
        numerators=selected.astype(np.float64),
        denominators=sizes.astype(np.float64),
        undefined="empty",
        is_empty=np.zeros(len(sizes), dtype=bool),
    )
    match kind:
        case "difference":
            return gap_bounds([rates], alpha=ALPHA)
        case "ratio":
            return ratio_bounds([rates], alpha=ALPHA)
        case _:
            return minimum_bounds([rates], alpha=ALPHA)


def coverage(bounds: Sequence[Bounds], truth: float) -> dict[str, float]:
    """Shares of data sets whose bounds hold ``truth``, and the mean width of the two-sided interval."""
    slack = 1e-12  # the truth is a float too
    return {
        "upper95": share(each.upper >= truth - slack for each in bounds),
        "lower95": share(each.lower <= truth + slack for each in bounds),
        "interval": share(each.interval[0] - slack <= truth <= each.interval[1] + slack for each in bounds),
        "mean_width": float(np.mean([each.interval[1] - each.interval[0] for each in bounds])),
    }


def their_coverage(intervals: Sequence[tuple[float, float]], truth: float) -> dict[str, float]:
    """The same of Fairlearn's two-sided intervals."""
    return {
        "interval": share(low <= truth <= high for low, high in intervals),
        "mean_width": float(np.mean([high - low for low, high in intervals])),
        "data_sets": len(intervals),
    }


def share(held: Iterator[bool] | Sequence[bool]) -> float:
    """Of all, those that hold."""
    return float(np.mean([*held]))


def their_interval(selected: NDArray[np.int64], sizes: NDArray[np.int64], bootstraps: int) -> tuple[float, float]:
    """Fairlearn's two-sided 95 % interval of the gap in one data set: percentiles of its bootstrap."""
    from fairlearn.metrics import MetricFrame, selection_rate  # seconds to import; loads pandas and scikit-learn

    groups = np.repeat(np.arange(len(sizes)), sizes)
    predictions = np.concatenate(
        [np.repeat([1, 0], [yes, rows - yes]) for yes, rows in zip(selected, sizes, strict=True)]
    )
    frame = MetricFrame(
        metrics=selection_rate,
        y_true=predictions,
        y_pred=predictions,
        sensitive_features=groups,
        n_boot=bootstraps,
        ci_quantiles=[ALPHA / 2, 1 - ALPHA / 2],
        random_state=0,
    )
    low, high = frame.difference_ci()
    return float(low), float(high)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result: the least coverage in each setting, Fairlearn's below."""
    rows = []
    for each in document["details"]["settings"]:
        ours = [each["difference"][side] for side in ("upper95", "lower95", "interval")]
        theirs = each["fairlearn"]["interval"]
        rows.append(Bar(label=each["setting"], value=min(ours), low=min(ours), high=max(ours)))
        rows.append(Bar(label="Fairlearn's bootstrap", value=theirs, low=theirs, high=theirs, is_ours=False))
    (directory / f"{NAME}.svg").write_text(
        bars("Share of data sets whose bounds hold the true gap (0.95 wanted)", rows)
    )


def table(document: Mapping[str, Any]) -> str:
    """Every setting as a row: coverage of the gap's three bounds and mean width, ours and Fairlearn's."""
    head = [
        "| setting | upper95 | lower95 | interval | mean width | Fairlearn's interval | its mean width |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = [
        f"| {each['setting']} | {each['difference']['upper95']:.3f} | {each['difference']['lower95']:.3f} "
        f"| {each['difference']['interval']:.3f} | {each['difference']['mean_width']:.3f} "
        f"| {each['fairlearn']['interval']:.2f} | {each['fairlearn']['mean_width']:.3f} |"
        for each in document["details"]["settings"]
    ]
    return "\n".join(["", *head, *rows, ""])
