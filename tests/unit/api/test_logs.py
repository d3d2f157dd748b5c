from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead_api import logs


def segment(attempt: Path, number: int, content: bytes, rank: int = 0) -> None:
    directory = attempt / "logs"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"rank-{rank}.{number:03d}.log").write_bytes(content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(parts=st.lists(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\xff"]), max_size=8).map(b"".join), max_size=4))
def test_whole_lines_read_one_after_the_other_are_the_log(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    attempt = tmp_path_factory.mktemp("attempt")
    for number, content in enumerate(parts):
        segment(attempt, number * 3, content)
    whole, offset, seen = b"".join(parts), 0, b""
    while (piece := logs.read_from(attempt, rank=0, offset=offset).whole_lines()).content:
        assert piece.next_offset > offset or offset == 0
        seen, offset = seen + piece.content, piece.next_offset
    assert seen == whole[: whole.rfind(b"\n") + 1]
    assert seen + logs.read_from(attempt, rank=0, offset=offset).content == whole


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.lists(st.sampled_from([b"a", b"\n"]), max_size=8).map(b"".join), max_size=4),
    lines=st.integers(0, 9),
)
def test_a_tail_is_the_last_lines_and_knows_what_follows(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], lines: int
) -> None:
    attempt = tmp_path_factory.mktemp("attempt")
    for number, content in enumerate(parts):
        segment(attempt, number, content)
    piece = logs.read_tail(attempt, rank=0, lines=lines)
    kept = b"".join(parts).splitlines(keepends=True)
    assert piece.content == b"".join(kept[len(kept) - lines :] if lines <= len(kept) else kept)
    assert logs.read_from(attempt, rank=0, offset=piece.next_offset).content == b""


def test_other_files_and_ranks_are_left_alone(tmp_path: Path) -> None:
    segment(tmp_path, 0, b"zero\n")
    segment(tmp_path, 0, b"ten\n", rank=10)
    for name in ("rank-0.stacks.log", "rank-0.000.log.tmp", "rank-.000.log", "x"):
        (tmp_path / "logs" / name).write_text("no\n")
    assert logs.read_from(tmp_path, rank=0, offset=0).content == b"zero\n"
    assert logs.read_tail(tmp_path, rank=10, lines=5).content == b"ten\n"
    assert logs.read_from(tmp_path / "nowhere", rank=0, offset=0).content == b""


def test_a_deleted_middle_is_skipped(tmp_path: Path) -> None:
    segment(tmp_path, 0, b"first\n")
    offset = logs.read_from(tmp_path, rank=0, offset=0).next_offset
    segment(tmp_path, 9, b"newest\n")
    assert logs.read_from(tmp_path, rank=0, offset=offset).content == b"newest\n"


def test_a_line_without_end_is_given_when_it_fills_a_piece(tmp_path: Path) -> None:
    segment(tmp_path, 0, b"x" * (2**20 + 5))
    first = logs.read_from(tmp_path, rank=0, offset=0).whole_lines()
    assert len(first.content) == 2**20
    assert logs.read_from(tmp_path, rank=0, offset=first.next_offset).whole_lines().content == b""
