import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fairlead.protocol import MetricPoint, NoteRecord
from fairlead.run.spool import SpoolReader, SpoolWriter, spool_path


def points(path: Path, offset: int = 0, limit: int = 1000) -> list[tuple[str, float, int]]:
    read = SpoolReader(path, "metrics").read(offset, limit)
    return [(point.key, point.value, point.step) for point in read if isinstance(point, MetricPoint)]


@pytest.fixture
def spooled(tmp_path: Path) -> Path:
    writer = SpoolWriter(tmp_path)
    for step in range(10):
        writer.metrics({"loss": step / 2}, step=step, at_ms=1000 + step)
    writer.close()
    return tmp_path


@pytest.mark.parametrize(("offset", "limit", "steps"), [(0, 3, [0, 1, 2]), (8, 5, [8, 9]), (10, 5, []), (12, 5, [])])
def test_records_are_numbered_from_the_start_of_the_file(
    spooled: Path, offset: int, limit: int, steps: list[int]
) -> None:
    assert [step for _, _, step in points(spooled, offset, limit)] == steps


def test_one_reader_may_go_back(spooled: Path) -> None:
    reader = SpoolReader(spooled, "metrics")
    assert len(reader.read(5, 100)) == 5
    assert len(reader.read(2, 100)) == 8


def test_a_line_cut_short_by_a_death_does_not_count(spooled: Path) -> None:
    with open(spool_path(spooled, "metrics"), "ab") as file:
        file.write(b'{"key": "loss", "val')
    assert len(points(spooled)) == 10


def test_a_line_damaged_by_a_power_loss_has_no_number(spooled: Path) -> None:
    with open(spool_path(spooled, "metrics"), "ab") as file:
        file.write(b"\0" * 20 + b"\n")
    writer = SpoolWriter(spooled)
    writer.metrics({"loss": 1.0}, step=10, at_ms=1)
    writer.close()
    assert [step for _, _, step in points(spooled, 10)] == [10]
    assert [step for _, _, step in points(spooled, 9)] == [9, 10]


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The kernel cuts writes short, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_records_and_nothing_else(spooled: Path) -> None:
    writer = SpoolWriter(spooled)
    with files_of_at_most(spool_path(spooled, "metrics").stat().st_size + 30):
        for step in (10, 11, 12):
            writer.metrics({"loss": 1.0}, step=step, at_ms=1)
    writer.metrics({"loss": 2.0}, step=13, at_ms=1)
    writer.close()
    assert writer.num_dropped == 3
    assert [step for _, _, step in points(spooled, 9)] == [9, 13]


def test_values_that_are_no_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.metrics({"a": math.nan, "b": math.inf, "c": -math.inf}, step=0, at_ms=1)
    writer.close()
    values = [value for _, value, _ in points(tmp_path)]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


def test_a_new_writer_goes_on_where_the_last_one_ended(spooled: Path) -> None:
    writer = SpoolWriter(spooled)
    writer.metrics({"loss": 1.0}, step=10, at_ms=1)
    writer.close()
    assert [step for _, _, step in points(spooled)] == list(range(11))


def test_a_full_stream_counts_what_it_drops(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, max_stream_bytes=200)
    for step in range(10):
        writer.metrics({"loss": 0.5}, step=step, at_ms=1)
    writer.close()
    kept = len(points(tmp_path))
    assert 0 < kept < 10
    assert writer.num_dropped == 10 - kept


def test_notes_keep_their_payload(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.note("resumed", at_ms=5, detail="from step 3", payload={"step": 3})
    writer.close()
    (note,) = SpoolReader(tmp_path, "notes").read(0, 10)
    assert note == NoteRecord(kind="resumed", detail="from step 3", payload={"step": 3}, at_ms=5)
