"""Groups, weights of rows and thresholds of groups, against hand-worked cases and what they promise."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from fairlead.data.context import LocalContext
from fairlead.data.dataset import open_dataset
from fairlead.data.mitigation import (
    choose_thresholds,
    group_numbers,
    groups_of,
    problems_with,
    row_weights,
    score_counts,
)
from fairlead.errors import BadData, BadInput
from fairlead.spec import DataSpec, ExperimentSpec, MitigationSpec
from fairlead.spec.mitigation import Goal
from fairlead.testing.context import a_context
from fairlead.workload import Attribute

SEX = Attribute(name="sex", levels=("f", "m"))
AGE = Attribute(name="age", levels=("a", "b", "c"))


def test_groups_are_numbered_like_their_levels_and_an_unknown_level_makes_one_more() -> None:
    codes = np.array([(sex, age) for sex in range(3) for age in range(4)], dtype=np.int16)
    numbers = group_numbers([SEX, AGE], codes, ("age", "sex"))
    groups = groups_of([SEX, AGE], ("age", "sex"))
    assert groups.num == 7
    for (sex, age), number in zip(codes.tolist(), numbers.tolist(), strict=True):
        is_known = sex < 2 and age < 3
        assert number == (groups.keys.index((AGE.levels[age], SEX.levels[sex])) if is_known else 6)


def test_without_attributes_all_rows_are_one_group() -> None:
    assert group_numbers([SEX], np.array([[0], [1], [2]], dtype=np.int16), ()).tolist() == [0, 0, 0]


def test_reweighing_makes_label_and_group_independent_as_in_the_source() -> None:
    """Ten applicants of Kamiran and Calders 2012, table 1: 5 of each sex, 6 accepted of which 4 are men."""
    groups = np.array([0] * 5 + [1] * 5)
    labels = np.array([1, 1, 0, 0, 0, 1, 1, 1, 1, 0])
    weights = row_weights(groups, labels, num_groups=3, num_classes=2)
    assert weights[:2].tolist() == [[pytest.approx(2 / 3), 1.5], [2.0, 0.75]]  # 5·4/(10·3), 5·6/(10·2), 5·4/10, 5·6/40
    assert weights[2].tolist() == [1, 1], "rows of unknown group weigh what they would without reweighing"
    each = weights[groups, labels]
    assert each.sum() == pytest.approx(10)
    shares = [each[(groups == g) & (labels == 1)].sum() / each[groups == g].sum() for g in (0, 1)]
    assert shares == [pytest.approx(0.6), pytest.approx(0.6)]


def brute_force(counts: Any, goal: Goal) -> int:
    """Most rows right among all pairs of thresholds whose rates differ by at most a hundredth."""
    above = np.concatenate([counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1], np.zeros((2, 2, 1), dtype=int)], axis=2)
    concerned = above.sum(axis=1) if goal == "demographic_parity" else above[:, 1]
    rates = concerned / concerned[:, :1]
    right = above[:, 1] + counts[:, 0].sum(axis=1, keepdims=True) - above[:, 0]
    edges = [np.flatnonzero(np.diff(rates[group], prepend=2) < 0) for group in range(2)]
    pairs = itertools.product(*edges)
    return max(int(right[0, a] + right[1, b]) for a, b in pairs if abs(rates[0, a] - rates[1, b]) <= 0.01)


@pytest.mark.parametrize("goal", ["demographic_parity", "equal_opportunity"])
@pytest.mark.parametrize("seed", range(5))
def test_thresholds_make_rates_alike_and_cost_no_more_rows_than_they_must(goal: Goal, seed: int) -> None:
    random = np.random.RandomState(seed)
    groups, labels = random.randint(0, 2, 4000), random.randint(0, 2, 4000)
    scores = np.clip(0.3 + 0.25 * labels + 0.15 * groups + 0.15 * random.standard_normal(4000), 0, 1)
    counts = score_counts(scores, labels, groups, num_groups=2)
    chosen = choose_thresholds(counts, goal)
    decided = scores >= chosen[groups]
    concerned = np.ones(4000, dtype=bool) if goal == "demographic_parity" else labels == 1
    rates = [decided[concerned & (groups == group)].mean() for group in (0, 1)]
    assert abs(rates[0] - rates[1]) < 0.01
    assert int((decided == labels).sum()) >= brute_force(counts, goal) - 15  # a grid of 1,000 rates, not all pairs


def test_of_thresholds_with_the_same_rate_the_one_with_the_most_rows_right_is_taken() -> None:
    """Where scores separate the labels, every threshold between them selects all positives."""
    labels = np.tile([0, 0, 0, 1], 500)
    scores = np.where(labels == 1, 0.8, np.tile([0.1, 0.3, 0.5, 0.0], 500))
    groups = np.repeat([0, 1], 1000)
    chosen = choose_thresholds(score_counts(scores, labels, groups, num_groups=2), "equal_opportunity")
    assert np.array_equal(scores >= chosen[groups], labels == 1)


def test_a_threshold_above_one_selects_nobody_even_at_a_score_of_one() -> None:
    counts = score_counts(np.ones(8), np.zeros(8, dtype=np.int64), np.array([0, 1] * 4), num_groups=2)
    chosen = choose_thresholds(counts, "demographic_parity")
    assert (chosen > 1).all()


def test_counts_of_scores_add_up_over_any_parts() -> None:
    random = np.random.RandomState(0)
    scores, labels, groups = random.random_sample(100), random.randint(0, 2, 100), random.randint(0, 3, 100)
    whole = score_counts(scores, labels, groups, num_groups=3)
    parts = [score_counts(scores[at], labels[at], groups[at], num_groups=3) for at in (slice(0, 30), slice(30, 100))]
    assert np.array_equal(whole, parts[0] + parts[1])
    with pytest.raises(ValueError, match="group 2 has no row"):
        choose_thresholds(np.concatenate([whole[:2], 0 * whole[2:]]), "demographic_parity")


@pytest.mark.parametrize(
    ("data", "mitigation", "pointer", "words"),
    [
        ({"uri": "builtin://digits", "sensitive": ["ink"]}, {"method": "lagrangian"}, "method", "has 10"),
        ({"uri": "builtin://digits", "sensitive": ["ink"]}, {"method": "thresholds"}, "method", "two classes"),
        ({"uri": "builtin://diabetes"}, {"method": "reweighing", "by": ["sex"]}, "by", "not one of the sensitive"),
        (  # nobody below 10
            {
                "uri": "builtin://diabetes",
                "sensitive": ["old"],
                "bins": {"old": {"column": "age", "edges": [10]}},
            },
            {"method": "group_dro"},
            "by",
            "fewer than two groups",
        ),
    ],
)
def test_what_cannot_work_on_the_data_is_refused_before_training(
    data: dict[str, Any], mitigation: dict[str, Any], pointer: str, words: str
) -> None:
    dataset = open_dataset(DataSpec.model_validate(data))
    asked = MitigationSpec.model_validate({"by": data.get("sensitive"), **mitigation})
    (problem,) = problems_with(asked, dataset)
    assert problem.pointer == f"/mitigation/{pointer}"
    assert words in problem.message


def a_table(path: Path, groups: dict[str, tuple[int, int]]) -> DataSpec:
    """Rows without and with the positive label, for each value of ``sex``."""
    rows = [(sex, label) for sex, numbers in groups.items() for label in (0, 1) for _ in range(numbers[label])]
    lines = [f"{at},{at % 7},{sex},{'yes' if label else 'no'}" for at, (sex, label) in enumerate(rows)]
    path.write_text("\n".join(["id,x,sex,hired", *lines]))
    return DataSpec.model_validate({"uri": str(path), "target": "hired", "record_id": "id", "sensitive": ["sex"]})


@pytest.mark.parametrize("method", ["lagrangian", "adversarial"])
def test_equal_opportunity_needs_positives_of_each_known_group(method: str, tmp_path: Path) -> None:
    asked = MitigationSpec.model_validate({"method": method, "by": ["sex"], "goal": "equal_opportunity"})
    dataset = open_dataset(a_table(tmp_path / "a.csv", {"f": (90, 90), "m": (90, 0), "": (90, 0)}))
    (problem,) = problems_with(asked, dataset)
    assert problem.message == f"{method} needs rows labelled 'yes' of each group in the train split; m has none"
    dataset = open_dataset(a_table(tmp_path / "b.csv", {"f": (90, 90), "m": (90, 30), "": (90, 0)}))
    assert problems_with(asked, dataset) == ()


def test_reweighing_refuses_a_group_without_one_of_the_labels() -> None:
    progression = load_diabetes(scaled=False).data[:, 2]  # nobody lean enough for the lowest band is ill
    edges = [float(np.sort(progression)[2])]
    data = {"uri": "builtin://diabetes", "sensitive": ["lean"], "bins": {"lean": {"column": "bmi", "edges": edges}}}
    spec = ExperimentSpec.model_validate(
        {
            "name": "a",
            "workload": "tabular_mlp",
            "data": {**data, "split": {"train": 0.8, "validation": 0.1, "test": 0.1, "seed": 1}},
            "mitigation": {"method": "reweighing", "by": ["lean"]},
        }
    )
    with pytest.raises(BadData, match=r"reweighing needs rows labelled '.*' of each group in the train split; <"):
        a_context(spec)


def test_the_context_numbers_groups_and_lets_no_workload_pass_by() -> None:
    spec = ExperimentSpec.model_validate(
        {
            "name": "a",
            "workload": "tabular_mlp",
            "data": {"uri": "builtin://diabetes", "sensitive": ["sex", "age_band"]},
            "mitigation": {"method": "group_dro", "by": ["sex"]},
        }
    )
    context: LocalContext = a_context(spec)
    rows = context.shard("test")
    assert set(context.groups(rows.records).tolist()) == {0, 1}
    with pytest.raises(BadInput, match="does not carry it out"):
        context.report({"loss": 1.0}, step=1)
    with pytest.raises(BadInput, match="does not carry it out"):
        context.evaluate("test", records=rows.records, predictions=rows.labels)
    assert context.mitigation == spec.mitigation
    context.report({"loss": 1.0}, step=1)
