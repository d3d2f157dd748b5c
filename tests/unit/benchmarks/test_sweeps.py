import json
from pathlib import Path

import pytest
from benchmarks import sweep_10k, sweep_overhead
from benchmarks.sweep_crash import reruns


def test_the_share_of_book_keeping_is_what_is_beside_the_work_of_all_slots() -> None:
    # Two slots, trials of a second; each takes 1.1 s in its slot.
    ended = [(1.1 * (no // 2), 1.1 * (no // 2) + 1.1) for no in range(40)]
    found = sweep_10k.conclude(sorted(ended), 1000, 2, {"api": 300.0, "runner": 410.5}, 92.0)
    assert found.result.bookkeeping_share == pytest.approx(0.1)
    assert (found.result.peak_mb, found.result.recorder_runs_per_s) == (410.5, 92.0)
    assert found.details["ms_beside_work_by_tenth"] == pytest.approx([100.0] * 10)


def test_the_ratio_is_that_of_trivial_trials() -> None:
    seconds = {name: {"trivial": 0.1, "digits": 0.2} for name in sweep_overhead.TITLES}
    seconds["tune_fresh"] = {"trivial": 2.0, "digits": 2.5}
    found = sweep_overhead.conclude(seconds, {}, {"trials": 200})
    assert found.result.ratio_to_tune_fresh == pytest.approx(0.05)
    assert found.details["digits_ratio_to_tune_fresh"] == pytest.approx(0.08)


def test_a_trial_that_is_begun_after_its_end_was_written_down_is_found(tmp_path: Path) -> None:
    def spool(attempt: str, *records: tuple[int, str, bool]) -> None:
        directory = tmp_path / "storage" / "default" / "exp" / attempt / "spool"
        directory.mkdir(parents=True)
        lines = [{"no": no, "state": state, "params": {} if begins else None} for no, state, begins in records]
        (directory / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    begun, ended = (0, "running", True), (0, "succeeded", False)
    spool("a1", begun, ended, (1, "running", True))
    spool("a2", (1, "running", True), (1, "failed", False))
    assert reruns(tmp_path, "exp") == (0, 2)
    spool("a10", begun)
    assert reruns(tmp_path, "exp") == (1, 3)
