"""Down-sampled series for quick looks; the full ones are MLflow's."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fairlead.store.tables import SeriesRow

MAX_POINTS = 1000
"""Points kept of one metric; when they are reached every second one goes and the stride doubles."""

Point = Sequence[Any]


def extend(session: Session, experiment_id: str, key: str, points: Iterable[Point]) -> None:
    """Add [step, at_ms, value] points to a series."""
    row = session.get(SeriesRow, (experiment_id, key))
    if row is None:
        row = SeriesRow(experiment_id=experiment_id, key=key, stride=1, seen=0, points=[])
        session.add(row)
    kept, stride, seen = list(row.points), row.stride, row.seen
    for point in points:
        if seen % stride == 0:
            kept.append(list(point))
        seen += 1
        if len(kept) >= MAX_POINTS:
            kept, stride = kept[::2], stride * 2
    row.points, row.stride, row.seen = kept, stride, seen


def of_experiment(session: Session, experiment_id: str, keys: tuple[str, ...] = ()) -> list[SeriesRow]:
    """The series of an experiment: all, or those named."""
    query = select(SeriesRow).where(SeriesRow.experiment_id == experiment_id).order_by(SeriesRow.key)
    return list(session.scalars(query.where(SeriesRow.key.in_(keys)) if keys else query))
