"""Brier's score and the log loss: equal to scikit-learn's, kept in sums that any sharding gives alike."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss

from fairlead.evaluation import CountState, build_report, disparity, evaluate_gates, grouping
from fairlead.evaluation.metrics import group_estimates
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance, example_state, state_of_rows
from fairlead.workload import Attribute

SCIKIT = {"brier_score_loss": brier_score_loss, "log_loss": log_loss}


def rows(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups, labels and scores; some scores are 0 and 1, some of them wrongly."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    labels[:classes] = np.arange(classes)
    if classes == 2:
        scores = generator.beta(0.3, 0.3, n)
        scores[: n // 10] = np.rint(scores[: n // 10])
    else:
        scores = generator.dirichlet(np.full(classes, 0.3), n)
    return generator.integers(0, 3, n), labels, scores


def counted(groups: np.ndarray, labels: np.ndarray, scores: np.ndarray, *, classes: int) -> CountState:
    state = CountState(
        attributes=[Attribute(name="g", levels=("a", "b", "c"))],
        classes=[str(index) for index in range(classes)],
        has_scores=True,
        has_losses=True,
    )
    predictions = scores.argmax(axis=1) if classes > 2 else (scores >= 0.5).astype(np.int64)
    state.update(groups[:, None], labels, predictions, record_hashes=np.arange(len(labels)), scores=scores)
    return state


@pytest.mark.parametrize("metric", SCIKIT)
@pytest.mark.parametrize(("n", "classes"), [(7, 2), (400, 2), (150_000, 2), (5000, 4)])
def test_values_are_those_of_scikit_learn_overall_and_by_group(metric: str, n: int, classes: int) -> None:
    groups, labels, scores = rows(n, classes, seed=n)
    state = counted(groups, labels, scores, classes=classes)
    names = list(range(classes))
    expected = SCIKIT[metric](labels, scores, labels=names)
    assert group_estimates(metric, grouping(state).counts).values[0] == pytest.approx(expected, abs=1e-12)
    values = group_estimates(metric, grouping(state, ("g",)).counts).values
    for group in set(groups.tolist()):
        own = groups == group
        assert values[group] == pytest.approx(SCIKIT[metric](labels[own], scores[own], labels=names), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_any_sharding_gives_the_same_bytes(classes: int) -> None:
    groups, labels, scores = rows(1000, classes, seed=1)
    whole = counted(groups, labels, scores, classes=classes)
    for cuts in ([100], [1, 2, 700], [333, 666]):
        parts = zip(np.split(groups, cuts), np.split(labels, cuts), np.split(scores, cuts), strict=True)
        merged, *others = (counted(*part, classes=classes) for part in parts)
        for other in others:
            merged = other.merge(merged)
        assert merged.losses is not None
        assert whole.losses is not None
        assert merged.losses.tobytes() == whole.losses.tobytes()
    again = CountState.from_bytes(whole.to_bytes())
    assert again.digest() == whole.digest()
    assert b"fairlead-state/3" in whole.to_bytes()


def test_the_interval_of_a_mean_loss_is_students() -> None:
    groups, labels, scores = rows(400, 2, seed=2)
    estimates = group_estimates("brier_score_loss", grouping(counted(groups, labels, scores, classes=2)).counts)
    losses = (scores - labels) ** 2
    low, high = stats.t.interval(0.95, 399, losses.mean(), stats.sem(losses))
    limits = estimates.limits(0.025)
    assert (limits.lower[0], limits.upper[0]) == pytest.approx((low, high), abs=1e-9)


def test_limits_stay_within_what_a_loss_can_be() -> None:
    """Two classes: a Brier score of at most 1. More: of at most 2."""
    for classes, most in ((2, 1.0), (3, 2.0)):
        labels = np.zeros(3, dtype=np.int64)
        wrong = np.array([1.0, 1.0, 0.4]) if classes == 2 else np.eye(3)[[1, 1, 0]]
        state = counted(labels, labels, wrong, classes=classes)
        limits = group_estimates("brier_score_loss", grouping(state).counts).limits(0.025)
        assert limits.upper[0] == most


def test_gaps_in_losses_have_bounds_and_can_be_required() -> None:
    groups, labels, scores = rows(3000, 2, seed=3)
    scores = np.where(groups == 2, 0.5, 0.02 + 0.96 * labels)  # nothing is known about c, nearly all about the others
    state = counted(groups, labels, scores, classes=2)
    found = disparity(
        "brier_score_loss_difference", grouping(state, ("g",)), grouping(state).counts, alpha=0.05, min_support=30
    )
    assert found.of_all.value == pytest.approx(0.25 - 0.0004)
    assert found.of_all.bounds is not None
    assert found.of_all.bounds.lower == pytest.approx(0.2496, abs=1e-6)
    require = {"log_loss": "<= 0.7", "log_loss_group_max": "<= 0.5", "brier_score_loss_difference": "<= 0.1"}
    gates = [
        GateSpec(metric=name, by=() if name == "log_loss" else ("g",), require=one) for name, one in require.items()
    ]
    assert [one.outcome for one in evaluate_gates(state, gates, EvaluationSpec())] == ["pass", "fail", "fail"]


def test_a_group_without_scores_has_no_loss_and_one_of_a_single_class_has() -> None:
    state = state_of_rows([0, 0, 1, 0], [0, 0, 1, 1], groups={"g": ["a", "a", "b", None]}, scores=[0.1, 0.3, 0.8, 0.6])
    groups = grouping(state, ("g",))
    estimates = group_estimates("brier_score_loss", groups.counts)
    assert estimates.values == pytest.approx([0.05, 0.04, 0.36])
    without = group_estimates("log_loss", grouping(example_state(rows=0)).counts)
    assert np.isnan(without.values[0])
    assert without.reason(0) == "empty"


def test_wrong_certainties_are_counted_and_said() -> None:
    state = state_of_rows([0, 1, 1], [1, 0, 1], scores=[1.0, 0.0, 1.0])
    report = build_report(state, provenance=a_provenance(n_expected=3), evaluation=EvaluationSpec())
    assert "2 rows gave their own class no probability; the log loss of each counts as 36." in report["limitations"]
    assert report["groups"][0]["metrics"]["log_loss"]["value"] == pytest.approx(
        log_loss([0, 1, 1], [1.0, 0.0, 1.0]), abs=1e-12
    )


def test_states_of_before_there_were_losses_are_read_and_say_that_there_are_none() -> None:
    state = CountState(attributes=[], classes=("0", "1"), has_scores=True)
    state.update(np.zeros((2, 0)), [0, 1], [0, 1], record_hashes=[1, 2], scores=[0.2, 0.7])
    old = CountState.from_bytes(state.to_bytes())
    assert b"fairlead-state/1" in old.to_bytes()
    (outcome,) = evaluate_gates(old, [GateSpec(metric="log_loss", require="<= 1")], EvaluationSpec())
    assert (outcome.outcome, "hold no losses" in outcome.why) == ("inconclusive", True)
    report = build_report(old, provenance=a_provenance(n_expected=2), evaluation=EvaluationSpec())
    assert "log_loss" not in report["groups"][0]["metrics"]
    with pytest.raises(ValueError, match="can be merged"):
        old.merge(state_of_rows([0], [0], scores=[0.1]))


def test_losses_without_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="needs scores"):
        CountState(attributes=[], classes=("0", "1"), has_losses=True)
