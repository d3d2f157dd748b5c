"""Storages that fail while data are read: what may go better later is no word about the data, and is tried again."""

import errno
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from fairlead.data.prediction_files import find_files
from fairlead.data.sources import read
from fairlead.data.storage import locate
from fairlead.errors import BadData, FairleadError, StorageAway
from fairlead.lifecycle import Outcome
from fairlead.run.rank import describe_failure
from fairlead.run.verdict import from_failure


class OfAStorage(Exception):
    """As those of S3's client: of no common class."""


FAULTS: list[tuple[Exception, type[FairleadError]]] = [
    (ConnectionResetError(errno.ECONNRESET, "reset by peer"), StorageAway),
    (OSError(errno.ESTALE, "stale file handle"), StorageAway),
    (OSError(errno.EIO, "input/output error"), StorageAway),
    (OSError(errno.EBUSY, "503 slow down"), StorageAway),
    (TimeoutError("no answer"), StorageAway),
    (OfAStorage("503"), StorageAway),
    (FileNotFoundError("gone"), BadData),
    (PermissionError(errno.EACCES, "forbidden"), BadData),
]


def raising(error: Exception) -> Callable[..., Any]:
    def act(*given: Any, **named: Any) -> Any:
        raise error

    return act


@pytest.fixture
def address() -> str:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table({"label": [0, 1], "prediction": [0, 1]}), sink)
    fsspec.filesystem("memory").pipe("/faults/p.parquet", sink.getvalue().to_pybytes())
    return "memory://faults/p.parquet"


@pytest.mark.parametrize(("error", "kind"), FAULTS, ids=lambda one: str(one))
@pytest.mark.parametrize("at", ["exists", "isdir", "find", "size", "open", "info"])
def test_predictions(
    address: str, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[FairleadError], at: str
) -> None:
    (file,) = find_files([address])
    monkeypatch.setattr(MemoryFileSystem, at, raising(error))
    place = address.rpartition("/")[0] if at in ("isdir", "find") else address
    act = file.stamp if at == "info" else lambda: find_files([place])
    with pytest.raises(kind) as raised:
        act()
    assert address.rpartition("/")[0] in str(raised.value)
    assert isinstance(error, FileNotFoundError) or str(error) in str(raised.value)


@pytest.mark.parametrize(("error", "kind"), FAULTS, ids=lambda one: str(one))
def test_predictions_half_way_through(
    address: str, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[FairleadError]
) -> None:
    (file,) = find_files([address])
    reading = file.read(["label"])
    monkeypatch.setattr(MemoryFile, "read", raising(error))
    with pytest.raises(kind, match="cannot be read as a Parquet file"):
        list(reading)


def test_what_is_damaged_is_bad_wherever_it_lies(tmp_path: Path) -> None:
    content = gzip.compress(b"label,prediction\n" + b"0,1\n" * 100_000)
    path = tmp_path / "p.csv.gz"
    path.write_bytes(content[: len(content) // 2])
    fsspec.filesystem("memory").pipe("/faults/p.csv.gz", path.read_bytes())
    for place in (path, "memory://faults/p.csv.gz"):
        with pytest.raises(BadData, match="cannot be read as a CSV file"):
            [list(file.read(["label"])) for file in find_files([place])]


@pytest.mark.parametrize(("error", "kind"), FAULTS, ids=lambda one: str(one))
def test_a_table_to_train_on(
    address: str, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[FairleadError]
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "open", raising(error))
    with pytest.raises(kind, match="the file cannot be read"):
        read(address)


def test_a_storage_that_says_no_and_means_not_now(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most do: whatever is raised while they look makes nothing there."""
    monkeypatch.setattr(MemoryFileSystem, "info", raising(OfAStorage("503")))
    monkeypatch.setattr(MemoryFileSystem, "exists", lambda *given, **named: False)
    with pytest.raises(StorageAway, match="does not answer: 503"):
        locate(address)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("at", ["stat", "getsize"])
def test_a_mounted_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, at: str) -> None:
    path = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pa.table({"label": [0, 1]}), path)
    (file,) = find_files([path])
    where = os if at == "stat" else os.path
    monkeypatch.setattr(where, at, raising(OSError(number, os.strerror(number))))
    act = file.stamp if at == "stat" else lambda: find_files([path])
    with pytest.raises(BadData if number == errno.EACCES else StorageAway, match=os.strerror(number)):
        act()


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (StorageAway("s3://x: reset"), Outcome.INFRA_ERROR, "data_storage: s3://x: reset"),
        (BadData("s3://x: no column"), Outcome.USER_ERROR, "bad_data: s3://x: no column"),
    ],
)
def test_an_attempt_ends_so_that_it_is_tried_again(error: Exception, outcome: Outcome, reason: str) -> None:
    verdict = from_failure(describe_failure(error, generation=1, rank=0))
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
