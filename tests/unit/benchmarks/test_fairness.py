import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks import fairness_engine, interval_coverage
from benchmarks.harness import as_plain
from benchmarks.interval_coverage import SETTINGS, coverage, table

from fairlead.evaluation.intervals import Bounds


def test_the_engine_and_fairlearn_are_asked_for_the_same_values() -> None:
    people = fairness_engine.population(3000)
    ours = fairness_engine.engine(people)
    apart = fairness_engine.differences(ours, fairness_engine.fairlearn(people))
    assert len(apart) == 6 * (89 + 1 + 7 * 6)  # groups of all groupings, overall, aggregates
    assert max(apart.values()) <= 1e-12


def test_a_value_that_only_one_side_has_stops_the_comparison() -> None:
    with pytest.raises(ValueError, match="not the same values"):
        fairness_engine.differences({("a",): 1.0}, {("b",): 1.0})
    assert fairness_engine.differences({("a",): math.nan, ("b",): 1.0}, {("a",): 0.0, ("b",): 0.5}) == {("b",): 0.5}


def test_more_memory_is_noticed() -> None:
    held: list[np.ndarray] = []

    def take() -> dict[tuple[str, ...], float]:
        held.append(np.ones(4_000_000))
        return {}

    assert 25 < fairness_engine.extra_memory_mb(take) < 60


def test_coverage_counts_what_is_held() -> None:
    bounds = [
        Bounds(lower=0.0, upper=0.2, interval=(0.0, 0.3)),
        Bounds(lower=0.15, upper=0.3, interval=(0.12, 0.4)),
    ]
    found = coverage(bounds, 0.1)
    assert (found["upper95"], found["lower95"], found["interval"]) == (1.0, 0.5, 0.5)
    assert found["mean_width"] == pytest.approx(0.29)


def test_a_small_simulation_gives_a_row_for_every_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"SIMULATED": "4", "FAIRLEARN": "1", "BOOTSTRAPS": "2"}.items():
        monkeypatch.setenv(name, value)
    measurement = interval_coverage.measure()
    assert as_plain(measurement.result)["settings"] == len(SETTINGS) == 7
    document = {"details": dict(measurement.details)}
    assert table(document).count("\n| ") == 9
    interval_coverage.draw(document, tmp_path)
    assert "gap 0.1" in (tmp_path / "interval_coverage.svg").read_text()
