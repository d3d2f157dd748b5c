import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from benchmarks.__main__ import BENCHMARKS, Order, order_of
from benchmarks.harness import (
    Measurement,
    ProcessorTime,
    keep,
    processor_time,
    quantile,
    size,
    sizes,
    spread,
    stolen_share,
)
from benchmarks.harness import surroundings as surroundings_now

CONTRACT = {
    "first_step": (
        "warm_p50_s",
        "warm_p95_s",
        "cold_p50_s",
        "ray_jobs_p50_s",
        "ray_train_p50_s",
        "torchrun_p50_s",
        "ratio_to_ray_jobs",
    ),
    "throughput": ("ratio_1", "ratio_2", "beside_1", "beside_2"),
    "metric_ingest": ("points_per_s", "mlflow_client_points_per_s", "worst_step_delay"),
    "burst_of_50": ("makespan_s", "shell_loop_s", "sum_of_own_s"),
    "fairness_engine": ("seconds_10m_rows", "extra_mb", "fairlearn_ratio_1m", "max_abs_difference"),
    "interval_coverage": ("min_coverage", "settings", "mean_width", "fairlearn_min_coverage"),
    "evaluation_share": ("share_of_epoch",),
    "idle_memory": ("pss_mb", "ray_plus_mlflow_pss_mb"),
    "crash_loop": ("submits", "lost", "doubled", "event_gaps", "seed"),
    "recovery": ("control_s", "agent_s", "postgres_s", "head_s"),
    "submit_throughput": ("postgresql_per_s", "sqlite_per_s", "p99_ms"),
    "thousand_starts": ("starts", "leaked", "memory_growth"),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    ratio: float
    starts: int = 3


def result_of(name: str) -> Any:
    (found,) = [
        value
        for value in vars(BENCHMARKS[name]).values()
        if dataclasses.is_dataclass(value)
        and value.__module__ == f"benchmarks.{name}"
        and tuple(field.name for field in dataclasses.fields(value)) == CONTRACT[name]
    ]
    return found


@pytest.mark.parametrize("name", CONTRACT)
def test_every_benchmark_gives_exactly_the_promised_numbers(name: str) -> None:
    assert dataclasses.is_dataclass(result_of(name))


def test_every_promised_benchmark_can_be_run_by_its_name() -> None:
    assert CONTRACT.keys() <= BENCHMARKS.keys()
    assert all(callable(module.measure) for module in BENCHMARKS.values())


@pytest.mark.parametrize(
    ("words", "order"),
    [
        ([], Order()),
        (["burst"], Order(name="burst")),
        (["RUNS=3"], Order(sizes={"RUNS": "3"})),
        (["burst", "RUNS=3", "N=4"], Order(name="burst", sizes={"RUNS": "3", "N": "4"})),
        (["RUNS=3", "burst"], Order(name="burst", sizes={"RUNS": "3"})),
    ],
)
def test_sizes_may_stand_beside_the_name(words: list[str], order: Order) -> None:
    assert order_of(words, ["burst", "other"]) == order


@pytest.mark.parametrize("words", [["burts"], ["burst", "other"], ["runs=3"], ["=3"]])
def test_a_word_that_is_neither_name_nor_size_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="benchmark"):
        order_of(words, ["burst", "other"])


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.95, 4.0), (1.0, 4.0)])
def test_a_quantile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == value


def test_nothing_measured_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="measured"):
        quantile([], 0.5)


def test_a_spread_says_how_many_runs_it_is_of() -> None:
    assert spread([1.0, 2.0, 9.0]) == {"p50": 2.0, "p95": 9.0, "min": 1.0, "max": 9.0, "runs": 3}


@pytest.mark.parametrize(("text", "expected"), [("", 20), ("5", 5), (" 7 ", 7)])
def test_a_size_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv("RUNS", text)
    assert size("RUNS", 20) == expected


@pytest.mark.parametrize(("text", "expected"), [("", [1, 10]), ("5", [5]), ("30, 2,30", [2, 30])])
def test_several_sizes_come_smallest_first(monkeypatch: pytest.MonkeyPatch, text: str, expected: list[int]) -> None:
    monkeypatch.setenv("QUEUED", text)
    assert sizes("QUEUED", (1, 10)) == expected


@pytest.mark.parametrize("text", ["0", "1,", "1;2", "a"])
def test_sizes_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("QUEUED", text)
    with pytest.raises(ValueError, match="QUEUED"):
        sizes("QUEUED", (1, 10))


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RUNS", text)
    with pytest.raises(ValueError, match="RUNS"):
        size("RUNS", 20)


def test_a_result_is_kept_with_where_it_was_measured(tmp_path: Path) -> None:
    measurement = Measurement(result=Found(ratio=1 / 3), sizes={"runs": 2}, details={"all": [1, 2]})
    kept = json.loads(keep("found", measurement, surroundings_now(), stolen=0.01, directory=tmp_path).read_text())
    assert kept["result"] == {"ratio": 0.3333, "starts": 3}
    assert kept["surroundings"]["processor_time_stolen"] == 0.01
    assert {"cores", "memory_gb", "cpu", "versions", "commit", "load_average", "date"} <= kept["surroundings"].keys()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_was_not_measured_is_not_kept(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        keep(
            "found", Measurement(result=Found(ratio=value), sizes={}), surroundings_now(), stolen=0, directory=tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_time_taken_by_the_host_is_a_share() -> None:
    assert 0 <= stolen_share(ProcessorTime(stolen=0, total=0)) <= 1
    assert stolen_share(processor_time()) <= 1
