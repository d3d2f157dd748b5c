"""Tables that stay on disk are, row for row, those that are read into memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from fairlead.admission import Rejected, admit
from fairlead.data import Dataset, cache, check, find_manifests, open_dataset, streaming
from fairlead.data.export import read_model
from fairlead.data.mapped import Mapped
from fairlead.errors import BadData
from fairlead.spec import DataSpec, ExperimentSpec
from fairlead.testing.context import train_here
from fairlead_workloads import tabular_mlp

ROWS = 60


@pytest.fixture(autouse=True)
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parts of seven rows: a table of sixty has many."""
    monkeypatch.setenv("FAIRLEAD_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(streaming, "MOST_ROWS", 7)
    return tmp_path / "cache"


def frame_of(**changes: Any) -> pandas.DataFrame:
    random = np.random.RandomState(0)
    columns = {
        "id": [f"p{row}" for row in range(ROWS)],
        "whole": random.randint(0, 50, ROWS),
        "late_fraction": [*range(ROWS - 1), 0.1 + 0.2],
        "large": random.randint(2**40, 2**60, ROWS),
        "city": random.choice(["north", "south", "west"], ROWS),
        "flag": random.rand(ROWS) < 0.5,
        "age": np.where(random.rand(ROWS) < 0.2, np.nan, random.randint(20, 80, ROWS)),
        "outcome": random.choice(["yes", "no"], ROWS),
    }
    return pandas.DataFrame({**columns, **changes})


def both(path: Path, **fields: Any) -> tuple[Dataset, Dataset]:
    given = {"uri": str(path), "target": "outcome"} | fields
    specs = [DataSpec.model_validate({**given, "streaming": streams}) for streams in (False, True)]
    return open_dataset(specs[0]), open_dataset(specs[1])


def written(frame: pandas.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".csv", ".gz"):
        frame.to_csv(path, index=False)
    else:
        path.mkdir()
        for number, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
            frame.iloc[part].to_parquet(path / f"part-{number}.parquet")
    return path


ROLES: dict[str, Any] = {
    "record_id": "id",
    "sensitive": ["city", "band"],
    "bins": {"band": {"column": "age", "edges": [40, 60]}},
    "features": ["whole", "late_fraction", "large", "city", "flag"],
}
TWISTED: dict[str, Any] = {
    "codes that look like numbers until late": {"city": [f"{row % 4:02d}" for row in range(ROWS - 1)] + ["x"]},
    "flags with gaps": {"city": [None if row == 40 else row % 2 == 0 for row in range(ROWS)]},
    "nothing at first": {"city": [None] * 20 + ["a", "b"] * 20},
    "numbers with gaps": {"city": [None] * 20 + [1, 2] * 20},
    "names beyond 64 bits": {"city": [2**63 + 1 if row > 30 else row % 3 for row in range(ROWS)]},
}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "folder"])
@pytest.mark.parametrize(
    "roles",
    [
        ROLES,
        {"features": ["whole", "city"]},
        {"target": "whole", "predict": "number", "features": ["large", "outcome"]},
        {"target": "whole", "features": ["large"], "record_id": "late_fraction"},
    ],
)
def test_the_digest_and_everything_else_are_those_of_the_table_in_memory(
    tmp_path: Path, name: str, roles: dict[str, Any]
) -> None:
    memory, streamed = both(written(frame_of(), tmp_path / name), **roles)
    assert streamed.info == memory.info
    assert isinstance(streamed.features, Mapped)
    for split in ("train", "validation", "test"):
        assert streamed.expected(split) == memory.expected(split)
        for rank in range(2):
            mine, theirs = (each.shard(split, rank=rank, world_size=2) for each in (streamed, memory))
            assert np.array_equal(mine.features[:], theirs.features)
            assert np.array_equal(mine.labels, theirs.labels)
            assert np.array_equal(streamed.groups(mine.records), memory.groups(theirs.records))


@pytest.mark.parametrize("twist", TWISTED)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_column_has_the_type_that_all_of_it_has(tmp_path: Path, twist: str, name: str) -> None:
    if (twist, name) == ("names beyond 64 bits", "t.parquet"):
        frame = frame_of(city=np.array(TWISTED[twist]["city"], dtype=np.uint64))
    else:
        frame = frame_of(**TWISTED[twist])
    path = written(frame, tmp_path / name)
    memory, streamed = both(path, sensitive=["city"], features=["whole"])
    assert streamed.info == memory.info
    assert np.array_equal(streamed.codes, memory.codes)


BAD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"whole": [*range(40), None, *range(41, ROWS)]}, {}),
    ({"whole": [*range(40), "oops", *range(41, ROWS)]}, {}),
    ({"whole": [*range(40), np.inf, *range(41, ROWS)]}, {}),
    ({"outcome": ["a", "b"] * 29 + ["a", None]}, {}),
    ({"outcome": [0.0, 1.0] * 29 + [0.0, 0.5]}, {}),
    ({"outcome": ["a"] * ROWS}, {}),
    ({"outcome": [*range(40), "oops", *range(41, ROWS)]}, {"predict": "number"}),
    ({"outcome": [*range(40), np.inf, *range(41, ROWS)]}, {"predict": "number"}),
    ({"id": ["p"] * ROWS}, {}),
    ({"id": [*"abc", None, *map(str, range(56))]}, {}),
    ({}, {"sensitive": ["large"]}),
    ({}, {"features": ["nothing"]}),
    ({}, {"positive": "maybe"}),
]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize(("changes", "roles"), BAD)
def test_bad_rows_are_refused_with_their_place_as_in_memory(
    tmp_path: Path, name: str, changes: dict[str, Any], roles: dict[str, Any], cache_directory: Path
) -> None:
    frame = frame_of(**changes)
    if name.endswith("parquet"):
        frame = frame.astype(
            {column: str for column in frame if frame[column].map(type).nunique() > 1 and frame[column].dtype == object}
        )
    path = written(frame, tmp_path / name)
    given = {"uri": str(path), "target": "outcome", "record_id": "id", "features": ["whole"]} | roles
    found = [check(DataSpec.model_validate({**given, "streaming": streams})) for streams in (False, True)]
    assert found[0], "it is bad in memory, too"
    assert [problem.pointer for problem in found[1]] == [problem.pointer for problem in found[0]]
    if "id" not in changes:
        assert found[1] == found[0]
    assert not [path for path in cache_directory.glob("*") if path.is_dir()], "nothing is left that looks whole"


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "empty"), ("a,outcome\n", "no rows"), ("a,a,outcome\n1,2,x\n", "more than once"),
     ("a,outcome\n1,x\n1,x,5,6\n", "cannot be read"), ("a,outcome\n1,x,5\n1,y,6\n", "more fields")],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    problems = check(DataSpec(uri=str(tmp_path / "t.csv"), target="outcome", streaming=True))
    assert words in problems[0].message


def test_label_noise_comes_on_top_as_in_memory(tmp_path: Path) -> None:
    noise = {"where": {"city": "north"}, "share": 0.5}
    memory, streamed = both(written(frame_of(), tmp_path / "t.csv"), **ROLES, label_noise=noise)
    assert np.array_equal(streamed.all_labels, memory.all_labels)


# ---- rows on disk --------------------------------------------------------------------------------------------------


def test_rows_on_disk_are_indexed_as_an_array_is(tmp_path: Path) -> None:
    array = np.random.RandomState(0).rand(50, 3).astype(np.float32)
    (tmp_path / "f.bin").write_bytes(array.tobytes())
    mapped = Mapped(tmp_path / "f.bin", shape=array.shape, dtype="<f4")
    (tmp_path / "f.bin").unlink()  # a cache may be emptied meanwhile
    places = np.array([3, 1, 1, 49, -1, 20, 21, 22])
    keys: list[Any] = [5, -1, slice(None), slice(10, 20), slice(40, 2, -7), slice(60, 70), places, places[:0],
                       array[:, 0] > 0.5, places.reshape(2, 4), [4, 2]]  # fmt: skip
    for key in keys:
        assert np.array_equal(mapped[key], array[key]), key
        assert mapped[key].shape == array[key].shape
    part = mapped.at(np.arange(0, 50, 2))
    assert (len(part), part.shape, part.dtype) == (25, (25, 3), np.float32)
    assert np.array_equal(part[3:9], array[::2][3:9])
    assert np.array_equal(np.concatenate([*part.parts()]), array[::2])


@pytest.mark.parametrize("key", [50, -51, np.array([0, 50]), np.zeros(3, bool), (slice(None), 0), 0.5])
def test_other_rows_are_refused(tmp_path: Path, key: Any) -> None:
    (tmp_path / "f.bin").write_bytes(bytes(600))
    with pytest.raises((IndexError, ValueError)):
        Mapped(tmp_path / "f.bin", shape=(50, 3), dtype="<f4")[key]


def test_no_one_takes_all_rows_into_memory_by_mistake(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(bytes(600))
    with pytest.raises(TypeError, match="stay on disk"):
        np.asarray(Mapped(tmp_path / "f.bin", shape=(50, 3), dtype="<f4"))


# ---- the cache of a node -------------------------------------------------------------------------------------------


def test_a_table_is_taken_in_once_and_again_when_its_file_changes(tmp_path: Path, cache_directory: Path) -> None:
    path = written(frame_of(), tmp_path / "t.csv")
    spec = DataSpec(uri=str(path), target="outcome", features=("whole",), streaming=True)
    first = open_dataset(spec).info.digest
    (kept,) = (each for each in cache_directory.iterdir() if each.is_dir())
    stamp = (kept / "features.bin").stat().st_mtime_ns
    assert open_dataset(spec).info.digest == first
    assert (kept / "features.bin").stat().st_mtime_ns == stamp
    written(frame_of(whole=range(ROWS)), path)
    os.utime(path, (1, 1))
    assert open_dataset(spec).info.digest != first


def test_what_was_used_longest_ago_is_deleted_but_stays_readable_for_who_has_it_open(
    tmp_path: Path, cache_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRLEAD_DATA_CACHE_GB", "0")
    path = written(frame_of(), tmp_path / "t.csv")
    old = open_dataset(DataSpec(uri=str(path), target="outcome", features=("whole",), streaming=True))
    before = old.rows("train").features[:]
    open_dataset(DataSpec(uri=str(path), target="outcome", features=("large",), streaming=True))
    assert len([each for each in cache_directory.iterdir() if each.is_dir()]) == 1
    assert np.array_equal(old.rows("train").features[:], before)


def test_a_build_that_was_killed_is_begun_again(tmp_path: Path, cache_directory: Path) -> None:
    (cache_directory / ".one.unfinished").mkdir(parents=True)
    (cache_directory / ".one.unfinished" / "features.bin").write_bytes(b"half")
    seen: list[list[str]] = []
    cache.entry("one", build=lambda at: (at / "all").touch(), use=lambda at: seen.append(os.listdir(at)))
    assert seen == [["all"]]


# ---- who may stream ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workload": "image_cnn", "params": {}}, "needs its rows in memory"),
        ({"probes": {"drift": {}}}, "stay on disk"),
        ({"data": {"uri": "builtin://diabetes", "streaming": True}}, "made in memory"),
    ],
)
def test_what_cannot_stream_is_refused_at_the_door(changes: dict[str, Any], words: str) -> None:
    given = {"name": "n", "workload": "tabular_mlp", "data": {"uri": "t.csv", "target": "y", "streaming": True}}
    decided = admit(ExperimentSpec.model_validate(given | changes), manifests=find_manifests(), has_bundle=bool)
    assert isinstance(decided, Rejected)
    assert [(problem.pointer, words in problem.message) for problem in decided.problems] == [("/data/streaming", True)]


def test_only_tables_stream(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadData, match="only tables can be streamed"):
        open_dataset(DataSpec(uri=str(tmp_path / "folder"), target="y", streaming=True))


def test_users_with_items_do_not_stream(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item,clicked\na,b,1\n")
    with pytest.raises(BadData, match="users with items"):
        open_dataset(DataSpec(uri=str(tmp_path / "t.csv"), target="clicked", streaming=True))


TRAINING = """
import json, resource, sys, time
import torch, pandas, pyarrow.parquet
from fairlead.data import open_dataset
from fairlead.data.alone import run_alone
from fairlead_workloads.tabular_mlp import train
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
arguments = ["--spec", sys.argv[1], "--epochs=1", "--batch-size=4096", "--hidden=[4]"]
run_alone(train, workload="tabular_mlp", example="diabetes_risk", arguments=arguments)
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))
"""


def test_training_on_streamed_rows_needs_a_fraction_of_the_memory(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    random = np.random.RandomState(0)
    folder = tmp_path / "table"
    folder.mkdir()
    for part in range(5):  # 100,000 rows x 750 columns: 300 MB as float32
        rows = random.standard_normal((20_000, 750)).astype(np.float32)
        columns = {f"x{place}": rows[:, place] for place in range(750)} | {"y": (rows[:, 0] > 0).astype(int)}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{part}.parquet", row_group_size=2_000)
    spec = {"name": "n", "workload": "tabular_mlp", "data": {"uri": str(folder), "target": "y", "streaming": True}}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    ran = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path / "spec.yaml")], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert float(ran.stdout.splitlines()[-1]) < 200, "MiB beyond what the imports take; the features alone are 286"


def test_a_model_is_the_same_wherever_its_rows_lie(tmp_path: Path) -> None:
    path = written(frame_of(), tmp_path / "t.csv")
    tabular_mlp_params = find_manifests()["tabular_mlp"].with_defaults({})
    found = []
    for streams in (False, True):
        data = {"uri": str(path), "target": "outcome", "features": ["whole", "city"], "streaming": streams}
        params = tabular_mlp_params | {"epochs": 3, "batch_size": 16}
        spec = ExperimentSpec.model_validate({"name": "n", "workload": "tabular_mlp", "data": data, "params": params})
        trained = train_here(tabular_mlp.train, spec, export_to=tmp_path / str(streams))
        found.append((trained.reports, read_model(tmp_path / str(streams)).tensors))
    (reports, tensors), (streamed_reports, streamed_tensors) = found
    assert streamed_reports == reports
    assert all(np.array_equal(streamed_tensors[name], tensors[name]) for name in tensors)
