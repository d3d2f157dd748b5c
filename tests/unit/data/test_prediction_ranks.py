"""Several ranks count one table: the same bytes as one, each row read by one of them, and no change unseen."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from fairlead.data.prediction_files import BATCH_ROWS, NOTHING, WHOLE, PredictionFile, Share, deal, find_files
from fairlead.data.predictions import Predictions, Ranks, count, survey
from fairlead.errors import BadData
from fairlead.evaluation import CountState
from fairlead.spec import PredictionsSpec
from fairlead.testing.ranks import together

ROWS = 3 * BATCH_ROWS + 1000
IDS = {"record_id": "id"}


def a_table(rows: int = ROWS) -> dict[str, Any]:
    random = np.random.default_rng(5)
    label = (random.random(rows) < 0.4).astype(np.int64)
    score = np.clip(0.2 + 0.4 * label + 0.2 * random.normal(size=rows), 0, 1)
    sex = random.choice(["F", "M"], rows)
    return {
        "id": np.arange(rows) * 7,
        "label": label,
        "prediction": (score >= 0.5).astype(np.int64),
        "score": score,
        "sex": sex,
        "weight": random.integers(1, 5, rows) / 2,
    }


def written(directory: Path, table: Mapping[str, Any], name: str = "p.parquet", *, group: int = 40_000) -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    content = pa.table(dict(table))
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(content, path, row_group_size=group)
    elif name.endswith(".feather"):
        pyarrow.feather.write_feather(content, path, chunksize=group)
    elif name.endswith(".gz"):
        with pa.CompressedOutputStream(str(path), "gzip") as stream:
            pyarrow.csv.write_csv(content, stream)
    else:
        pyarrow.csv.write_csv(content, path)
    return path


def a_spec(**columns: Any) -> PredictionsSpec:
    return PredictionsSpec.model_validate({"columns": columns, "evaluation": {"groupings": [["sex"]]}})


def counted(places: Sequence[Path | str], spec: PredictionsSpec, *, ranks: int) -> list[Predictions]:
    def work(own: Ranks) -> Predictions:
        return count(survey(places, spec, ranks=own))

    return together(ranks, work)


def merged(parts: Sequence[Predictions]) -> CountState:
    return reduce(CountState.merge, [part.state for part in parts])


@pytest.mark.parametrize("name", ["p.parquet", "p.feather", "p.csv", "p.csv.gz"])
@pytest.mark.parametrize("columns", [{}, {"record_id": "id", "weight": "weight"}])
def test_any_number_of_ranks_counts_the_same(tmp_path: Path, name: str, columns: dict[str, Any]) -> None:
    path, spec = written(tmp_path, a_table(), name), a_spec(**columns)
    (alone,) = counted([path], spec, ranks=1)
    for ranks in (2, 3):
        parts = counted([path], spec, ranks=ranks)
        state = merged(parts)
        assert all(0 < part.state.n < ROWS for part in parts)
        assert state.to_bytes() == alone.state.to_bytes()
        assert {(part.digest, part.remarks, part.book) for part in parts} == {(alone.digest, alone.remarks, alone.book)}
        book = alone.book
        assert state.check_complete(expected_n=ROWS, expected_sum=book.hash_sum, expected_xor=book.hash_xor) is None


def parts_of(directory: Path, ending: str, cuts: Sequence[int]) -> Path:
    table = a_table(cuts[-1])
    for number, (start, stop) in enumerate(pairwise(cuts)):
        written(directory / "parts", {key: column[start:stop] for key, column in table.items()}, f"{number}{ending}")
    return directory / "parts"


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
@pytest.mark.parametrize("columns", [{}, IDS])
def test_many_files_are_shared_out(tmp_path: Path, ending: str, columns: dict[str, Any]) -> None:
    directory, spec = parts_of(tmp_path, ending, [0, 10, 10, 500, 900, 2000]), a_spec(**columns)
    whole = written(tmp_path, a_table(2000))
    (alone,) = counted([whole], spec, ranks=1)
    parts = counted([directory], spec, ranks=3)
    assert sum(part.state.n > 0 for part in parts) >= 2
    assert (merged(parts).to_bytes(), parts[0].digest) == (alone.state.to_bytes(), alone.digest)


def test_more_ranks_than_rows_leave_some_without_any(tmp_path: Path) -> None:
    table = {**a_table(3), "label": [0, 1, 1]}
    parts = counted([written(tmp_path, table)], a_spec(), ranks=5)
    assert sorted(part.state.n for part in parts) == [0, 0, 1, 1, 1]
    assert merged(parts).n == 3


def a_file(num_rows: int | None) -> PredictionFile:
    return PredictionFile(path="p", format="CSV", names=(), num_rows=num_rows)


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ([10], [[Share(first=0, last=5)], [Share(first=5, last=10)]]),
        ([4, 8], [[Share(first=0, last=4), Share(first=0, last=2)], [NOTHING, Share(first=2, last=8)]]),
        ([None, None, None], [[WHOLE, NOTHING, WHOLE], [NOTHING, WHOLE, NOTHING]]),
        ([None], [[Share(number=0, of=2)], [Share(number=1, of=2)]]),
    ],
)
def test_rows_are_dealt_evenly_where_their_number_is_known(sizes: list[int | None], shares: list[list[Share]]) -> None:
    files = [a_file(size) for size in sizes]
    assert [list(deal(files, number=number, of=2)) for number in (0, 1)] == shares


def test_a_share_is_cut_into_stripes() -> None:
    rows = BATCH_ROWS
    assert list(Share(first=5, last=rows + 7).cuts(0, 3 * rows)) == [(5, rows), (rows, rows + 7)]
    assert list(Share(number=1, of=2).cuts(10, 4 * rows)) == [(rows, 2 * rows), (3 * rows, 4 * rows)]


def test_only_row_groups_with_own_rows_are_read(tmp_path: Path) -> None:
    """The other half of the file may be damaged: who does not read it does not notice."""
    path = written(tmp_path, a_table(4000), group=1000)
    with pyarrow.parquet.ParquetFile(path) as file:
        column = file.metadata.row_group(3).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
    with open(path, "r+b") as content:
        content.seek(start)
        content.write(b"\xff" * 40)
    (file,) = find_files([path])
    assert sum(len(batch) for batch in file.read(["label"], Share(last=2000))) == 2000
    with pytest.raises(BadData, match=r"p\.parquet: this cannot be read as a Parquet file"):
        list(file.read(["label"], Share(first=2000)))


# ---- what is wrong --------------------------------------------------------------------------------------------------


def test_an_id_that_two_ranks_have_is_found_and_named(tmp_path: Path) -> None:
    table = a_table(1000)
    table["id"][990] = table["id"][3]
    path = written(tmp_path, table)
    messages = set()
    for ranks in (1, 2, 3):
        with pytest.raises(BadData, match=r"'21' \(.*p\.parquet, row 4\) occurs more than once; keep one") as raised:
            counted([path], a_spec(**IDS), ranks=ranks)
        messages.add(str(raised.value))
    assert len(messages) == 1


def test_a_bad_row_is_named_by_its_place_in_the_file_whoever_reads_it(tmp_path: Path) -> None:
    table = a_table(3000)
    table["score"][2500] = 1.5
    for name in ("p.parquet", "p.csv"):
        path = written(tmp_path, table, name)
        with pytest.raises(BadData, match=rf"{name}: row 2501 of 'score' is 1.5"):
            counted([path], a_spec(), ranks=2)


def test_a_class_that_one_rank_alone_has_seen_is_one_for_all(tmp_path: Path) -> None:
    table = {"label": ["a"] * 50 + ["b"] * 50, "prediction": ["a"] * 100, "sex": ["F"] * 99 + ["M"]}
    parts = counted([written(tmp_path, table)], a_spec(), ranks=2)
    assert {(part.state.classes, part.state.attributes[0].levels) for part in parts} == {(("a", "b"), ("F", "M"))}


def test_too_many_groups_over_all_ranks_are_refused(tmp_path: Path) -> None:
    table = {"label": [0, 1] * 600, "prediction": [0, 1] * 600, "sex": [f"s{i}" for i in range(1200)]}
    with pytest.raises(BadData, match=r"'sex' has more than 1000 different values"):
        counted([written(tmp_path, table)], a_spec(), ranks=2)


def rewritten(path: Path, rows: int) -> None:
    written(path.parent, a_table(rows), path.name)
    os.utime(path, ns=(1, 1))


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [touched, lambda path: rewritten(path, 900), lambda path: rewritten(path, 1001)])
@pytest.mark.parametrize("name", ["p.parquet", "p.csv"])
def test_a_file_that_changes_between_the_passes_is_no_result(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    path = written(tmp_path, a_table(1000), name)

    def work(own: Ranks) -> Predictions:
        found = survey([path], a_spec(), ranks=own)
        own.gather(None)
        if own.number == 0:
            change(path)
        own.gather(None)
        return count(found)

    with pytest.raises(BadData, match=rf"{name} changed while being read, or is not the same on every node"):
        together(2, work)


def test_a_file_that_is_another_on_another_node_is_no_result(tmp_path: Path) -> None:
    """As on two nodes whose paths are equal and whose disks are not."""
    nodes = [tmp_path / "one", tmp_path / "two"]
    for node, rows in zip(nodes, (1000, 1200), strict=True):
        written(node, a_table(rows))
    with pytest.raises(BadData, match=r"p\.parquet changed while being read, or is not the same on every node"):
        together(2, lambda own: survey([nodes[own.number] / "p.parquet"], a_spec(), ranks=own))


def test_a_file_that_one_rank_alone_sees_differently_long_is_no_result(tmp_path: Path) -> None:
    """A stream that ends early says nothing: that each rank has read another number of rows does."""
    paths = [written(tmp_path / str(number), a_table(rows), "p.csv") for number, rows in enumerate((1000, 1001))]
    for path in paths:
        path.write_bytes(path.read_bytes() + b"\n" * (200_000 - path.stat().st_size))  # empty lines are no rows
        os.utime(path, ns=(1, 1))
    with pytest.raises(BadData, match=r"p\.csv changed .* \(1000 rows; then 1001 rows\)"):
        together(2, lambda own: survey([paths[own.number]], a_spec(), ranks=own))


# ---- addresses ------------------------------------------------------------------------------------------------------


def test_addresses_are_read_like_paths(tmp_path: Path) -> None:
    spec = a_spec(**IDS)
    (alone,) = counted([written(tmp_path, a_table(5000))], spec, ranks=1)
    memory = fsspec.filesystem("memory")
    for name in ("p.parquet", "p.feather", "p.csv", "p.csv.gz"):
        memory.pipe(f"/{name}", written(tmp_path, a_table(5000), name).read_bytes())
        for place, ranks in ((f"memory://{name}", 1), (f"file://{tmp_path / name}", 2)):  # memory: one reader at once
            parts = counted([place], spec, ranks=ranks)
            assert (merged(parts).to_bytes(), parts[0].digest) == (alone.state.to_bytes(), alone.digest)


def test_a_directory_of_another_storage_is_read_whole(tmp_path: Path) -> None:
    (alone,) = counted([written(tmp_path, a_table(2000))], a_spec(), ranks=1)
    memory = fsspec.filesystem("memory")
    for path in sorted(parts_of(tmp_path, ".parquet", [0, 700, 2000]).iterdir()):
        memory.pipe(f"/run/parts/{path.name}", path.read_bytes())
    memory.pipe("/run/parts/_SUCCESS", b"")
    parts = counted(["memory://run/parts"], a_spec(), ranks=1)
    assert merged(parts).to_bytes() == alone.state.to_bytes()


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("memory://nowhere.parquet", "memory://nowhere.parquet: nothing is there"),
        ("builtin://diabetes", "data to train on, not predictions"),
        ("nosuch://bucket/p.parquet", "this address cannot be opened"),
        ("memory://broken.parquet", "memory://broken.parquet: this cannot be read as a Parquet file"),
        ("memory://empty.csv", "memory://empty.csv: the file is empty"),
    ],
)
def test_addresses_that_lead_nowhere_are_refused_by_name(place: str, named: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/broken.parquet", b"PAR1 this is none")
    memory.pipe("/empty.csv", b"")
    with pytest.raises(BadData, match=named):
        counted([place], a_spec(), ranks=1)
