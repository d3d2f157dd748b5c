"""The simulated month, and what is concluded from a million stored."""

import pytest
from benchmarks.simulated_month import FIFO, GPUS, OURS, STRICT, Job, jain, jobs, play, seen
from benchmarks.store_million import KINDS, conclude

SMALL = {"users": 10, "experiments": 120, "days": 2, "nodes": 4, "seed": 3}


def a_job(user: str, *, waits_s: float, runs_s: float) -> Job:
    ended_s = waits_s + runs_s
    return Job(key=user, user=user, at_s=0, priority=50, gpus=1, runs_s=runs_s, bound_s=9e9, ended_s=ended_s)


def test_jain_is_one_where_all_fare_alike_and_falls_where_they_do_not() -> None:
    assert jain([a_job("a", waits_s=10, runs_s=10), a_job("b", waits_s=5, runs_s=5)]) == pytest.approx(1)
    # Shares of 1 and 1/4: (5/4)^2 / (2 * 17/16).
    assert jain([a_job("a", waits_s=0, runs_s=1), a_job("b", waits_s=3, runs_s=1)]) == pytest.approx(25 / 34)


@pytest.mark.parametrize("scheduler", [OURS, FIFO, STRICT], ids=lambda one: one.name)
def test_in_a_small_month_everyone_ends_and_no_gpu_is_used_twice(scheduler: object) -> None:
    month = jobs(**SMALL)
    world, done = play(month, scheduler, nodes=SMALL["nodes"])  # type: ignore[arg-type]
    found = seen(world, done, days=SMALL["days"], nodes=SMALL["nodes"])
    assert all(job.ended_s is not None for job in done)
    assert max(world.delivered_s.values()) <= SMALL["nodes"] * GPUS * 86_400
    assert sum(world.delivered_s.values()) == pytest.approx(sum(job.gpus * job.runs_s for job in done))
    assert (found["preemptions"] > 0) <= scheduler.may_preempt  # type: ignore[attr-defined]
    assert all(job.preemptions <= 3 for job in done)
    assert [job.began_s for job in play(month, scheduler, nodes=4)[1]] == [job.began_s for job in done]  # type: ignore[arg-type]


def test_the_load_of_a_month_is_what_was_asked_for() -> None:
    month = jobs(users=50, experiments=3000, days=5, nodes=16, seed=0)
    asked = sum(job.gpus * job.runs_s for job in month) / (16 * GPUS * 5 * 86_400)
    assert 0.7 < asked <= 1, "0.95 but for run times that were cut to a minute and to four days"
    assert all(job.bound_s > job.runs_s for job in month)


def test_the_slower_database_with_the_most_stored_is_told_and_the_steepest_growth() -> None:
    def a_point(stored: int, ms: float) -> dict[str, float]:
        shown = {f"{kind}_p95_ms": ms for kind in KINDS if kind != "dispatch"}
        return {"stored": stored, "dispatch_round_ms": 100.0, **shown}

    found = {
        "sqlite": [a_point(10, 1), a_point(1000, 2)],
        "postgresql": [a_point(10, 0.1), a_point(1000, 1)],
    }
    result = conclude(found, {}).result
    assert (result.list_p95_ms, result.show_p95_ms, result.queue_p95_ms, result.dispatch_round_ms) == (2, 2, 2, 100)
    assert result.growth_exponent == pytest.approx(0.5)
