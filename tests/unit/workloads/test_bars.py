"""How good the workloads must be, and what their ready specs promise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairlead.data import find_specs, open_dataset
from fairlead.evaluation.gates import Outcome, evaluate_gates
from fairlead.spec import ExperimentSpec, from_yaml
from fairlead.testing.context import Trained, a_context, train_on_ranks
from fairlead_workloads import tabular_mlp


def ready(name: str, *, seed: int = 0, **params: Any) -> ExperimentSpec:
    """A ready spec with one seed for the split and the weights."""
    spec = from_yaml(ExperimentSpec, find_specs()[name].read_text())
    split = spec.data.split.amended(seed=seed)
    return spec.amended(seed=seed, params=params, data=spec.data.amended(split=split.model_dump()).model_dump())


def accuracy(trained: Trained) -> float:
    table = trained.states["test"].counts.sum(axis=0)
    return float(np.trace(table) / table.sum())


def areas(seed: int, directory: Path) -> tuple[float, float]:
    """Exact test AUC of our model and of logistic regression, trained on the same rows."""
    spec = ready("diabetes_risk", seed=seed)
    context = a_context(spec, export_to=directory / str(seed))
    tabular_mlp.train(spec.params, context)
    test, train = context.all_rows("test"), context.all_rows("train")
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(train.features, train.labels)
    ours = tabular_mlp.load(directory / str(seed))(test.features)[:, 1]
    theirs = linear.predict_proba(test.features)[:, 1]
    return float(roc_auc_score(test.labels, ours)), float(roc_auc_score(test.labels, theirs))


def test_diabetes_is_ranked_as_well_as_by_logistic_regression_over_20_splits(tmp_path: Path) -> None:
    ours, theirs = np.array([areas(seed, tmp_path) for seed in range(20)]).T
    print(f"mean AUC over 20 splits: tabular_mlp {ours.mean():.4f}, LogisticRegression {theirs.mean():.4f}")
    assert ours.mean() >= theirs.mean() - 0.01


def test_the_ready_diabetes_specs_end_as_their_comments_say() -> None:
    """The honest model passes both gates; the unfair one fails by its lower bound, not merely for want of rows."""
    specs = [ready("diabetes_risk"), ready("diabetes_unfair")]
    trained = train_on_ranks("fairlead_workloads.tabular_mlp:train", specs, ranks=2)
    honest, unfair = (
        evaluate_gates(each.states["test"], spec.gates, spec.evaluation)
        for spec, each in zip(specs, trained, strict=True)
    )
    assert [gate.outcome for gate in honest] == [Outcome.PASS, Outcome.PASS]
    assert unfair[0].outcome == Outcome.FAIL
    assert unfair[0].lower95 is not None
    assert unfair[0].lower95 > 0.4


def test_the_ready_diabetes_specs_differ_in_nothing_but_the_injustice() -> None:
    honest, unfair = ready("diabetes_risk"), ready("diabetes_unfair")
    assert unfair.amended(name=honest.name, data={**unfair.data.model_dump(), "label_noise": None}) == honest
    assert open_dataset(honest.data).info.digest == open_dataset(unfair.data).info.digest


def test_digits_are_read_after_a_few_epochs_on_two_ranks() -> None:
    spec = ready("digits", epochs=5)
    trained = train_on_ranks("fairlead_workloads.image_cnn:train", [spec], ranks=2)[0]
    assert accuracy(trained) >= 0.93


@pytest.mark.nightly  # ten full trainings, about two minutes on two cores
def test_digits_reach_97_percent_over_5_seeds_and_ranks_make_no_difference() -> None:
    specs = [ready("digits", seed=seed) for seed in range(5)]
    one, two = (
        np.array(
            [accuracy(trained) for trained in train_on_ranks("fairlead_workloads.image_cnn:train", specs, ranks=n)]
        )
        for n in (1, 2)
    )
    print(f"accuracy on 1 rank {one}, on 2 ranks {two}")
    assert two.mean() >= 0.97
    if not np.array_equal(one, two):  # the test is undefined where all differences are zero
        assert ttest_rel(one, two).pvalue > 0.05


@pytest.mark.nightly  # forty trainings on two ranks, about three minutes on two cores
def test_gates_of_the_diabetes_specs_decide_most_splits_and_never_wrongly() -> None:
    specs = [ready(name, seed=seed) for name in ("diabetes_risk", "diabetes_unfair") for seed in range(20)]
    trained = train_on_ranks("fairlead_workloads.tabular_mlp:train", specs, ranks=2)
    by_sex = [
        evaluate_gates(each.states["test"], spec.gates, spec.evaluation)[0].outcome
        for spec, each in zip(specs, trained, strict=True)
    ]
    honest, unfair = by_sex[:20], by_sex[20:]
    print(f"honest: {honest}; unfair: {unfair}")
    assert honest.count(Outcome.PASS) >= 15
    assert Outcome.FAIL not in honest
    assert unfair.count(Outcome.FAIL) >= 15
    assert Outcome.PASS not in unfair
