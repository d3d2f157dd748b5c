import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.data import Dataset, book_of, check, open_dataset
from fairlead.errors import BadData
from fairlead.spec import DataSpec

TABLE = "name,age,income,city,outcome\n" + "".join(
    f"p{row},{20 + row},{1000.5 + row},{'north' if row % 3 else 'south'},{'yes' if row % 2 else 'no'}\n"
    for row in range(30)
)
DIABETES = {"uri": "builtin://diabetes", "sensitive": ["sex", "age_band"]}


def spec_of(**fields: Any) -> DataSpec:
    return DataSpec.model_validate(fields)


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return str(path)


@pytest.fixture(scope="module")
def diabetes() -> Dataset:
    return open_dataset(spec_of(**DIABETES))


# ---- built-in sets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "num_rows", "shape", "classes"),
    [
        ("builtin://diabetes", 442, (10,), ("below", "above")),
        ("builtin://breast_cancer", 569, (30,), ("benign", "malignant")),
        ("builtin://digits", 1797, (1, 8, 8), tuple("0123456789")),
    ],
)
def test_built_in_sets_open_without_a_target(
    uri: str, num_rows: int, shape: tuple[int, ...], classes: tuple[str, ...]
) -> None:
    info = open_dataset(spec_of(uri=uri)).info
    assert (info.num_rows, info.feature_shape, info.classes) == (num_rows, shape, classes)
    assert sum(info.num_by_split.values()) == num_rows


def test_diabetes_is_in_its_own_units_and_never_shows_its_target(diabetes: Dataset) -> None:
    names = [feature.name for feature in diabetes.info.features]
    assert names == ["age", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    assert diabetes.features[:, 0].min() == 19
    assert diabetes.features[:, 0].max() == 79
    assert diabetes.info.num_by_split == {"train": 265, "validation": 44, "test": 133}
    assert abs(diabetes.all_labels.mean() - 0.5) < 0.01


def test_groups_of_diabetes_follow_the_columns(diabetes: Dataset) -> None:
    sex, band = diabetes.info.attributes
    assert (sex.levels, band.levels) == (("1", "2"), ("<40", "40-60", ">=60"))
    codes = diabetes.groups(np.arange(442))
    assert codes.dtype == np.int16
    assert np.bincount(codes[:, 0]).tolist() == [235, 207]
    assert np.array_equal(codes[:, 1], np.digitize(diabetes.features[:, 0], [40, 60]))


def test_a_sensitive_column_is_a_feature_only_if_listed() -> None:
    info = open_dataset(spec_of(**DIABETES, features=["sex", "bmi"])).info
    assert [feature.name for feature in info.features] == ["sex", "bmi"]


# ---- tables --------------------------------------------------------------------------------------------------------


def test_a_csv_table_has_numbers_and_texts(table: str) -> None:
    dataset = open_dataset(spec_of(uri=table, target="outcome", record_id="name"))
    assert [(f.name, f.dtype, f.levels) for f in dataset.info.features] == [
        ("age", "float32", ()),
        ("income", "float32", ()),
        ("city", "str", ("north", "south")),
    ]
    assert dataset.info.classes == ("no", "yes")
    assert dataset.features[0].tolist() == [20, 1000.5, 0, 1]
    assert dataset.features[1].tolist() == [21, 1001.5, 1, 0]


def test_the_positive_label_can_be_named(table: str) -> None:
    dataset = open_dataset(spec_of(uri=table, target="outcome", positive="no"))
    assert dataset.info.classes == ("yes", "no")
    assert dataset.all_labels[:2].tolist() == [1, 0]


def test_csv_gzip_parquet_and_file_addresses_hold_the_same(table: str, tmp_path: Path) -> None:
    pandas.read_csv(table).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(TABLE.encode()))
    uris = [table, f"file://{table}", str(tmp_path / "table.parquet"), str(tmp_path / "table.csv.gz")]
    digests = {open_dataset(spec_of(uri=uri, target="outcome", sensitive=["city"])).info.digest for uri in uris}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("column", "levels", "codes"),
    [
        (["b", None, "a", "b"], ("a", "b"), [1, 2, 0, 1]),
        ([10, 9, None, 10], ("9", "10"), [1, 0, 2, 1]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        ([0.5, 1.0, 0.5, None], ("0.5", "1"), [0, 1, 0, 2]),
        (["__unknown__", "a", "a", "a"], ("a",), [1, 0, 0, 0]),
        (["<script>", "../x", "a*b", "ä" * 300], ("../x", "<script>", "a*b", "ä" * 300), [1, 0, 2, 3]),
        ([None, None, None, None], (), [0, 0, 0, 0]),
    ],
)
def test_levels_are_sorted_and_missing_is_unknown(
    tmp_path: Path, column: list[Any], levels: tuple[str, ...], codes: list[int]
) -> None:
    frame = pandas.DataFrame({"x": [1, 2, 3, 4], "group": column, "y": ["a", "b", "a", "b"]})
    frame.to_parquet(tmp_path / "t.parquet")
    split = {"train": 1.0, "validation": 0.0, "test": 0.0}
    dataset = open_dataset(spec_of(uri=str(tmp_path / "t.parquet"), target="y", sensitive=["group"], split=split))
    assert dataset.info.attributes[0].levels == levels
    assert dataset.groups(np.arange(4))[:, 0].tolist() == codes


def test_bins_make_groups_of_numbers_and_keep_edges_in_the_upper_band(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"age": [39.9, 40, 60, None, 59], "x": range(5), "y": list("ababa")})
    frame.to_parquet(tmp_path / "t.parquet")
    bins = {"band": {"column": "age", "edges": [40, 60]}}
    dataset = open_dataset(
        spec_of(
            uri=str(tmp_path / "t.parquet"),
            target="y",
            features=["x"],
            sensitive=["band"],
            bins=bins,
            split={"train": 1.0, "validation": 0.0, "test": 0.0},
        )
    )
    assert dataset.info.attributes[0].levels == ("<40", "40-60", ">=60")
    assert dataset.groups(np.arange(5))[:, 0].tolist() == [0, 1, 2, 3, 1]


ROWS = "x,group,y\n1,a,no\n2,b,yes\n3,a,no\n4,b,yes\n"
REFUSED: list[tuple[str, Mapping[str, Any], str, str]] = [
    # content, changes to the spec, pointer of the problem, words of its message
    (ROWS, {"target": "z"}, "/data/target", "no column 'z'"),
    (ROWS, {"target": None}, "/data/target", "must name the column"),
    (ROWS, {"features": ["x", "w"]}, "/data/features/1", "no column 'w'"),
    (ROWS, {"sensitive": ["grup"]}, "/data/sensitive/0", "no column 'grup'"),
    (ROWS, {"record_id": "id"}, "/data/record_id", "no column 'id'"),
    (ROWS, {"record_id": "group"}, "/data/record_id", "more than once"),
    (ROWS, {"sensitive": ["b"], "bins": {"b": {"column": "w", "edges": [1]}}}, "/data/bins/b/column", "no column"),
    (ROWS, {"bins": {"b": {"column": "x", "edges": [1]}}}, "/data/bins/b", "does not list"),
    (ROWS, {"sensitive": ["b"], "bins": {"b": {"column": "group", "edges": [1]}}}, "/data/sensitive/0", "holds texts"),
    (ROWS, {"positive": "maybe"}, "/data/positive", "'maybe'"),
    (ROWS, {"features": [], "sensitive": []}, "/data/features", "no column is left"),
    ("", {}, "/data/uri", "empty"),
    ("\n\n", {}, "/data/uri", "not a CSV table"),
    ("x,group,y\n", {}, "/data/uri", "no rows"),
    ("x,x,y\n1,2,no\n", {}, "/data/uri", "'x' occurs more than once"),
    ("x,group,y\n1,a,no\n1,a,no,5,6\n", {}, "/data/uri", "not a CSV table"),
    ("x,group,y\n1,a,no,5\n1,a,no,6\n", {}, "/data/uri", "more fields"),
    ("x,group,y\n1,a,no\n2,a,no\n", {}, "/data/target", "one class only, 'no'"),
    ("x,group,y\n1,a,no\n2,a,\n", {}, "/data/target", "row 2"),
    ("x,group,y\n1,a,0.5\n2,a,1.5\n", {}, "/data/target", "row 1"),
    ("x,group,y\n1,a,no\n,b,yes\n3,b,yes\n", {}, "/data/features", "row 2 of column 'x' is missing"),
    ("x,group,y\n1,a,no\n2,b,yes\noops,b,yes\n", {}, "/data/features", "row 3 of column 'x': 'oops'"),
    ("x,group,y\n1,a,no\ninf,b,yes\n", {}, "/data/features", "row 2 of column 'x'"),
    ("x,group,y\n1,a,no\n1e300,b,yes\n", {}, "/data/features", "row 2 of column 'x'"),
    ("x,group,y\n1,a,no\n2,b,yes\n", {"features": ["x", "y"]}, "", "also listed as a feature"),
]


@pytest.mark.parametrize(("content", "changes", "pointer", "words"), REFUSED)
def test_bad_tables_are_refused_with_the_place(
    tmp_path: Path, content: str, changes: Mapping[str, Any], pointer: str, words: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    fields = {"uri": str(path), "target": "y", "sensitive": ["group"]} | changes
    if not pointer:
        with pytest.raises(ValueError, match=words):
            spec_of(**fields)
        return
    problems = check(spec_of(**fields))
    assert [problem.pointer for problem in problems] == [pointer]
    assert words in problems[0].message
    if pointer == "/data/uri" or "row" in words:
        assert "bad.csv" in problems[0].message


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("builtin://iris", "no built-in data set 'iris'"),
        ("nowhere.csv", "nothing is there"),
        ("what://is/this.csv", "cannot be opened"),
        ("data.xlsx", "nothing is there"),
    ],
)
def test_bad_addresses_are_refused(uri: str, words: str) -> None:
    assert words in check(spec_of(uri=uri, target="y"))[0].message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.xlsx", b"PK", ".xlsx is not read"),
        ("t", b"x", "nothing is not read"),
        ("t.parquet", b"PAR1 but not really", "not a Parquet file"),
        ("t.csv", b"x,y\n\xff\xfe,1\n", "not a CSV table"),
        ("t.csv.gz", b"not gzip", "not a CSV table"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in check(spec_of(uri=str(tmp_path / name), target="y"))[0].message


def test_a_text_column_with_too_many_levels_is_no_feature(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"id": [f"p{row}" for row in range(300)], "y": [0, 1] * 150})
    frame.to_parquet(tmp_path / "t.parquet")
    problem = check(spec_of(uri=str(tmp_path / "t.parquet"), target="y"))[0]
    assert "300 different texts" in problem.message


def test_a_number_with_many_values_is_no_group() -> None:
    problem = check(spec_of(uri="builtin://diabetes", sensitive=["bmi"]))[0]
    assert problem.pointer == "/data/sensitive/0"
    assert "data.bins" in problem.message


@pytest.mark.parametrize(
    ("uri", "task", "kind", "pointers"),
    [
        ("builtin://diabetes", "binary", "table", []),
        ("builtin://digits", "binary", "images", ["/data/target"]),
        ("builtin://digits", "multiclass", "table", ["/data/uri"]),
        ("builtin://diabetes", None, "images", ["/data/uri"]),
    ],
)
def test_a_workload_can_tell_whether_data_suit_it(uri: str, task: Any, kind: Any, pointers: list[str]) -> None:
    assert [problem.pointer for problem in check(spec_of(uri=uri), task=task, kind=kind)] == pointers


@pytest.mark.parametrize(
    ("split", "pointer"),
    [
        ({"train": 0.5, "validation": 0.0, "test": 0.5}, "/data/split/train"),
        ({"train": 0.9, "validation": 0.0, "test": 0.1}, "/data/split/test"),
    ],
)
def test_an_unusable_split_is_refused(tmp_path: Path, split: dict[str, float], pointer: str) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,a\n2,b\n")
    assert check(spec_of(uri=str(tmp_path / "t.csv"), target="y", split=split))[0].pointer == pointer


# ---- shards, books, digests ----------------------------------------------------------------------------------------


@given(world_size=st.integers(1, 150), split=st.sampled_from(["train", "validation", "test"]))
def test_shards_together_are_the_split_in_order(diabetes: Dataset, world_size: int, split: str) -> None:
    shards = [diabetes.shard(split, rank=rank, world_size=world_size) for rank in range(world_size)]
    whole = diabetes.rows(split)
    for field in ("records", "features", "labels"):
        joined = np.concatenate([getattr(shard, field) for shard in shards])
        assert np.array_equal(joined, getattr(whole, field))


def test_expected_is_the_book_of_the_split_and_part_of_the_profile(diabetes: Dataset) -> None:
    for split in ("train", "validation", "test"):
        book = diabetes.expected(split)
        assert book == book_of(diabetes.record_hashes(diabetes.rows(split).records))
        assert book.hash_sum == diabetes.info.record_sum_by_split[split]
        assert book.hash_xor == diabetes.info.record_xor_by_split[split]


@pytest.mark.parametrize("records", [[-1], [442]])
def test_records_outside_the_data_are_refused(diabetes: Dataset, records: list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 to 441"):
        diabetes.labels(np.array(records))


def test_an_unknown_split_is_refused(diabetes: Dataset) -> None:
    with pytest.raises(ValueError, match="no split 'valid'"):
        diabetes.rows("valid")


def test_the_digest_sees_every_value_but_not_the_split(table: str, tmp_path: Path) -> None:
    fields = {"target": "outcome", "record_id": "name", "sensitive": ["city"]}
    first = open_dataset(spec_of(uri=table, **fields)).info.digest
    reseeded = {"train": 0.6, "validation": 0.1, "test": 0.3, "seed": 9}
    assert open_dataset(spec_of(uri=table, **fields, split=reseeded)).info.digest == first
    for old, new in [("p7,27,", "p7,28,"), ("p7,", "q7,"), ("south,no", "south,yes"), ("north", "NORTH")]:
        changed = tmp_path / "changed.csv"
        changed.write_text(TABLE.replace(old, new, 1))
        assert open_dataset(spec_of(uri=str(changed), **fields)).info.digest != first, (old, new)


# ---- label noise ---------------------------------------------------------------------------------------------------


def test_noise_flips_an_exact_share_of_the_rows_meant_and_spares_the_test_split(diabetes: Dataset) -> None:
    noise = {"where": {"sex": "2"}, "share": 0.5, "flip_to": "above", "splits": ["train", "validation"]}
    noisy = open_dataset(spec_of(**DIABETES, label_noise=noise))
    assert noisy.info.digest == diabetes.info.digest
    assert np.array_equal(noisy.rows("test").labels, diabetes.rows("test").labels)
    for split in ("train", "validation"):
        before, after = diabetes.rows(split), noisy.rows(split)
        changed = before.labels != after.labels
        eligible = (diabetes.groups(before.records)[:, 0] == 1) & (before.labels == 0)
        assert changed.sum() == np.floor(eligible.sum() / 2 + 0.5)
        assert (eligible | ~changed).all()
        assert (after.labels[changed] == 1).all()


@pytest.mark.parametrize(
    ("noise", "pointer"),
    [
        ({"where": {"city": "x"}, "share": 1}, "/data/label_noise/where/city"),
        ({"where": {"sex": "female"}, "share": 1}, "/data/label_noise/where/sex"),
        ({"where": {}, "share": 1, "flip_to": "sideways"}, "/data/label_noise/flip_to"),
        ({"where": {}, "share": 1, "flip_to": "above"}, "/data/split/train"),
    ],
)
def test_noise_that_makes_no_sense_is_refused(noise: dict[str, Any], pointer: str) -> None:
    assert check(spec_of(**DIABETES, label_noise=noise))[0].pointer == pointer


def test_labels_of_many_classes_are_not_flipped() -> None:
    with pytest.raises(BadData, match="only binary ones"):
        open_dataset(spec_of(uri="builtin://digits", label_noise={"where": {}, "share": 0.1}))
