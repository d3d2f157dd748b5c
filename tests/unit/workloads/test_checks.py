"""Every workload's bars: in their short form always, in full every night."""

from pathlib import Path

import pytest

from fairlead.checking import checked_workloads, run_check

WORKLOADS = sorted(checked_workloads())


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_short_training_already_learns(workload: str, tmp_path: Path) -> None:
    checked = run_check(workload, is_short=True, scratch=tmp_path)
    print(checked.to_json())
    assert [verdict.bar.name for verdict in checked.verdicts if not verdict.is_met] == []


@pytest.mark.nightly  # five full trainings and their baselines
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_bars_are_met_over_five_seeds(workload: str, tmp_path: Path) -> None:
    checked = run_check(workload, is_short=False, scratch=tmp_path)
    print(checked.to_json())
    assert [verdict.bar.name for verdict in checked.verdicts if not verdict.is_met] == []
