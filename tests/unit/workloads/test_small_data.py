"""Rows, batches and ranks need not fit each other: ``docs/data.md`` says that there is no least number of rows."""

from pathlib import Path

import pytest

from fairlead.data import find_manifests
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import train_here, train_on_ranks
from fairlead_workloads import tabular_mlp


def test_ranks_without_rows_take_part_and_change_nothing(tmp_path: Path) -> None:
    """Two ranks, four rows to train on, one to test: in batches of one row a rank has none, and so it has to test."""
    (tmp_path / "t.csv").write_text("x,y\n1,a\n2,b\n3,a\n4,b\n5,a\n")
    split = {"train": 0.8, "validation": 0.0, "test": 0.2}
    data = {"uri": str(tmp_path / "t.csv"), "target": "y", "split": split}
    defaults = find_manifests()["tabular_mlp"].with_defaults({"epochs": 2, "dropout": 0.0})
    given = {"name": "n", "workload": "tabular_mlp", "data": data}
    specs = [ExperimentSpec.model_validate({**given, "params": defaults | {"batch_size": size}}) for size in (1, 64)]
    together = train_on_ranks("fairlead_workloads.tabular_mlp:train", specs, ranks=2)
    for spec, shared in zip(specs, together, strict=True):
        alone = train_here(tabular_mlp.train, spec)
        for (step, metrics), (other_step, others) in zip(alone.reports, shared.reports, strict=True):
            assert step == other_step
            assert others == pytest.approx(metrics, rel=1e-5)
        assert shared.states["test"].to_bytes() == alone.states["test"].to_bytes()
