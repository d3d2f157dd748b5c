"""What MLflow is told of a trial: its point, its values with their own steps and times, how it ended."""

from collections.abc import Iterator

from fairlead.protocol import MetricPoint
from fairlead.search.trials import TrialState
from fairlead.store.recorded_trials import WaitingSweep
from fairlead.store.tables import TrialRow
from fairlead.tracking.documents import RunStatus, TrialRun
from fairlead.tracking.keys import clean_key

STATUS: dict[TrialState, RunStatus] = {
    TrialState.RUNNING: "KILLED",  # its sweep has ended, and it with it
    TrialState.SUCCEEDED: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAILED: "FAILED",
}


def child_run(sweep: WaitingSweep, row: TrialRow) -> TrialRun:
    """The run of a trial that has ended."""
    ended_at_ms = _ended_at_ms(row)
    started_at_ms = ended_at_ms if row.started_at is None else int(row.started_at.timestamp() * 1000)
    tags = {
        "fairlead.state": row.state,
        "fairlead.reason": row.reason,
        "fairlead.origin": row.origin,
        "fairlead.tries": str(row.tries),
        "fairlead.parent_trial": "" if row.parent is None else str(row.parent),
        "fairlead.project": sweep.project,
        "fairlead.workload": sweep.workload,
        "mlflow.source.name": sweep.workload,
    }
    return TrialRun(
        experiment_id=sweep.experiment_id,
        no=row.no,
        status=STATUS[TrialState(row.state)],
        started_at_ms=started_at_ms,
        ended_at_ms=ended_at_ms,
        user=sweep.created_by or "fairlead",
        params=row.params,
        points=tuple(_points(row)),
        tags={name: value for name, value in tags.items() if value},
    )


def best_points(row: TrialRow) -> list[MetricPoint]:
    """What the best trial has reached, for the run of its sweep."""
    return [
        MetricPoint(key=clean_key(f"best/{key}"), value=value, step=row.last_step or 0, at_ms=_ended_at_ms(row))
        for key, value in _last_values(row).items()
    ]


def _points(row: TrialRow) -> Iterator[MetricPoint]:
    """Curves as they are kept, then whatever they do not end with already."""
    for key, curve in row.curves.items():
        for step, at_ms, value in curve:
            yield MetricPoint(key=clean_key(key), value=value, step=step, at_ms=at_ms)
    for key, value in _last_values(row).items():
        *_, (step, _, last) = row.curves.get(key) or [(0, 0, "NaN")]
        if (step, float(last)) != (row.last_step, value):
            step = max(step, row.last_step or 0)
            yield MetricPoint(key=clean_key(key), value=value, step=step, at_ms=_ended_at_ms(row))


def _last_values(row: TrialRow) -> dict[str, float]:
    """The last value of each metric; of those that objectives and constraints look at, the one that counts."""
    return {key: float(value) for key, value in {**row.metrics, **row.values}.items()}


def _ended_at_ms(row: TrialRow) -> int:
    assert row.ended_at is not None, "only what has ended is recorded"
    return int(row.ended_at.timestamp() * 1000)
