import subprocess
import sys
import time
from pathlib import Path

from fairlead.run import log_pump
from fairlead.run.log_pump import Segments


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(directory.glob("*.log"))}


def test_the_first_and_the_newest_segments_are_kept(tmp_path: Path) -> None:
    segments = Segments(str(tmp_path / "rank-0"), 10, 3)
    segments.write(b"first-----" + b"x" * 80 + b"last")
    assert sizes(tmp_path) == {
        "rank-0.000.log": 10,
        "rank-0.007.log": 10,
        "rank-0.008.log": 10,
        "rank-0.009.log": 4,
    }
    assert (tmp_path / "rank-0.000.log").read_bytes() == b"first-----"


def test_a_restarted_rank_begins_after_the_highest_number(tmp_path: Path) -> None:
    for name in ("rank-0.000.log", "rank-0.006.log", "rank-0.stacks.log", "rank-01.009.log"):
        (tmp_path / name).touch()
    Segments(str(tmp_path / "rank-0"), 10, 3).write(b"again")
    assert sizes(tmp_path)["rank-0.007.log"] == 5


def test_as_a_program_it_outlives_its_parent_and_ends_with_its_input(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", log_pump.__file__, str(tmp_path / "rank-0"), "1000", "3"]
    process = subprocess.run(command, input=b"some words", check=True, timeout=20)
    assert process.returncode == 0
    deadline = time.monotonic() + 10
    while sizes(tmp_path) != {"rank-0.000.log": 10} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "rank-0.000.log").read_bytes() == b"some words"
