"""Predicted numbers and ranked lists from files: scikit-learn's values, any cut of the files, and refusals by name."""

import re
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, ndcg_score, r2_score

from fairlead.data import prediction_rows
from fairlead.data.predictions import Predictions, count, refuse_hopeless_gates, survey
from fairlead.errors import BadData, BadSpec
from fairlead.evaluation import MomentState, RankState, build_report
from fairlead.evaluation.quantities import merged, number_estimates, number_grouping
from fairlead.spec import PredictionsSpec, from_mapping
from fairlead.testing.evaluation import a_provenance
from fairlead.testing.ranks import together

ROWS = 3000
IDS = {"record_id": "id"}


def incomes(rows: int = ROWS) -> dict[str, Any]:
    """Incomes, predicted too low for women, by people of whom some do not say who they are."""
    random = np.random.default_rng(4)
    sex = random.choice(["F", "M", ""], rows, p=[0.5, 0.48, 0.02])
    income = random.lognormal(10, 0.5, rows)
    predicted = income * random.lognormal(0, 0.1, rows) - 900.0 * (sex == "F")
    texts = pa.array([name or None for name in sex])
    return {"id": np.arange(rows) * 3, "income": income, "predicted": predicted, "sex": texts, "age": rows % 7 + income}


def jobs(lists: int = 300, size: int = 5) -> dict[str, Any]:
    """Lists of jobs for people, ranked by a score with ties."""
    random = np.random.default_rng(8)
    rows = lists * size
    sex = np.repeat(random.choice(["F", "M"], lists), size)
    return {
        "id": np.arange(rows),
        "list": np.repeat([f"q{at}" for at in range(lists)], size),
        "relevance": random.integers(0, 4, rows),
        "score": random.integers(0, 6, rows) / 2,
        "rank": np.tile(np.arange(size) + 1, lists),
        "sex": sex,
        "kind": random.choice(["old", "new"], rows),
    }


def spec_of(task: str | None, *by: str, gates: Any = (), **columns: Any) -> PredictionsSpec:
    evaluation: dict[str, Any] = {"groupings": [[name] for name in by]}
    evaluation |= {"task": task} if task else {}
    return from_mapping(PredictionsSpec, {"columns": columns, "evaluation": evaluation, "gates": list(gates)})


def of_incomes(*by: str, **columns: Any) -> PredictionsSpec:
    return spec_of("regression", *(by or ("sex",)), target="income", prediction="predicted", **columns)


def of_jobs(*by: str, **columns: Any) -> PredictionsSpec:
    return spec_of(None, *(by or ("sex",)), target="relevance", query="list", **columns)


def written(directory: Path, table: Mapping[str, Any], name: str = "p.parquet", rows: Any = slice(None)) -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    content = pa.table(
        {key: values if isinstance(values, pa.Array) else pa.array(values) for key, values in table.items()}
    )
    content = content.take(np.arange(len(content))[rows])
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(content, path, row_group_size=700)
    elif name.endswith(".feather"):
        pyarrow.feather.write_feather(content, path)
    else:
        pyarrow.csv.write_csv(content, path)
    return path


def counted(*places: Path, spec: PredictionsSpec) -> Predictions:
    return count(survey(places, spec))


def test_metrics_of_each_group_equal_scikit_learns(tmp_path: Path) -> None:
    table = incomes()
    state = counted(written(tmp_path, table), spec=of_incomes()).state
    assert isinstance(state, MomentState)
    groups = number_grouping(state, ["sex"])
    assert groups.keys == (("F",), ("M",), ("__unknown__",))
    sex = np.array(table["sex"].to_pylist(), dtype=object)
    oracles = {
        "mean_absolute_error": mean_absolute_error,
        "mean_squared_error": mean_squared_error,
        "r2_score": r2_score,
    }
    for metric, function in oracles.items():
        expected = [function(table["income"][sex == one], table["predicted"][sex == one]) for one in ("F", "M")]
        assert number_estimates(metric, groups).values[:2] == pytest.approx(expected, rel=1e-12)


def test_ndcg_of_each_group_equals_scikit_learns(tmp_path: Path) -> None:
    table = jobs()
    state = counted(written(tmp_path, table), spec=of_jobs(score="score")).state
    found = number_estimates("ndcg_score", number_grouping(state, ["sex"]))  # type: ignore[arg-type]
    for group, name in enumerate(("F", "M")):
        each = []
        for query in np.unique(table["list"][table["sex"] == name]):
            of_list = table["list"] == query
            relevance, score = table["relevance"][of_list], table["score"][of_list]
            each += [ndcg_score([relevance], [score])] if relevance.any() else []
        assert found.support[group] == len(each)
        assert found.values[group] == pytest.approx(np.mean(each), abs=1e-12)


SPECS = {
    "regression": (incomes, of_incomes(**IDS), 3000),
    "scores": (jobs, of_jobs("sex", "kind", score="score", **IDS), 1500),
    "ranks": (jobs, of_jobs(rank="rank"), 1500),
}


@pytest.mark.parametrize("portion", [2**20, 100])
@pytest.mark.parametrize("case", SPECS)
def test_nothing_depends_on_where_files_are_cut_nor_on_their_order_nor_format_nor_ranks(
    tmp_path: Path, case: str, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_rows, "PORTION_ROWS", portion)
    make, spec, rows = SPECS[case]
    table = make()
    whole = counted(written(tmp_path, table), spec=spec)
    cuts = [(0, 1), (1, 1234), (1234, rows)]  # lists are torn apart
    parts = [written(tmp_path / "parts", table, f"{at}.parquet", slice(*cut)) for at, cut in enumerate(cuts)]
    others = [written(tmp_path, table, name) for name in ("p.feather", "p.csv")]
    ways = [parts, [tmp_path / "parts"], *([other] for other in others)]
    if spec.columns.record_id:  # else the places of rows are what they are told apart by
        ways += [parts[::-1], [written(tmp_path, table, "r.parquet", np.random.default_rng(1).permutation(rows))]]
    for way in ways:
        again = counted(*way, spec=spec)
        assert again.state.to_bytes() == whole.state.to_bytes()
        assert (again.digest, again.remarks) == (whole.digest, whole.remarks)
    for ranks in (2, 3):
        found = together(ranks, lambda own: count(survey(parts, spec, ranks=own)))
        assert merged([part.state for part in found]).to_bytes() == whole.state.to_bytes()
        assert {part.digest for part in found} == {whole.digest}
        assert {part.book for part in found} == {whole.book}


def test_counts_of_other_rows_can_be_added_where_the_range_is_declared(tmp_path: Path) -> None:
    table, spec = incomes(), of_incomes(target_range=[-1e5, 1e6])
    halves = [written(tmp_path, table, f"{at}.parquet", slice(*cut)) for at, cut in enumerate([(0, 900), (900, ROWS)])]
    states = [counted(half, spec=spec).state for half in halves]
    whole = counted(written(tmp_path, table), spec=spec).state
    together_ = reduce(lambda one, other: merged([one, other]), states)
    assert isinstance(together_, MomentState)
    assert isinstance(whole, MomentState)
    assert np.array_equal(together_.moments, whole.moments)


def test_what_is_missing_is_counted_and_told(tmp_path: Path) -> None:
    table = {"income": [1.0, None, 3.0, np.nan], "predicted": [1.5, 2.0, None, 4.0], "sex": ["F", "M", "F", None]}
    spec = of_incomes(gates=[{"metric": "mean_absolute_error", "require": "<= 9"}])
    found = counted(written(tmp_path, table), spec=spec)
    book = found.state.book
    assert (book.n, book.n_nan_labels, book.n_nan_scores, book.n_unknown) == (4, 2, 1, 1)
    evaluation = spec.evaluation.amended(min_support=1)
    report = build_report(found.state, provenance=a_provenance(n_expected=4), evaluation=evaluation, gates=spec.gates)
    assert report["data"]["n_abstained"] == 1
    assert report["gates"][0]["outcome"] == "inconclusive"
    assert any("have no prediction and are in no metric" in text for text in report["limitations"])


def test_lists_of_one_row_and_without_relevance_are_told(tmp_path: Path) -> None:
    table = {
        "list": ["a", "b", "b", "c", "c"],
        "relevance": [1, 0, 0, 2, None],
        "score": [1, 2, 1, 2, 1],
        "sex": ["F"] * 5,
    }
    state = counted(written(tmp_path, table), spec=of_jobs(score="score")).state
    assert isinstance(state, RankState)
    assert (state.n_queries, state.n_single_queries, state.n_irrelevant_queries) == (3, 2, 1)
    report = build_report(state, provenance=a_provenance(n_expected=5), evaluation=of_jobs().evaluation)
    overall = report["groups"][0]["metrics"]["ndcg_score"]
    assert (overall["value"], overall["reason"]) == (None, "no_query_of_its_own")
    assert {"n_queries": 3, "n_of_one_row": 2, "n_without_relevance": 1}.items() <= report["ranking"].items()


@pytest.mark.parametrize(
    ("table", "spec", "named"),
    [
        (
            {"predicted": [1.0, np.inf, *[1.0] * 2998]},
            of_incomes(),
            r"row 2 of 'predicted' is inf; numbers must be finite",
        ),
        ({"income": [-np.inf, *[1.0] * 2999]}, of_incomes(), r"row 1 of 'income' is -inf"),
        ({"income": ["much"] * 3000}, of_incomes(), r"'income' holds texts; numbers are needed there"),
        ({"income": [None] * 3000, "predicted": [None] * 3000}, of_incomes(), r"no row of 'income' has a number"),
        ({}, of_incomes(target_range=[0, 10]), r"row 1 of 'income' is .*, outside the range from 0 to 10"),
        ({}, of_incomes("sexx"), r"no column 'sexx'"),
        ({}, spec_of("regression", target="income", prediction="predictd"), r"no column 'predictd'; did you mean"),
        ({}, spec_of("regression", target="income"), r"no column 'prediction'"),
        ({"predicted": [1e300, *[1.0] * 2999]}, of_incomes(), r"cannot be kept: take another unit"),
        ({"id": [1, 1, *range(2, 3000)]}, of_incomes(**IDS), r"'1' \(.*\) occurs more than once"),
    ],
)
def test_numbers_that_cannot_be_counted_are_refused_by_name(
    tmp_path: Path, table: Mapping[str, Any], spec: PredictionsSpec, named: str
) -> None:
    with pytest.raises(BadData) as refused:
        counted(written(tmp_path, {**incomes(), **table}), spec=spec)
    hints = "; ".join(str(problem.suggestion) for problem in refused.value.problems)
    assert re.search(named, f"{refused.value}; {hints}")


@pytest.mark.parametrize(
    ("table", "columns", "named"),
    [
        ({"relevance": [-1, *[0] * 9]}, {}, r"row 1 of 'relevance' is -1; relevances lie between 0 and 1024"),
        ({"relevance": [np.inf, *[0.0] * 9]}, {}, r"row 1 of 'relevance' is inf"),
        ({"score": [1.0, None, *[0.5] * 8]}, {}, r"row 2 of 'score' is None; every row needs a score"),
        ({"score": [1.0, np.inf, *[0.5] * 8]}, {}, r"row 2 of 'score' is inf; numbers must be finite"),
        ({"list": [None, *["q"] * 9]}, {}, r"row 1 of 'list' is None; every row needs a query"),
        ({"rank": [0, *range(2, 11)]}, {"rank": "rank"}, r"row 1 of 'rank' is 0; ranks are places"),
        ({"rank": [1.5, *range(2, 11)]}, {"rank": "rank"}, r"row 1 of 'rank' is 1.5; ranks are places"),
        (
            {"rank": [1, 1, *range(3, 11)]},
            {"rank": "rank"},
            r"query 'q0' \(.*row 1\) has two rows of rank 1; give each",
        ),
    ],
)
def test_lists_that_cannot_be_counted_are_refused_by_name(
    tmp_path: Path, table: Mapping[str, Any], columns: Mapping[str, Any], named: str
) -> None:
    spec = of_jobs(**(columns or {"score": "score"}))
    with pytest.raises(BadData, match=named):
        counted(written(tmp_path, {**jobs(2), **table}), spec=spec)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"columns": {"query": "q", "rank": "r", "score": "s"}}, "by columns.score or by columns.rank, not by both"),
        ({"columns": {"query": "q", "score": {"a": "s"}}}, "one column of scores"),
        ({"columns": {"query": "q", "positive": "1"}}, "columns.positive has no place in a ranking"),
        ({"columns": {"query": "q", "champion": "c"}}, "columns.champion has no place in a ranking"),
        ({"columns": {"rank": "r"}}, "columns.rank has no place in a classification"),
        ({"columns": {"target_range": [1, 1]}}, "the first number must be below the second"),
        ({"columns": {"target_range": [0, 1], "weight": "w"}}, "columns.weight has no place in a regression"),
        ({"evaluation": {"task": "ranking"}}, "a ranking needs columns.query"),
        (
            {"evaluation": {"task": "regression"}, "columns": {"score": "s"}},
            "columns.score has no place in a regression",
        ),
    ],
)
def test_documents_that_contradict_themselves_are_refused(content: Mapping[str, Any], named: str) -> None:
    with pytest.raises(BadSpec, match=named):
        from_mapping(PredictionsSpec, content)


@pytest.mark.parametrize(
    ("task", "gate", "named"),
    [
        ("regression", {"metric": "r2_score", "require": ">= 0.5"}, "bounds of 'r2_score' are not known"),
        ("regression", {"metric": "mean_error_ratio", "by": ["sex"], "require": ">= 0.5"}, "did you mean"),
        ("regression", {"metric": "accuracy_score", "require": ">= 0.5"}, "no metric of a regression task"),
        ("ranking", {"metric": "exposure_ratio", "require": ">= 0.5"}, "compares groups: say which with by"),
        (
            None,
            {"metric": "mean_squared_error_group_max", "by": ["sex"], "require": "<= 1"},
            "it is one of a regression",
        ),
    ],
)
def test_gates_that_no_rows_could_decide_are_refused(
    tmp_path: Path, task: str | None, gate: Mapping[str, Any], named: str
) -> None:
    table = {"label": [0, 1], "prediction": [0, 1], "score": [0.1, 0.2], "q": ["a", "a"], "sex": ["F", "M"]}
    columns = {"query": "q"} if task == "ranking" else {}
    spec = spec_of(task, "sex", gates=[gate], **columns)
    with pytest.raises(BadSpec, match=named):
        refuse_hopeless_gates(survey([written(tmp_path, table)], spec))
