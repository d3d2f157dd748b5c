"""Areas under the ROC curve from every different score: scikit-learn's, for any sharding, and bounded."""

from functools import reduce
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fairlead.evaluation import CountState, build_report, exact, grouping, report_schema
from fairlead.evaluation.estimates import RankAreas
from fairlead.evaluation.metrics import group_estimates
from fairlead.evaluation.page import render_page
from fairlead.spec import EvaluationSpec
from fairlead.testing.evaluation import a_provenance
from fairlead.workload import Attribute

SEX, AGE = Attribute(name="sex", levels=("F", "M")), Attribute(name="age", levels=("young", "old", "older"))
EXACT = EvaluationSpec(groupings=(("sex",), ("age", "sex")), exact_auc=True)


def rows_of(rows: int = 900, *, seed: int = 0, digits: int | None = None) -> dict[str, Any]:
    """Scores that lie close together, so that bins cannot tell them apart; with ``digits``, many are equal."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    scores = np.clip(0.5 + 0.0004 * labels + 0.0004 * random.normal(size=rows), 0, 1)
    scores = scores if digits is None else np.round(scores, digits)
    codes = np.stack([random.integers(0, 3, rows), random.integers(0, 4, rows)], axis=1)
    return {"codes": codes, "labels": labels, "scores": scores, "hashes": np.arange(rows)}


def counted(of: dict[str, Any], rows: Any = slice(None)) -> CountState:
    state = CountState(
        attributes=[SEX, AGE], classes=("no", "yes"), has_scores=True, has_losses=True, has_exact_scores=True
    )
    predictions = (of["scores"][rows] >= 0.5).astype(np.int64)
    state.update(
        of["codes"][rows], of["labels"][rows], predictions, scores=of["scores"][rows], record_hashes=of["hashes"][rows]
    )
    return state


@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 4, 3, 1]))
@settings(max_examples=40, deadline=None)
def test_areas_equal_scikit_learns_ties_included(seed: int, digits: int | None) -> None:
    of = rows_of(seed=seed, digits=digits)
    state = counted(of)
    for by in ((), ("sex",), ("age", "sex")):
        groups = grouping(state, by)
        found = group_estimates("roc_auc_score", groups.counts)
        for index in range(len(groups.keys)):
            levels = {"sex": (*SEX.levels, "__unknown__"), "age": (*AGE.levels, "__unknown__")}
            is_in = np.ones(900, dtype=bool)
            for name, level in groups.key(index).items():
                is_in &= of["codes"][:, ("sex", "age").index(name)] == levels[name].index(level)
            if len(np.unique(of["labels"][is_in])) < 2:
                assert found.reason(index) is not None
                continue
            expected = roc_auc_score(of["labels"][is_in], of["scores"][is_in])
            assert found.values[index] == pytest.approx(expected, abs=1e-12)


def test_limits_are_delongs_of_all_scores() -> None:
    of = rows_of()
    own, other = of["scores"][of["labels"] == 1], of["scores"][of["labels"] == 0]
    area = (own[:, None] > other[None, :]).mean()
    wins, losses = (own[:, None] > other).mean(axis=1), (own[:, None] > other).mean(axis=0)
    error = np.sqrt(wins.var(ddof=1) / len(own) + losses.var(ddof=1) / len(other))  # DeLong 1988, by hand
    found = group_estimates("roc_auc_score", grouping(counted(of)).counts).limits(0.025)
    logit, step = np.log(area / (1 - area)), 1.959963984540054 * error / (area * (1 - area))
    expected = 1 / (1 + np.exp(-logit + np.array([step, -step])))
    assert (found.lower[0], found.upper[0]) == pytest.approx(tuple(expected), abs=1e-12)


@given(st.permutations(range(4)), st.lists(st.integers(0, 900), min_size=3, max_size=3), st.sampled_from([None, 3]))
@settings(max_examples=25, deadline=None)
def test_any_sharding_gives_the_same_bytes(order: list[int], cuts: list[int], digits: int | None) -> None:
    of = rows_of(digits=digits)
    shards = [counted(of, rows) for rows in np.split(np.arange(900), sorted(cuts))]
    merged = reduce(CountState.merge, [CountState.from_bytes(shards[index].to_bytes()) for index in order])
    assert merged.to_bytes() == counted(of).to_bytes()
    assert CountState.from_bytes(merged.to_bytes()).digest() == counted(of).digest()


def test_the_report_says_how_many_scores_there_are_and_that_no_error_is_left() -> None:
    of = rows_of()
    report = build_report(counted(of), provenance=a_provenance(n_expected=900), evaluation=EXACT)
    jsonschema.validate(report, report_schema())
    assert report["state"]["exact_scores"] == {"entries": 900, "bytes": 900 * 16, "dropped": False}
    entry = report["groups"][0]["metrics"]["roc_auc_score"]
    assert entry["bin_error"] == 0
    assert entry["value"] == pytest.approx(roc_auc_score(of["labels"], of["scores"]), abs=1e-12)
    assert not [text for text in report["limitations"] if "exact" in text]


def test_too_many_scores_are_dropped_whatever_the_sharding_and_the_report_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exact, "MOST_ENTRIES", 500)
    of = rows_of()
    shards = [counted(of, rows) for rows in np.split(np.arange(900), [100, 450])]
    merged = reduce(CountState.merge, shards)
    assert not any(table.is_dropped for shard in shards if (table := shard.exact_scores) is not None)
    assert merged.to_bytes() == counted(of).to_bytes()
    assert CountState.from_bytes(merged.to_bytes()).merge(shards[0]).exact_scores is not None
    report = build_report(merged, provenance=a_provenance(n_expected=900), evaluation=EXACT)
    assert report["state"]["exact_scores"] == {"entries": 0, "bytes": 0, "dropped": True}
    assert report["groups"][0]["metrics"]["roc_auc_score"]["bin_error"] > 0
    assert any("come from 1,024 bins after all" in text for text in report["limitations"])


def test_missing_scores_and_labels_take_no_part() -> None:
    state = CountState(attributes=[], classes=("0", "1"), has_scores=True, has_exact_scores=True)
    scores = [0.0, -0.0, np.nan, 1.0, 0.3]
    state.update(np.zeros((5, 0)), [0, 1, 1, 1, np.nan], [0] * 5, scores=scores, record_hashes=range(5))
    assert state.exact_scores is not None
    assert len(state.exact_scores.entries) == 3  # 0 of each label, and 1
    area = group_estimates("roc_auc_score", grouping(state).counts)
    assert isinstance(area.exact(0), type(RankAreas(positives=np.ones((1, 1)), negatives=np.ones((1, 1))).exact(0)))
    assert area.values[0] == pytest.approx(0.75)


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"classes": ("a", "b", "c"), "has_scores": True}, {"classes": ("a", "b")}):
        with pytest.raises(ValueError, match="two classes with scores alone"):
            CountState(attributes=[], has_exact_scores=True, **wrong)  # type: ignore[arg-type]
    for number in (-90, exact.MOST_ENTRIES + 1):
        with pytest.raises(ValueError, match="different scores"):
            exact.ScoreTable.like(number)
    swapped = counted(rows_of())
    assert swapped.exact_scores is not None
    places = swapped.exact_scores.entries.places
    places[:2] = places[:2][::-1] ^ 1
    with pytest.raises(ValueError, match="scores"):
        CountState.from_bytes(swapped.to_bytes())


def test_without_scores_or_with_more_classes_the_report_says_why_nothing_is_exact() -> None:
    state = CountState(attributes=[SEX], classes=("0", "1"))
    state.update([[0], [1]], [0, 1], [0, 1], record_hashes=[1, 2])
    report = build_report(state, provenance=a_provenance(n_expected=2), evaluation=EvaluationSpec(exact_auc=True))
    assert any("No area under a ROC curve is exact" in text and "no scores" in text for text in report["limitations"])


@pytest.mark.parametrize("is_exact", [True, False])
def test_areas_across_groups_are_scikit_learns_of_the_rows_they_are_made_of(is_exact: bool) -> None:
    of = rows_of(digits=None if is_exact else 3)
    of["scores"] = of["scores"] if is_exact else np.floor(of["scores"] * 1024) / 1024  # then bins lose nothing
    state = counted(of) if is_exact else unexact(of)
    report = build_report(state, provenance=a_provenance(n_expected=900), evaluation=EXACT)
    crossed = [entry for entry in report["cross_areas"] if entry["by"] == ["sex"]]
    assert len(crossed) == 2
    for entry in crossed:
        own, other = (SEX.levels.index(entry[side]["sex"]) for side in ("positives", "negatives"))
        sex, labels = of["codes"][:, 0], of["labels"]
        chosen = ((sex == own) & (labels == 1)) | ((sex == other) & (labels == 0))
        assert entry["value"] == pytest.approx(roc_auc_score(labels[chosen], of["scores"][chosen]), abs=1e-12)
        assert entry["lower95"] < entry["value"] < entry["upper95"]
    page = render_page(report)
    assert "Area under the ROC curve across groups" in page


def unexact(of: dict[str, Any]) -> CountState:
    state = CountState(attributes=[SEX, AGE], classes=("no", "yes"), has_scores=True)
    state.update(of["codes"], of["labels"], of["labels"], scores=of["scores"], record_hashes=of["hashes"])
    return state
