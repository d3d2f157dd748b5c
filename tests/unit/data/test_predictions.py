"""Predictions from files: the same counts however they are cut, and a name for whatever cannot be counted."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from fairlead.data.predictions import Predictions, count, refuse_hopeless_gates, survey
from fairlead.errors import BadData, BadInput, BadSpec
from fairlead.evaluation import CountState, grouping
from fairlead.spec import PredictionsSpec, read_predictions_spec

ROWS = {
    "id": ["a", "b", "c", "d", "e", "f"],
    "label": [0, 1, 1, 0, 1, 0],
    "prediction": [0, 1, 0, 1, 1, 0],
    "score": [0.1, 0.9, 0.4, 0.6, 0.5, 0.0],
    "sex": ["F", "M", "F", "M", None, "F"],
    "age": [20, 40, 59, 60, 70, 39],
    "weight": [1.0, 2.0, 1.5, 0.5, 1.0, 1.0],
}


def written(directory: Path, rows: Mapping[str, Any] = ROWS, name: str = "p.parquet") -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    table = pa.table(dict(rows))
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, path)
    elif name.endswith(".feather"):
        pyarrow.feather.write_feather(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    return path


def some(start: int, stop: int) -> dict[str, Any]:
    return {name: values[start:stop] for name, values in ROWS.items()}


def a_spec(*by: str, **columns: Any) -> PredictionsSpec:
    return PredictionsSpec.model_validate({"columns": columns, "evaluation": {"groupings": [list(by)] if by else []}})


def counted(path: Path, *more: Path, spec: PredictionsSpec | None = None) -> Predictions:
    return count(survey([path, *more], spec or a_spec("sex")))


def test_rows_become_counts_by_group(tmp_path: Path) -> None:
    state = counted(written(tmp_path)).state
    groups = grouping(state, ["sex"])
    assert groups.keys == (("F",), ("M",), ("__unknown__",))
    assert groups.counts.table[:, :, :2].tolist() == [[[2, 0], [1, 0]], [[0, 1], [0, 1]], [[0, 0], [0, 1]]]
    assert (state.n, state.n_unknown, state.classes) == (6, 1, ("0", "1"))


BANDS = {"sensitive": ["sex", "band"], "bins": {"band": {"column": "age", "edges": [40, 60]}}}


@pytest.mark.parametrize("columns", [{}, {"record_id": "id"}, {"weight": "weight"}, BANDS])
def test_nothing_depends_on_where_files_are_cut_nor_on_their_order_nor_on_their_format(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    spec = a_spec("sex", **columns)
    whole = counted(written(tmp_path), spec=spec)
    cuts = [(0, 1), (1, 1), (1, 4), (4, 6)]
    parts = [written(tmp_path / "parts", some(*cut), f"{number}.parquet") for number, cut in enumerate(cuts)]
    others = [written(tmp_path, name=name) for name in ("p.feather", "p.csv")]
    ways = [parts, parts[::-1], [tmp_path / "parts"], *([other] for other in others)]
    for way in ways:
        again = counted(way[0], *way[1:], spec=spec)
        assert again.state.to_bytes() == whole.state.to_bytes()
        assert (again.digest, again.remarks) == (whole.digest, whole.remarks)


@pytest.mark.parametrize(("role", "row"), [("label", 3), ("prediction", 0), ("score", 5), ("sex", 1)])
def test_the_digest_sees_a_change_of_any_value(tmp_path: Path, role: str, row: int) -> None:
    changed = {name: list(values) for name, values in ROWS.items()}
    changed[role][row] = {"label": 1, "prediction": 1, "score": 0.01, "sex": "F"}[role]
    assert counted(written(tmp_path)).digest != counted(written(tmp_path, changed, "q.parquet")).digest


def test_without_predictions_the_threshold_decides(tmp_path: Path) -> None:
    rows = {name: values for name, values in ROWS.items() if name != "prediction"}
    state = counted(written(tmp_path, rows)).state
    assert grouping(state).counts.table[0, :, :2].tolist() == [[2, 1], [1, 2]]  # 0.5 is at the threshold: selected


def test_predictions_that_scores_contradict_count_and_are_told(tmp_path: Path) -> None:
    found = counted(written(tmp_path, {**ROWS, "prediction": [1, 1, 0, 1, 1, 0]}))
    assert grouping(found.state).counts.table[0, 0, :2].tolist() == [1, 2]
    assert "In 1 rows the prediction is not what the scores and the threshold 0.5 say; the prediction counts." in (
        found.remarks
    )


def test_missing_values_are_counted_as_such(tmp_path: Path) -> None:
    rows = {**ROWS, "label": [0, 1, None, 0, 1, 0], "prediction": [0, 1, 0, None, 1, 0], "score": [np.nan, *[0.5] * 5]}
    state = counted(written(tmp_path, rows)).state
    assert (state.n, state.n_nan_labels, state.n_nan_scores) == (6, 1, 1)
    assert int(state.counts[:, :, -1].sum()) == 2  # no prediction, no score


def test_classes_of_many_columns_of_scores(tmp_path: Path) -> None:
    rows = {"label": ["a", "b", "c"], "pa": [0.8, 0.4, 0.1], "pb": [0.1, 0.4, 0.2], "pc": [0.1, 0.2, 0.7]}
    state = counted(written(tmp_path, rows), spec=a_spec(score={"a": "pa", "b": "pb", "c": "pc"})).state
    assert state.counts[0, :, :3].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]  # the first of equal scores
    assert (state.has_scores, state.classes) == (True, ("a", "b", "c"))


def test_numbers_of_csv_files_are_numbers_whatever_their_look(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("label,prediction,g\n1.0,1,10\n0.0,0,9\n")
    (tmp_path / "two.csv").write_text('label,prediction,g\n1,1.0,"9"\n0,NA,\n')
    state = counted(tmp_path / "one.csv", tmp_path / "two.csv", spec=a_spec("g")).state
    assert (state.classes, state.attributes[0].levels) == (("0", "1"), ("9", "10"))
    assert (int(state.counts[:, :, -1].sum()), state.n_unknown) == (1, 1)


def test_a_group_that_nobody_has_is_told(tmp_path: Path) -> None:
    found = counted(written(tmp_path, {**ROWS, "sex": pa.nulls(6)}))
    assert (found.state.attributes[0].levels, found.state.n_unknown) == ((), 6)
    assert "No row has a value of sex: nothing can be compared by it." in found.remarks


def test_dictionaries_are_read_as_what_they_hold(tmp_path: Path) -> None:
    rows = {**ROWS, "sex": pa.array(ROWS["sex"]).dictionary_encode(), "label": pa.array(ROWS["label"], pa.int8())}
    assert counted(written(tmp_path, rows)).digest == counted(written(tmp_path, name="q.parquet")).digest


MANY = {"label": [0, 1] * 600, "prediction": [0, 1] * 600, "sex": [f"s{i}" for i in range(1200)]}


@pytest.mark.parametrize(
    ("rows", "columns", "named"),
    [
        (ROWS, {"target": "labl"}, r"no column 'labl'"),
        (ROWS, {"prediction": "guess"}, r"no column 'guess'"),
        (ROWS, {"sensitive": ["sexx"]}, r"no column 'sexx'"),
        ({"label": [0, 1], "sex": ["F", "M"]}, {}, r"neither a column of predictions nor one of scores"),
        ({**ROWS, "prediction": [0, 1, 2, 1, 1, 0]}, {}, r"row 3 of 'prediction' is 2, .* none of the classes 0, 1"),
        (ROWS, {"classes": ["0", "2"]}, r"row 2 of 'label' is 1, .* none of the classes 0, 2"),
        ({**ROWS, "label": [None] * 6}, {}, r"no row of 'label' has a label"),
        ({**ROWS, "label": [1] * 6}, {}, r"all labels of 'label' are '1'"),
        ({**ROWS, "label": [0.5, *[1.0] * 5]}, {}, r"'label' holds 0.5, which is no class"),
        (ROWS, {"positive": "yes"}, r"'yes' cannot be the positive one"),
        ({**ROWS, "score": [1.5, *[0.5] * 5]}, {}, r"row 1 of 'score' is 1.5; scores must lie in \[0, 1\]"),
        ({**ROWS, "score": [-0.1, *[0.5] * 5]}, {}, r"row 1 of 'score' is -0.1"),
        ({**ROWS, "score": [np.inf, *[0.5] * 5]}, {}, r"row 1 of 'score' is inf"),
        ({**ROWS, "score": ["high"] * 6}, {}, r"'score' holds texts"),
        (ROWS, {"score": {"1": "score", "7": "age"}}, r"'7' is no class; the classes are 0, 1"),
        ({**ROWS, "weight": [1, 1, -2, 1, 1, 1]}, {"weight": "weight"}, r"row 3 of 'weight' is -2; .* not be negative"),
        ({**ROWS, "weight": [1, None, 2, 1, 1, 1]}, {"weight": "weight"}, r"row 2 of 'weight' is None; every row"),
        (
            {**ROWS, "weight": [2000, *[1] * 5]},
            {"weight": "weight"},
            r"row 1 of 'weight' is 2000; divide .* their mean",
        ),
        (
            {**ROWS, "weight": [1e-7, *[1] * 5]},
            {"weight": "weight"},
            r"row 1 of 'weight' is 1e-07; divide .* their mean",
        ),
        ({**ROWS, "weight": [1e-3] * 6}, {"weight": "weight"}, r"the mean of 'weight' is 0.001; divide all"),
        ({**ROWS, "weight": [0] * 6}, {"weight": "weight"}, r"all weights in 'weight' are 0"),
        ({**ROWS, "sex": pa.array([b"F"] * 6, pa.binary(1))}, {}, r"'sex' is of type fixed_size_binary"),
        ({**ROWS, "id": list("abcabd")}, {"record_id": "id"}, r"'a' \(.*, row 1\) occurs more than once, and 1 more"),
        ({**ROWS, "id": [None, *"bcdef"]}, {"record_id": "id"}, r"row 1 of 'id' is None; every row needs an id"),
        ({**ROWS, "sex": [[1]] * 6}, {}, r"'sex' is of type list"),
        (MANY, {}, r"'sex' has more than 1000 different values, too many to be groups"),
        ({**ROWS, "label": list("abcabc"), "prediction": list("abcabc")}, {"score": "score"}, r"one for each class"),
        ({name: values[:0] for name, values in ROWS.items()}, {}, r"columns but no rows"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(
    tmp_path: Path, rows: dict[str, Any], columns: dict[str, Any], named: str
) -> None:
    by = columns.get("sensitive", ["sex"])
    with pytest.raises(BadData, match=named):
        counted(written(tmp_path, rows), spec=a_spec(*by, **columns))


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("p.parquet", b"PAR1 this is none", "cannot be read as a Parquet file"),
        ("p.feather", b"nor this", "cannot be read as a Arrow file"),
        ("p.csv", b"label,prediction\n0,1,2\n", "cannot be read as a CSV file"),
        ("p.csv", b"label,label\n0,1\n", "'label' occurs more than once"),
        ("p.csv", b"label,prediction,sex\n0,1,F\n1,0,\xff\xfe\n", "cannot be read as a CSV file"),
        ("p.parquet", b"", "the file is empty"),
        ("p.xlsx", b"x", "files end in .parquet"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadData, match=f"{name}.*{named}|{named}.*{name}"):
        counted(path)


def test_places_that_hold_nothing_or_the_same_twice_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(BadData, match="given twice"):
        counted(path, tmp_path)
    with pytest.raises(BadData, match="nothing is there"):
        counted(tmp_path / "q.parquet")
    (tmp_path / "sub").mkdir()
    with pytest.raises(BadData, match="holds no file"):
        counted(tmp_path / "sub")
    written(tmp_path, name="p.csv")
    with pytest.raises(BadData, match="holds CSV and Parquet files"):
        counted(tmp_path)


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"pip install 'fairlead\[evaluate\]'"):
        counted(path)


def test_a_column_that_only_some_files_have_is_missing_in_the_others(tmp_path: Path) -> None:
    rest = {name: values for name, values in ROWS.items() if name != "prediction"}
    with pytest.raises(BadData, match=r"two.parquet: there is no column 'prediction'"):
        counted(written(tmp_path), written(tmp_path, rest, "two.parquet"))


def test_a_hundred_by_a_hundred_groups_are_counted_and_with_scores_refused_by_name(tmp_path: Path) -> None:
    rows = np.arange(20_000)
    table = {"label": rows % 2, "prediction": rows % 3 % 2, "a": [f"a{i % 100}" for i in rows]}
    table["b"] = [f"b{i // 100 % 100}" for i in rows]
    spec = a_spec("a", "b")
    state = counted(written(tmp_path, table), spec=spec).state
    assert (len(grouping(state, ["a", "b"]).keys), state.n) == (10_000, 20_000)
    with pytest.raises(BadData, match=r"a \(100 levels\), b \(100 levels\).*without scores it needs far less"):
        counted(written(tmp_path, {**table, "score": rows / 20_000}, "q.parquet"), spec=spec)


# ---- the document ---------------------------------------------------------------------------------------------------


def test_of_an_experiments_spec_the_evaluation_and_the_columns_are_used() -> None:
    spec = read_predictions_spec(
        "{name: risk, workload: tabular_mlp, data: {uri: 'file:///d.csv', target: y, positive: '1', sensitive: [sex],"
        " record_id: k}, evaluation: {groupings: [[sex]]}, gates: [{metric: accuracy_score, require: '>= 0.5'}]}"
    )
    assert (spec.name, spec.sensitive, spec.gates[0].name) == ("risk", ("sex",), "accuracy_score")
    columns = spec.columns
    assert (columns.target, columns.positive, columns.record_id) == ("y", "1", "k")
    changed = spec.amended_columns({"target": "z", "score": "p"}).columns
    assert (changed.target, changed.record_id, changed.is_named("score")) == ("z", "k", True)
    assert not changed.is_named("prediction")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("columns: {targt: y}", "did you mean 'target'"),
        ("columns: {classes: [no, yes]}", "write it in quotes"),
        ("columns: {classes: [a, a]}", "listed twice"),
        ("{columns: {sensitive: [sex]}, evaluation: {groupings: [[age]]}}", "columns.sensitive does not list"),
        ("evaluation: {groupings: all}", "needs columns.sensitive"),
        ("gates: [{metric: accuracy_score, require: 'about 1'}]", "require must be"),
        ("- 1", "a document must be a mapping"),
        ("workload: x", "/name: Field required"),
    ],
)
def test_a_document_that_says_nothing_sensible_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(BadSpec, match=named):
        read_predictions_spec(text)


AGAINST = {"gates": [{"metric": "accuracy_score", "require": ">= champion - 0.02"}]}


def test_a_champions_predictions_in_a_column_are_paired_with_the_models(tmp_path: Path) -> None:
    rows = {**ROWS, "before": [0, 0, 1, None, 1, 0]}
    spec = a_spec("sex", champion="before")
    state = counted(written(tmp_path, rows), spec=spec).state
    assert state.paired is not None
    table = grouping(state).counts.paired
    assert table is not None
    pairs = [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 2), (1, 1, 1), (0, 0, 0)]  # label, prediction, champion's
    expected = np.zeros_like(table[0])
    for place in pairs:
        expected[place] += 1
    assert np.array_equal(table[0], expected)
    again = counted(written(tmp_path, {**rows, "before": [0, 0, 1, 1, 1, 0]}, "q.csv"), spec=spec)
    assert again.digest != counted(written(tmp_path, rows), spec=spec).digest


@pytest.mark.parametrize(
    ("before", "named"), [(None, "there is no column 'before'"), ([0, 1, 2, 0, 1, 1], "none of the classes 0, 1")]
)
def test_a_champion_that_cannot_be_read_is_refused_by_name(tmp_path: Path, before: Any, named: str) -> None:
    rows = ROWS if before is None else {**ROWS, "before": before}
    with pytest.raises(BadData, match=named):
        counted(written(tmp_path, rows), spec=a_spec("sex", champion="before"))


@pytest.mark.parametrize(
    ("columns", "named"), [({}, "columns.champion"), ({"champion": "before", "weight": "weight"}, "columns.weight")]
)
def test_gates_against_a_champion_that_there_is_not_are_refused_before_rows_are_counted(
    tmp_path: Path, columns: dict[str, str], named: str
) -> None:
    spec = PredictionsSpec.model_validate({"columns": columns, **AGAINST})
    path = written(tmp_path, {**ROWS, "before": ROWS["prediction"]})
    with pytest.raises(BadSpec, match=named):
        refuse_hopeless_gates(survey([path], spec))


def test_a_training_specs_gate_against_the_champion_is_judged_by_a_column_named_beside_it(tmp_path: Path) -> None:
    spec = read_predictions_spec(
        "{name: a, workload: tabular_mlp, data: {uri: x.csv, target: label}, register: {name: m}, "
        "gates: [{metric: accuracy_score, require: '>= champion - 0.02'}]}"
    )
    path = written(tmp_path, {**ROWS, "before": ROWS["prediction"]})
    with pytest.raises(BadSpec, match=r"columns\.champion"):
        refuse_hopeless_gates(survey([path], spec))
    found = survey([path], spec.amended_columns({"champion": "before"}))
    refuse_hopeless_gates(found)
    state = count(found).state
    assert isinstance(state, CountState)
    assert state.parts.has_champion
