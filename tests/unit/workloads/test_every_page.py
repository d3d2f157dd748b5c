"""What holds for every page that has a check: its manifest, its determinism, its checkpoints, its ranks."""

import dataclasses
import importlib
import math
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fairlead.checking import checked_workloads, find_check, ready_spec
from fairlead.data import find_manifests, open_dataset
from fairlead.data.context import KeepingOutlet, check_complete
from fairlead.errors import BadData
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import Trained, a_context, train_here, train_on_ranks

PAGES = sorted(checked_workloads())


def page_of(name: str) -> Any:
    return importlib.import_module(f"fairlead_workloads.{name}")


def quick_spec(name: str, *, seed: int = 3) -> ExperimentSpec:
    """The ready spec, made so small that it trains within seconds."""
    manifest = find_manifests()[name]
    assert manifest.example is not None, "a workload with a check has a ready spec"
    quick = find_check(manifest).quick
    spec = ready_spec(manifest.example, seed=seed, params=quick.get("params"), data=quick.get("data"))
    return spec.amended(params=manifest.with_defaults(spec.params))


@pytest.fixture(params=PAGES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_manifest_says_what_the_page_reads(name: str) -> None:
    manifest = find_manifests()[name]
    defaults = {field.name: field.default for field in dataclasses.fields(page_of(name).Settings)}
    declared = {key: parameter.default for key, parameter in manifest.parameters.items()}
    assert declared == {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    assert manifest.module == f"fairlead_workloads.{name}:train"
    assert manifest.steps in declared
    assert all(parameter.help for parameter in manifest.parameters.values())
    assert manifest.space, "a sweep needs somewhere to begin"


def trained_and_files(name: str, directory: Path, **options: Any) -> tuple[Trained, bytes]:
    trained = train_here(page_of(name).train, quick_spec(name), export_to=directory, **options)
    return trained, (directory / "weights.safetensors").read_bytes()


def test_a_run_reports_what_the_manifest_says_counts_every_test_row_and_goes_on_bit_by_bit(
    name: str, tmp_path: Path
) -> None:
    """Train 2n steps = train n, stop, go on for n; and again with the same seed."""
    spec = quick_spec(name)
    whole, weights = trained_and_files(name, tmp_path / "whole")
    steps = [step for step, _ in whole.reports]
    assert len(steps) >= 2, "quick trains two steps at least"
    for _, metrics in whole.reports:
        assert set(metrics) <= set(find_manifests()[name].metrics)
        assert all(map(math.isfinite, metrics.values()))
    info = open_dataset(spec.data).info
    assert check_complete(info, "test", whole.states["test"]) is None
    stopping = KeepingOutlet(directory=tmp_path / "kept", stop_after=len(steps) // 2)
    stopped = a_context(spec, outlet=stopping, export_to=tmp_path / "none")
    page_of(name).train(spec.params, stopped)
    assert not stopped.has_exported
    assert "test" not in stopped.states
    rest = KeepingOutlet()
    resumed, same = trained_and_files(name, tmp_path / "resumed", resume_from=tmp_path / "kept", outlet=rest)
    assert same == weights
    assert [*(step for step, _ in stopping.reports), *(step for step, _ in rest.reports)] == steps
    assert resumed.states["test"].to_bytes() == whole.states["test"].to_bytes()
    assert trained_and_files(name, tmp_path / "again")[1] == weights


def learnt(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without those that say how fast it was."""
    return {name: value for name, value in metrics.items() if not name.endswith("_per_second")}


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (0, 1, 2))])
@pytest.mark.parametrize("names", [PAGES[0::2], PAGES[1::2]], ids=["some", "the others"])
def test_two_ranks_train_what_one_trains(names: list[str], seed: int) -> None:
    """Several pages in the same two processes: starting them costs more than the trainings."""
    specs = [quick_spec(name, seed=seed) for name in names]
    on_two = train_on_ranks([f"fairlead_workloads.{name}:train" for name in names], specs, ranks=2)
    for name, spec, two in zip(names, specs, on_two, strict=True):
        one = train_here(page_of(name).train, spec)
        tolerance = find_check(find_manifests()[name]).rank_tolerance
        for (_, alone), (_, together) in zip(one.reports, two.reports, strict=True):
            assert learnt(alone) == pytest.approx(learnt(together), rel=tolerance, abs=tolerance), name
        assert check_complete(open_dataset(spec.data).info, "test", two.states["test"]) is None, name


def test_data_of_the_wrong_kind_are_refused(name: str) -> None:
    kind = find_manifests()[name].data
    other = "builtin://digits" if kind != "images" else "builtin://diabetes"
    content = {"name": "a", "workload": name, "params": quick_spec(name).params, "data": {"uri": other}}
    with pytest.raises(BadData, match=r"diabetes|digits"):
        train_here(page_of(name).train, ExperimentSpec.model_validate(content))


def test_a_page_trains_alone_and_says_what_it_reached(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``python -m`` runs it, but in this process: importing torch takes longer than training."""
    quick = find_check(find_manifests()[name]).quick.get("params", {})
    given = [f"--{key}={str(value).replace(' ', '')}" for key, value in quick.items()]
    monkeypatch.setattr(sys, "argv", [name, *given, f"--save={tmp_path / 'saved'}"])
    monkeypatch.delitem(sys.modules, f"fairlead_workloads.{name}", raising=False)
    runpy.run_module(f"fairlead_workloads.{name}", run_name="__main__")
    assert "test split" in capsys.readouterr().out
    assert (tmp_path / "saved" / "model" / "model.json").is_file()
