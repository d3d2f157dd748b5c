import dataclasses
from pathlib import Path

import pytest
from benchmarks.evaluation_share import Run, conclude, merged_in, slowest, spec

from fairlead.spec import ExperimentSpec, from_mapping
from fairlead.testing.evaluation import state_of_tables

RUN = Run(epoch_s=2.0, forward_s=0.1, counting_s=0.012, merging_s=0.003, train_rows=3000, test_rows=1000)


def test_what_is_added_is_compared_with_an_epoch_of_as_many_rows() -> None:
    assert RUN.added_s == pytest.approx(0.015)
    assert RUN.share == pytest.approx(0.015 / (2.0 / 3))


def test_the_share_is_the_median_of_runs_and_the_rest_is_kept_beside() -> None:
    slow = dataclasses.replace(RUN, counting_s=0.5)
    fast = dataclasses.replace(RUN, counting_s=0.002)
    measurement = conclude([slow, RUN, fast], {})
    assert measurement.result.share_of_epoch == pytest.approx(RUN.share, abs=1e-6)
    assert measurement.details["share_of_whole_epoch"]["p50"] == round(0.015 / 2, 3)
    assert measurement.details["share_of_forward"]["p50"] == 0.15
    assert measurement.details["counting_ms"] == {"p50": 12.0, "p95": 500.0, "min": 2.0, "max": 500.0, "runs": 3}


def test_the_slowest_rank_counts() -> None:
    rank = {"epochs_s": [9.0, 1.0, 1.2], "forward_s": 0.1, "counting_s": 0.01, "encoding_s": 0.001}
    rows = {"train_rows": 30, "test_rows": 15}
    other = {"epochs_s": [1.0, 1.0, 1.0], "forward_s": 0.2, "counting_s": 0.001, "encoding_s": 0.02}
    run = slowest([rank | rows, other | rows], merging_s=0.5)
    assert (run.epoch_s, run.forward_s, run.merging_s) == (1.2, 0.2, 0.5)
    assert run.counting_s == pytest.approx(0.021)
    assert (run.train_rows, run.test_rows) == (30, 15)


def test_merging_is_done_and_written(tmp_path: Path) -> None:
    state = state_of_tables({"a": (1, 2, 3, 4), "b": (4, 3, 2, 1)})
    assert merged_in(state.to_bytes(), tmp_path / "merged") > 0
    assert type(state).from_bytes((tmp_path / "merged").read_bytes()).n == 2 * state.n


def test_the_experiment_is_one(tmp_path: Path) -> None:
    found = from_mapping(ExperimentSpec, spec(tmp_path / "s", epochs=3, width=8))
    assert (found.resources.workers, found.params["epochs"], found.sensitive) == (2, 4, ("sex", "age_band"))
