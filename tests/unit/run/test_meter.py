"""What an attempt may report is bounded far beyond what honest workloads report, and what is left out is counted."""

from fairlead.run.messages import Hello, Report
from fairlead.run.meter import BURST, MAX_KEYS, POINTS_PER_S, Meter
from fairlead.run.progress import Progress
from fairlead.testing import FakeClock

SUSTAINED = 5_100
"""Points a second from one attempt all the way to MLflow, as ``benchmarks/metric_ingest.py`` has measured."""


def a_progress(clock: FakeClock, *, meter: Meter | None = None) -> Progress:
    progress = Progress(clock, meter=meter)
    progress.greet(Hello(rank=0, world_size=1, group_id="g", actor_id="a", node_id="n", pid=1))
    return progress


def a_report(step: int, **metrics: float) -> Report:
    return Report(generation=1, step=step, metrics=metrics, at_ms=1)


def test_a_burst_passes_and_then_so_many_points_a_second(clock: FakeClock) -> None:
    meter = Meter(clock, burst=100, per_s=10)
    assert [meter.admits(40) for _ in range(3)] == [True, True, False]
    clock.advance(2)
    assert [meter.admits(40), meter.admits(1)] == [True, False]
    assert meter.num_dropped == 41


def test_a_report_larger_than_a_burst_has_its_turn_and_is_paid_for_afterwards(clock: FakeClock) -> None:
    meter = Meter(clock, burst=100, per_s=10)
    assert meter.admits(300)
    clock.advance(19)
    assert not meter.admits(1)
    clock.advance(2)
    assert meter.admits(1)


def test_three_times_what_reaches_mlflow_is_not_thinned_out_in_a_week(clock: FakeClock) -> None:
    assert POINTS_PER_S >= 3 * SUSTAINED
    meter = Meter(clock)
    assert meter.admits(BURST)
    for _ in range(7 * 24 * 60):
        clock.advance(60)
        assert meter.admits(3 * SUSTAINED * 60)
    assert meter.num_dropped == 0


def test_a_flood_is_thinned_out_evenly_and_its_newest_values_are_known_all_the_same(clock: FakeClock) -> None:
    progress = a_progress(clock, meter=Meter(clock, burst=10, per_s=8))
    kept = []
    for step in range(100):
        if progress.take(a_report(step, loss=float(step), rate=-float(step))):
            kept.append(step)
        assert progress.last_values == {"loss": float(step), "rate": -float(step)}
        assert progress.last_step == step
        clock.advance(0.125)  # one more point may pass, and two come
    assert kept == [*range(9), *range(10, 100, 2)], "a burst, and then every other step"
    assert 2 * len(kept) + progress.meter.num_dropped == 200


def test_metrics_beyond_the_first_ten_thousand_are_left_out_and_counted(clock: FakeClock) -> None:
    progress = a_progress(clock)
    for step in range(2):
        taken = progress.take(a_report(step, **{f"key/{number}": float(step) for number in range(MAX_KEYS + 5)}))
        assert list(taken) == [f"key/{number}" for number in range(MAX_KEYS)]
    late = progress.take(a_report(2, **{"key/3": 2.0, "late": 2.0}))
    assert late == {"key/3": 2.0}
    assert progress.num_beyond_keys == 11
    assert len(progress.last_values) == MAX_KEYS
