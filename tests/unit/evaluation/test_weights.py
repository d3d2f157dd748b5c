"""Rows that count by weight, together with others of their cluster, or against another model's answers."""

from functools import reduce

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, precision_score

from fairlead.evaluation import CountState, build_report, disparity, grouping
from fairlead.evaluation.estimates import WeightedRates
from fairlead.evaluation.keyed import poisson_weights, replicate_keys, splitmix64
from fairlead.evaluation.metrics import group_estimates
from fairlead.evaluation.paired import paired_differences
from fairlead.spec import EvaluationSpec
from fairlead.testing.evaluation import a_provenance
from fairlead.workload import Attribute

PLACE = Attribute(name="place", levels=("a", "b", "c"))
THEIRS = {
    "accuracy_score": accuracy_score,
    "selection_rate": selection_rate,
    "true_positive_rate": true_positive_rate,
    "false_positive_rate": false_positive_rate,
    "precision_score": precision_score,
}
N = 400


class Rows:
    """Four hundred fixed rows."""

    def __init__(self) -> None:
        random = np.random.default_rng(4)
        self.codes = random.integers(0, 3, (N, 1))
        self.labels, self.predictions = random.integers(0, 2, N), random.integers(0, 2, N)
        self.champion = random.integers(-1, 2, N)
        self.hashes = random.integers(0, 2**64, N, dtype=np.uint64)
        self.clusters = np.repeat(random.integers(0, 2**64, N // 4, dtype=np.uint64), 4)
        self.weights = random.gamma(2.0, 20.0, N)


def counted(rows: np.ndarray | slice = slice(None), **parts: bool | int) -> CountState:
    all_rows = Rows()
    state = CountState(attributes=[PLACE], classes=["0", "1"], **parts)  # type: ignore[arg-type]
    extra = {
        name: getattr(all_rows, name)[rows]
        for name, part in {"weights": "has_weights", "champion": "has_champion", "clusters": "replicates"}.items()
        if parts.get(part)
    }
    state.update(
        all_rows.codes[rows],
        all_rows.labels[rows],
        all_rows.predictions[rows],
        record_hashes=all_rows.hashes[rows],
        **extra,
    )
    return state


def test_weighted_values_and_gaps_equal_fairlearns() -> None:
    rows, state = Rows(), counted(has_weights=True)
    frame = MetricFrame(
        metrics=THEIRS,
        y_true=rows.labels,
        y_pred=rows.predictions,
        sensitive_features=rows.codes[:, 0],
        sample_params={name: {"sample_weight": rows.weights} for name in THEIRS},
    )
    for metric in THEIRS:
        ours = group_estimates(metric, grouping(state, ["place"]).counts)
        assert ours.values[:3] == pytest.approx(frame.by_group[metric].to_numpy(), abs=1e-10)
        gap = disparity(
            f"{metric}_difference", grouping(state, ["place"]), grouping(state).counts, alpha=0.05, min_support=1
        )
        assert gap.of_all.value == pytest.approx(frame.difference()[metric], abs=1e-10)
        assert gap.of_all.bounds is not None
        assert gap.of_all.bounds.lower <= gap.of_all.value <= gap.of_all.bounds.upper


def test_equal_weights_change_nothing_but_the_method() -> None:
    rows = Rows()
    state = CountState(attributes=[PLACE], classes=["0", "1"], has_weights=True)
    state.update(rows.codes, rows.labels, rows.predictions, record_hashes=rows.hashes, weights=np.full(N, 0.5))
    plain = group_estimates("selection_rate", grouping(counted(), ["place"]).counts).take([0, 1, 2])
    weighted = group_estimates("selection_rate", grouping(state, ["place"]).counts).take([0, 1, 2])
    assert weighted.values == pytest.approx(plain.values, abs=1e-12)
    assert weighted.limits(0.05).upper == pytest.approx(plain.limits(0.05).upper, abs=1e-6)
    assert weighted.support.tolist() == plain.support.tolist()
    assert weighted.method == "wilson-effective"


@pytest.mark.parametrize(
    ("weight", "message"),
    [(-0.1, "negative"), (np.nan, "must be numbers"), (np.inf, "must be numbers"), (2000.0, "divide them")],
)
def test_impossible_weights_are_refused_by_name(weight: float, message: str) -> None:
    state = CountState(attributes=[PLACE], classes=["0", "1"], has_weights=True)
    with pytest.raises(ValueError, match=message):
        state.update([[0], [0]], [1, 0], [1, 0], record_hashes=[1, 2], weights=[1.0, weight])
    assert state.n == 0


def test_weights_of_zero_are_counted_and_give_no_value() -> None:
    state = CountState(attributes=[PLACE], classes=["0", "1"], has_weights=True)
    state.update([[0], [0], [1]], [1, 0, 1], [1, 0, 1], record_hashes=[1, 2, 3], weights=[0, 0, 1])
    found = group_estimates("accuracy_score", grouping(state, ["place"]).counts)
    assert state.n_zero_weights == 2
    assert [found.reason(group) for group in range(3)] == ["no_weight", None, "empty"]
    assert np.isnan(found.values[0])


def test_a_report_of_nothing_but_weights_of_zero_has_no_value() -> None:
    state = CountState(attributes=[PLACE], classes=["0", "1"], has_weights=True)
    state.update([[0], [0], [1]], [1, 0, 1], [1, 0, 1], record_hashes=[1, 2, 3], weights=[0, 0, 0])
    evaluation = EvaluationSpec(groupings=(("place",),))
    report = build_report(state, provenance=a_provenance(n_expected=3), evaluation=evaluation)
    assert {entry["metrics"]["accuracy_score"]["value"] for entry in report["groups"]} == {None}
    assert "3 rows have a weight of 0: they are counted, and add nothing to any rate." in report["limitations"]
    assert report["resolution"][0]["smallest_provable_gap"] is None


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.lists(st.integers(0, N), min_size=3, max_size=3))
def test_weights_pairs_and_replicates_do_not_depend_on_sharding(order: list[int], cuts: list[int]) -> None:
    parts = {"has_weights": True, "has_champion": True, "replicates": 5, "replicate_seed": 9}
    shards = [counted(rows, **parts) for rows in np.split(np.arange(N), sorted(cuts))]
    merged = reduce(CountState.merge, [shards[index] for index in order])
    whole = counted(**parts)
    assert merged.to_bytes() == whole.to_bytes()
    assert CountState.from_bytes(whole.to_bytes()).digest() == whole.digest()


def test_the_first_format_is_still_written_and_read_where_it_is_enough() -> None:
    assert b"fairlead-state/1" in counted().to_bytes()
    second = counted(has_weights=True).to_bytes()
    assert b"fairlead-state/2" in second
    assert CountState.from_bytes(second).parts.has_weights
    with pytest.raises(ValueError, match="state"):
        CountState.from_bytes(second.replace(b"state/2", b"state/3"))


def test_states_that_keep_different_things_do_not_merge() -> None:
    with pytest.raises(ValueError, match="can be merged"):
        counted(has_weights=True).merge(counted())
    with pytest.raises(ValueError, match="needs weights"):
        CountState(attributes=[], classes=["0", "1"], has_weights=True).update([[]], [1], [1], record_hashes=[1])
    with pytest.raises(ValueError, match="takes no clusters"):
        CountState(attributes=[], classes=["0", "1"]).update([[]], [1], [1], record_hashes=[1], clusters=[1])


def test_splitmix_gives_the_published_numbers() -> None:
    # the first outputs of the reference generator seeded with 1234567 (rosettacode.org)
    gamma = np.uint64(0x9E3779B97F4A7C15)
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * gamma
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keyed_weights_are_poisson_and_independent_of_each_other() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    one, two = (poisson_weights(hashes, key) for key in replicate_keys(2, seed=1))
    expected = stats.poisson(1).pmf(np.arange(6)) * len(hashes)
    assert stats.chisquare(np.bincount(one)[:6], expected * np.bincount(one)[:6].sum() / expected.sum()).pvalue > 1e-3
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02


def test_replicates_see_clusters_that_rows_hide() -> None:
    random = np.random.default_rng(8)
    people = random.integers(0, 2, 100)  # each person is 20 equal rows: one fact, twenty times
    labels = np.repeat(people, 20)
    hashes = random.integers(0, 2**64, 100, dtype=np.uint64)
    states = [CountState(attributes=[], classes=["0", "1"], replicates=kept) for kept in (0, 400)]
    states[0].update(np.zeros((2000, 0)), labels, labels, record_hashes=np.arange(2000))
    states[1].update(np.zeros((2000, 0)), labels, labels, record_hashes=np.arange(2000), clusters=np.repeat(hashes, 20))
    naive, honest = (group_estimates("selection_rate", grouping(state).counts) for state in states)
    widths = [float((each.limits(0.025).upper - each.limits(0.025).lower)[0]) for each in (naive, honest)]
    assert isinstance(honest, WeightedRates)
    assert honest.method == "replicates-t"
    assert widths[1] / widths[0] == pytest.approx(20**0.5, rel=0.15)


def test_a_pair_of_models_is_compared_on_the_same_rows() -> None:
    rows, state = Rows(), counted(has_champion=True)
    right, theirs = rows.predictions == rows.labels, rows.champion == rows.labels
    found = paired_differences("accuracy_score", grouping(state, ["place"]).counts)
    for group in range(3):
        here = rows.codes[:, 0] == group
        assert found.values[group] == pytest.approx(right[here].mean() - theirs[here].mean(), abs=1e-12)
        assert found.support[group] == here.sum()
    limits = found.limits(0.05)
    assert np.all(limits.lower[:3] <= found.values[:3])
    assert np.all(limits.upper[:3] >= found.values[:3])
    selected = paired_differences("selection_rate", grouping(state).counts)
    assert selected.values[0] == pytest.approx((rows.predictions == 1).mean() - (rows.champion == 1).mean())
    recall = paired_differences("true_positive_rate", grouping(state).counts)
    positive = rows.labels == 1
    assert recall.values[0] == pytest.approx(
        (rows.predictions[positive] == 1).mean() - (rows.champion[positive] == 1).mean()
    )


def test_metrics_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="precision_score"):
        paired_differences("precision_score", grouping(counted(has_champion=True)).counts)
    with pytest.raises(ValueError, match="champion"):
        paired_differences("accuracy_score", grouping(counted()).counts)


def test_beyond_ten_classes_only_right_and_wrong_are_paired() -> None:
    classes = [str(index) for index in range(12)]
    state = CountState(attributes=[], classes=classes, has_champion=True)
    state.update(np.zeros((3, 0)), [3, 11, 0], [3, 0, -1], record_hashes=[1, 2, 3], champion=[1, 11, 0])
    assert state.paired is not None
    assert state.paired.shape == (1, 12, 2, 2)
    assert paired_differences("accuracy_score", grouping(state).counts).values[0] == pytest.approx(-1 / 3)
