"""The kernel's count of what it killed for memory, as narrow as it is kept."""

from pathlib import Path

import pytest

from fairlead.run.kills import KillCount, count_kills, has_killed_since

V1, V2, NEITHER = "7:pids:/\n4:cpu,memory:/a/b\n0::/a/b\n", "0::/a/b\n", "4:pids:/a/b\n"


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("own", "counter"),
    [
        (V2, "groups/a/b/memory.events"),
        (V1, "groups/memory/a/b/memory.oom_control"),
        (V2, "groups/memory.events"),  # inside a container, under the name that the host has for it
        (V1, "groups/memory/memory.oom_control"),
        (NEITHER, "vmstat"),
    ],
)
def test_the_group_of_a_process_is_asked_before_the_machine(tmp_path: Path, own: str, counter: str) -> None:
    write(tmp_path / "vmstat", "nr_free_pages 12\noom_kill 70\nswap_ra 0\n")
    file = write(tmp_path / counter, "oom 0\noom_kill 7\noom_group_kill 1\n")
    count = count_kills(groups=tmp_path / "groups", own=write(tmp_path / "own", own), machine=tmp_path / "vmstat")
    assert count == KillCount(file=str(file), num_kills=7)
    assert not has_killed_since("", count)
    file.write_text("oom_kill 8\n")
    assert has_killed_since("", count)


@pytest.mark.parametrize("counter", ["groups/a/b/memory.events", "groups/a/b/memory.current"])
def test_a_group_without_a_count_leaves_it_to_the_machine(tmp_path: Path, counter: str) -> None:
    write(tmp_path / counter, "low 0\n")
    machine = write(tmp_path / "vmstat", "oom_kill 70\n")
    count = count_kills(groups=tmp_path / "groups", own=write(tmp_path / "own", V2), machine=machine)
    assert count == KillCount(file=str(machine), num_kills=70)


def test_where_nothing_is_counted_nothing_was_killed(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    count = count_kills(groups=absent, own=absent, machine=absent)
    assert count == KillCount()
    assert not has_killed_since("", count)
    assert not has_killed_since("", KillCount(file=str(absent), num_kills=1))


def test_this_machine_has_a_count() -> None:
    count = count_kills()
    assert Path(count.file).is_file()
    assert not has_killed_since("", count)
