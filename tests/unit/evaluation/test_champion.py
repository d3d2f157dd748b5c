"""A model against the champion: how far apart they are, how often that holds, and what gates make of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from fairlead.evaluation import (
    CountState,
    GateOutcome,
    Outcome,
    build_report,
    evaluate_gates,
    grouping,
    problem_with_gate,
    report_schema,
)
from fairlead.evaluation.alternatives import paired_newcombe_limits
from fairlead.evaluation.champion import Champion, OverAllRows, OverGroups, compared_metrics
from fairlead.evaluation.metrics import Counts, group_estimates
from fairlead.evaluation.paired import PAIRED_RATES, PairedDifferences, champion_counts, paired_differences
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance
from fairlead.workload import Attribute

Ints = NDArray[np.int64]


def state_of(
    groups: Ints, labels: Ints, ours: Ints, theirs: Ints, *, num_groups: int = 2, num_classes: int = 2
) -> CountState:
    """Both models' answers to some rows, by group."""
    levels = tuple(f"g{number}" for number in range(num_groups))
    classes = [str(number) for number in range(num_classes)]
    state = CountState(attributes=[Attribute(name="group", levels=levels)], classes=classes, has_champion=True)
    state.update(groups[:, None], labels, ours, record_hashes=np.arange(len(labels)), champion=theirs)
    return state


def some_rows(rows: int = 4000, *, seed: int = 0, num_classes: int = 2, num_groups: int = 3) -> tuple[Ints, ...]:
    """Groups, labels and two models' answers that go together, some of them none."""
    random = np.random.default_rng(seed)
    groups, labels = random.integers(0, num_groups, rows), random.integers(0, num_classes, rows)
    theirs = np.where(random.random(rows) < 0.8, labels, random.integers(-1, num_classes, rows))
    ours = np.where(random.random(rows) < 0.85, theirs, random.integers(-1, num_classes, rows))
    return groups, labels, ours, theirs


# ---- rates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy_score", "zero_one_loss", *PAIRED_RATES])
def test_paired_differences_are_those_of_the_two_models_each_for_itself(metric: str) -> None:
    rows = some_rows()
    counts = grouping(state_of(*rows, num_groups=3), ["group"]).counts
    alone = [grouping(_alone(rows, answers), ["group"]).counts for answers in rows[2:]]
    found = paired_differences(metric, counts)
    ours, theirs = (group_estimates(metric, each) for each in alone)
    for group in range(3):
        exacts = ours.exact(group), theirs.exact(group)
        assert None not in exacts
        assert found.exact(group) == exacts[0] - exacts[1]  # type: ignore[operator]  # both are there
        assert found.support[group] == ours.support[group]
    assert np.allclose(found.sums[:3], (ours.values + theirs.values)[:3])
    assert np.array_equal(champion_counts(counts).table, alone[1].table)


def _alone(rows: tuple[Ints, ...], answers: Ints) -> CountState:
    groups, labels, *_ = rows
    state = CountState(attributes=[Attribute(name="group", levels=("g0", "g1", "g2"))], classes=("0", "1"))
    state.update(groups[:, None], labels, answers, record_hashes=np.arange(len(labels)))
    return state


@pytest.mark.parametrize("positive", [0, 1, 2])
def test_of_many_classes_each_is_paired_against_the_rest(positive: int) -> None:
    rows = some_rows(num_classes=3)
    _, labels, ours, theirs = rows
    counts = grouping(state_of(*rows, num_groups=3, num_classes=3)).counts
    is_one = labels == positive
    recall = paired_differences("true_positive_rate", counts, positive=positive)
    assert recall.values[0] == pytest.approx((ours[is_one] == positive).mean() - (theirs[is_one] == positive).mean())
    others = paired_differences("true_negative_rate", counts, positive=positive)
    right = [(answers != positive) & (answers >= 0) for answers in (ours, theirs)]
    assert others.values[0] == pytest.approx(right[0][~is_one].mean() - right[1][~is_one].mean())


# ---- coverage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "both", "ours", "theirs"),
    [(500, 0.75, 0.06, 0.05), (500, 0.55, 0.15, 0.1), (2000, 0.9, 0.02, 0.01), (200, 0.3, 0.1, 0.1)],
)
def test_bounds_of_a_rate_over_all_rows_hold_as_often_as_they_say(
    rows: int, both: float, ours: float, theirs: float
) -> None:
    tables = np.random.default_rng(1).multinomial(rows, [both, ours, theirs, 1 - both - ours - theirs], 20_000)
    pairs = PairedDifferences(table=tables)
    for truth, limits in ((ours - theirs, pairs.limits(0.05)), (2 * both + ours + theirs, pairs.limits_of_sums(0.05))):
        assert (limits.lower <= truth).mean() >= 0.935
        assert (limits.upper >= truth).mean() >= 0.935


Truth = Mapping[str, float]
POPULATIONS: dict[str, tuple[str, list[float], list[float], float]] = {
    # metric, rates of the model and of the champion in each group, share of rows on which the model asks the champion
    "two groups": ("selection_rate_difference", [0.40, 0.30], [0.45, 0.32], 0.7),
    "two groups, no gap": ("selection_rate_difference", [0.40, 0.40], [0.40, 0.40], 0.5),
    "the other way round": ("selection_rate_difference", [0.50, 0.40], [0.40, 0.50], 0.3),
    "five groups": ("selection_rate_difference", [0.3, 0.35, 0.4, 0.45, 0.5], [0.35, 0.35, 0.4, 0.4, 0.45], 0.6),
    "worst of four": ("selection_rate_group_min", [0.30, 0.32, 0.34, 0.40], [0.33, 0.31, 0.36, 0.41], 0.6),
    "best of four": ("selection_rate_group_max", [0.30, 0.32, 0.34, 0.40], [0.33, 0.31, 0.36, 0.41], 0.6),
    "a ratio": ("selection_rate_ratio", [0.40, 0.30], [0.45, 0.32], 0.7),
}
RUNS, ROWS_A_GROUP = 150, 400


@pytest.mark.parametrize("name", POPULATIONS)
def test_bounds_over_groups_hold_at_least_as_often_as_they_say(name: str) -> None:
    metric, ours, theirs, share = POPULATIONS[name]
    truth = _extreme(metric, ours) - _extreme(metric, theirs)
    below, above = 0, 0
    for tables in _drawn(ours, theirs, share):
        both = OverGroups.of(metric, *_counts_of(tables))
        bounds = both.distance(alpha=0.05, min_support=30).of_all.bounds
        assert bounds is not None
        below, above = below + (bounds.lower <= truth), above + (bounds.upper >= truth)
    assert below >= 0.935 * RUNS
    assert above >= 0.935 * RUNS


def _extreme(metric: str, rates: list[float]) -> float:
    extremes: dict[str, Callable[[], float]] = {
        "difference": lambda: max(rates) - min(rates),
        "group_min": lambda: min(rates),
        "group_max": lambda: max(rates),
        "ratio": lambda: min(rates) / max(rates),
    }
    return extremes[metric.removeprefix("selection_rate_")]()


def _drawn(ours: list[float], theirs: list[float], share: float) -> NDArray[np.int64]:
    """Tables of pairs, shape (runs, groups, 4): with probability ``share`` both models look at one draw."""
    shares = []
    for p, q in zip(ours, theirs, strict=True):
        both = share * min(p, q) + (1 - share) * p * q
        shares.append([both, p - both, q - both, 1 - p - q + both])
    random = np.random.default_rng(2)
    return np.stack([random.multinomial(ROWS_A_GROUP, each, RUNS) for each in shares], axis=1)


def _counts_of(tables: NDArray[np.int64]) -> tuple[Any, Counts]:
    """A state in which predictions are selections, as a grouping and over all rows."""
    rows = [
        (group, ours, theirs, n)
        for group, (a, b, c, d) in enumerate(tables)
        for ours, theirs, n in ((1, 1, a), (1, 0, b), (0, 1, c), (0, 0, d))
    ]
    groups, ours, theirs = (np.repeat([row[at] for row in rows], [row[3] for row in rows]) for at in range(3))
    state = state_of(groups, np.ones_like(groups), ours, theirs, num_groups=len(tables))
    return grouping(state, ["group"]), grouping(state).counts


def test_what_cannot_be_paired_is_bounded_by_both_models_apart() -> None:
    """Precision has a denominator of its own in each model; upper less lower holds whatever they have to do with it."""
    random, held, truth = np.random.default_rng(3), 0, 0.8 - 0.75
    for _ in range(RUNS):
        labels = random.integers(0, 2, 1000)
        theirs = np.where(labels == 1, random.random(1000) < 0.6, random.random(1000) < 0.2).astype(np.int64)
        ours = np.where(random.random(1000) < 0.5, theirs, labels == 1).astype(np.int64)
        # of those predicted positive, 0.8 and 0.75 are: by the rates above
        found = OverAllRows.of("precision_score", grouping(state_of(labels * 0, labels, ours, theirs)).counts)
        true_ours = (0.5 * 0.6 + 0.5) / (0.5 * 0.6 + 0.5 + 0.5 * 0.2)
        truth = true_ours - 0.6 / 0.8
        bounds = found.bounds(0.05)
        held += bounds.lower <= truth <= bounds.upper
    assert held >= 0.9 * RUNS


def test_the_distance_lies_within_its_bounds_and_changes_its_sign_with_the_models() -> None:
    groups, labels, ours, theirs = some_rows()
    for metric in compared_metrics("binary", over_groups=True):
        there, back = (
            OverGroups.of(metric, grouping(state, ["group"]), grouping(state).counts).distance(
                alpha=0.05, min_support=30
            )
            for state in (state_of(groups, labels, *each, num_groups=3) for each in ((ours, theirs), (theirs, ours)))
        )
        one, other = there.of_all, back.of_all
        assert one.value is not None
        assert one.bounds is not None
        assert other.bounds is not None
        assert one.bounds.lower <= one.value <= one.bounds.upper
        assert other.value == pytest.approx(-one.value)
        assert other.bounds.upper == pytest.approx(-one.bounds.lower)
        assert (there.of_model, there.of_champion) == (back.of_champion, back.of_model)


def test_a_model_that_answers_as_the_champion_does_is_known_to_be_near_it() -> None:
    groups, labels, ours, _ = some_rows(2000)
    state = state_of(groups, labels, ours, ours, num_groups=3)
    distance = OverGroups.of("selection_rate_difference", grouping(state, ["group"]), grouping(state).counts)
    bounds = distance.distance(alpha=0.05, min_support=30).of_all.bounds
    apart = distance.theirs.families[0].estimates.limits(0.0125)
    assert bounds is not None
    assert 0 <= bounds.upper < 0.02 < (apart.upper - apart.lower).max()


# ---- gates ----------------------------------------------------------------------------------------------------------


def decide(state: CountState, metric: str, require: str, **settings: Any) -> GateOutcome:
    evidence = settings.pop("evidence", None)
    by = ("group",) if metric.endswith(("difference", "min", "max", "ratio")) else ()
    gate = GateSpec(metric=metric, by=by, require=require, evidence=evidence)
    champion = settings.pop("champion", Champion(experiment="e0", name="risk", version="3", alias="live", state=state))
    return evaluate_gates(state, [gate], EvaluationSpec.model_validate(settings), champion=champion)[0]


def improved(share: float, rows: int = 6000) -> CountState:
    """The model repairs (or, below 0, breaks) a share of the champion's answers."""
    random = np.random.default_rng(5)
    groups, labels = random.integers(0, 2, rows), random.integers(0, 2, rows)
    theirs = np.where(random.random(rows) < 0.8, labels, 1 - labels)
    is_changed = random.random(rows) < abs(share)
    return state_of(groups, labels, np.where(is_changed, labels if share > 0 else 1 - labels, theirs), theirs)


@pytest.mark.parametrize(
    ("share", "metric", "require", "outcome"),
    [
        (0.1, "accuracy_score", ">= champion", "pass"),
        (0.1, "accuracy_score", ">= champion + 0.05", "fail"),
        (-0.05, "accuracy_score", ">= champion - 0.02", "fail"),
        (-0.05, "accuracy_score", ">= champion - 0.10", "pass"),
        (-0.025, "accuracy_score", ">= champion - 0.02", "inconclusive"),
        (-0.05, "zero_one_loss", "<= champion + 0.02", "fail"),
        (0.05, "precision_score", ">= champion - 0.02", "pass"),
        (0.05, "f1_score", ">= champion - 0.02", "pass"),
        (0.05, "accuracy_score_group_min", ">= champion", "pass"),
        (-0.05, "accuracy_score_group_min", ">= champion - 0.01", "fail"),
        (0.02, "demographic_parity_difference", "<= champion + 0.03", "pass"),
        (0.02, "equalized_odds_difference", "<= champion + 0.05", "pass"),
        (0.02, "demographic_parity_ratio", ">= champion - 0.30", "pass"),
        (0.02, "demographic_parity_difference", "< champion - 0.30", "fail"),
    ],
)
def test_the_bound_of_the_difference_to_the_champion_decides(
    share: float, metric: str, require: str, outcome: str
) -> None:
    found = decide(improved(share), metric, require)
    assert found.outcome == outcome, found.why
    assert "of the difference to the champion" in found.why
    assert found.of_model is not None
    assert found.of_champion is not None
    assert found.value == pytest.approx(found.of_model - found.of_champion)
    assert found.bound == (found.upper95 if require.startswith("<") else found.lower95)


def test_rows_needed_settle_the_gate_when_they_come() -> None:
    found = decide(improved(-0.025), "accuracy_score", ">= champion - 0.022")
    assert found.outcome == "inconclusive"
    assert found.rows_needed_per_group is not None
    assert found.rows_needed_per_group > 6000
    table = paired_differences("accuracy_score", grouping(improved(-0.025)).counts).table[0]
    for factor, is_met in ((1.02, True), (0.98, False)):
        rows = table / table.sum() * found.rows_needed_per_group * factor
        assert (paired_newcombe_limits(*rows, tail=0.05).lower >= -0.022) == is_met


def test_values_alone_are_compared_as_exact_fractions() -> None:
    labels = np.ones(10, dtype=np.int64)
    state = state_of(labels * 0, labels, (np.arange(10) < 3).astype(np.int64), (np.arange(10) < 2).astype(np.int64))
    for require, outcome in (
        ("<= champion + 0.1", "pass"),
        ("< champion + 0.1", "fail"),
        (">= champion + 0.1", "pass"),
    ):
        found = decide(state, "accuracy_score", require, evidence="point", min_support=1)
        assert (found.outcome, found.limit) == (outcome, Fraction(1, 10))


def test_without_a_champion_a_gate_passes_and_is_no_comparison() -> None:
    state = improved(0.1)
    nobody = Champion(name="risk", alias="live", is_absent=True, why_not="nobody yet (no_champion)")
    gates = [
        GateSpec(metric="accuracy_score", require=">= champion - 0.02"),
        GateSpec(id="number", metric="accuracy_score", require=">= 0.7"),
    ]
    evaluation = EvaluationSpec(correction="holm")
    found, number = evaluate_gates(state, gates, evaluation, champion=nobody)
    assert (found.outcome, found.why, found.value, found.p_value) == (
        Outcome.PASS,
        "nobody yet (no_champion)",
        None,
        None,
    )
    alone = evaluate_gates(state, gates[1:], evaluation)[0]
    assert number.p_adjusted == alone.p_adjusted
    report = build_report(
        state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation, gates=gates, champion=nobody
    )
    assert report["multiplicity"]["gates"]["comparisons"] == 1


@pytest.mark.parametrize(
    ("champion", "words"),
    [
        (Champion(why_not="its answers have been deleted"), "not compared: its answers have been deleted"),
        (None, "not compared: nobody was named to compare with"),
    ],
)
def test_what_cannot_be_compared_proves_nothing(champion: Champion | None, words: str) -> None:
    found = decide(improved(0.1), "accuracy_score", ">= champion - 0.9", champion=champion or Champion())
    assert (found.outcome, found.why) == (Outcome.INCONCLUSIVE, words)


def test_rows_with_weights_are_not_held_against_a_champion() -> None:
    groups, labels, ours, theirs = some_rows()
    state = CountState(attributes=[], classes=("0", "1"), has_champion=True, has_weights=True)
    weights = np.ones(len(labels))
    state.update(
        groups[:, :0] if groups.ndim > 1 else np.empty((len(labels), 0)),
        labels,
        ours,
        record_hashes=np.arange(len(labels)),
        champion=theirs,
        weights=weights,
    )
    assert "by weight" in decide(state, "accuracy_score", ">= champion - 0.9").why


def test_many_gates_are_judged_together_whether_held_against_numbers_or_the_champion() -> None:
    state = improved(0.012, rows=3000)
    gates = [
        GateSpec(id=f"gate-{number}", metric="accuracy_score", require=f">= champion - 0.00{number}")
        for number in range(3)
    ] + [GateSpec(id="gap", metric="demographic_parity_difference", by=("group",), require="<= champion + 0.03")]
    champion = Champion(state=state)
    alone = evaluate_gates(state, gates, EvaluationSpec(), champion=champion)
    together = evaluate_gates(state, gates, EvaluationSpec(correction="holm"), champion=champion)
    assert all(one.outcome is Outcome.PASS for one in alone)
    for gate, one in zip(gates, together, strict=True):
        assert one.p_value is not None
        again = evaluate_gates(state, [gate], EvaluationSpec(confidence=1 - one.p_value * 1.001), champion=champion)[0]
        assert again.outcome is Outcome.PASS
        if one.p_value > 1e-9:  # below, limits tell no more apart
            stricter = EvaluationSpec(confidence=1 - one.p_value * 0.99)
            assert evaluate_gates(state, [gate], stricter, champion=champion)[0].outcome is not Outcome.PASS
    assert [one.p_adjusted >= one.p_value for one in together if one.p_value and one.p_adjusted] == [True] * 4


def test_small_groups_are_left_out_for_both_and_never_help_to_pass() -> None:
    state = improved(0.02)
    small = state_of(
        *(
            np.concatenate([each, few])
            for each, few in zip(
                (np.repeat([0, 1], 3000), *(np.tile([0, 1], 3000) for _ in range(3))),
                (np.full(10, 2), np.arange(10) % 2, np.zeros(10, dtype=np.int64), np.ones(10, dtype=np.int64)),
                strict=True,
            )
        ),
        num_groups=3,
    )
    found = decide(small, "selection_rate_difference", "<= champion + 0.05")
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "group=g2" in found.why
    excluded = decide(small, "selection_rate_difference", "<= champion + 0.05", low_support="exclude")
    assert (excluded.outcome, excluded.excluded) == (Outcome.PASS, ("group=g2",))
    assert decide(state, "selection_rate_difference", "<= champion + 0.05").excluded == ()


def test_of_many_classes_the_worst_is_held_against_the_champions_worst() -> None:
    rows = some_rows(20_000, num_classes=3)
    state = state_of(*rows, num_groups=3, num_classes=3)
    found = decide(state, "true_positive_rate_difference", "<= champion + 0.2")
    assert found.outcome is Outcome.PASS
    assert found.of_champion is not None
    counts = grouping(state, ["group"]).counts
    gaps = [np.ptp(paired_differences("true_positive_rate", counts, positive=k).sums[:3]) for k in range(3)]
    assert found.of_model is not None
    assert found.of_model + found.of_champion >= max(gaps) - 1e-9


def test_of_very_many_classes_only_right_and_wrong_are_known() -> None:
    rows = some_rows(4000, num_classes=12)
    state = state_of(*rows, num_groups=3, num_classes=12)
    assert decide(state, "accuracy_score", ">= champion - 0.5").outcome is Outcome.PASS
    assert decide(state, "accuracy_score_difference", "<= champion + 0.5").outcome is Outcome.PASS
    found = decide(state, "true_positive_rate_difference", "<= champion + 0.9")
    assert (found.outcome, found.why) == (
        Outcome.INCONCLUSIVE,
        "not compared: of 12 classes pairs keep only right and wrong answers",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "roc_auc_score"}, "of the champion's scores nothing is kept; what can: accuracy_score"),
        ({"metric": "count"}, "is the same for the champion"),
        ({"metric": "base_rate_difference", "by": ["sex"], "require": "<= champion"}, "is the same for the champion"),
        ({"metric": "matthews_corrcoef"}, "no bound of that distance; what can: accuracy_score, zero_one_loss"),
        ({"metric": "treatment_equality_difference", "by": ["sex"]}, "what can: equalized_odds_difference"),
        ({"metric": "kolmogorov_smirnov_distance", "by": ["sex"]}, "nothing is kept"),
        ({"metric": "energy_kwh"}, "'energy_kwh' of the champion is not known"),
        ({"metric": "accuracy_score", "condition": "noise_0.5"}, "condition 'noise_0.5' of the champion is not known"),
        (
            {"metric": "demographic_parity_difference", "by": ["sex"], "within": ["band"]},
            "a gap within strata of the champion is not known",
        ),
        ({"metric": "accuracy_score", "evidence": "upper_bound"}, "ask for lower_bound"),
    ],
)
def test_what_can_never_be_held_against_a_champion_is_refused_with_what_can(
    changes: dict[str, Any], words: str
) -> None:
    gate = GateSpec.model_validate({"require": ">= champion - 0.02", **changes})
    assert words in str(problem_with_gate(gate, task="binary", attributes=["sex"]))


@pytest.mark.parametrize(("task", "metric"), [("regression", "mean_squared_error"), ("ranking", "ndcg_score")])
def test_numbers_and_lists_are_not_held_against_a_champion(task: Any, metric: str) -> None:
    gate = GateSpec.model_validate({"require": ">= champion - 0.02", "metric": metric})
    assert f"a {task} is not held against a champion" in str(problem_with_gate(gate, task=task, attributes=[]))


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_everything_that_is_listed_can_be_compared(task: Any) -> None:
    num_classes = 2 if task == "binary" else 3
    state = state_of(*some_rows(num_classes=num_classes), num_groups=3, num_classes=num_classes)
    champion = Champion(state=state)
    for is_grouped in (False, True):
        for metric in compared_metrics(task, over_groups=is_grouped):
            gate = GateSpec(metric=metric, by=("group",) if is_grouped else (), require="<= champion + 2")
            assert problem_with_gate(gate, task=task, attributes=["group"]) is None
            (found,) = evaluate_gates(state, [gate], EvaluationSpec(), champion=champion)
            assert found.outcome is Outcome.PASS, (metric, found.why)


def test_a_report_says_whom_a_gate_holds_the_model_against() -> None:
    state = improved(0.1)
    champion = Champion(experiment="e0", name="risk", version="3", alias="live", state=state)
    gates = [GateSpec(metric="accuracy_score", require=">= champion - 0.02"), GateSpec(metric="count", require="> 1")]
    settings = {"provenance": a_provenance(n_expected=state.n), "evaluation": EvaluationSpec(), "gates": gates}
    report = build_report(state, champion=champion, **settings)  # type: ignore[arg-type]  # as written
    jsonschema.validate(report, report_schema())
    gate, other = report["gates"]
    assert gate["limit"] == "-0.02"
    assert gate["champion"].items() >= {"experiment": "e0", "name": "risk", "version": "3", "alias": "live"}.items()
    assert gate["value"] == pytest.approx(gate["champion"]["of_model"] - gate["champion"]["of_champion"])
    assert gate["champion"]["why_not_compared"] is None
    assert "champion" not in other
    unknown = build_report(state, champion=replace(champion, state=None, why_not="gone"), **settings)  # type: ignore[arg-type]
    assert unknown["gates"][0]["champion"]["why_not_compared"] == "gone"
