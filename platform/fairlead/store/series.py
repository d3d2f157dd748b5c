"""Down-sampled series for quick looks; the full ones are MLflow's.

A batch is folded into the series some seconds after it came: a row of many points costs as much to change by one point
as by a hundred. Whoever asks gets the points of batches that still wait as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from fairlead.store.tables import BatchRow, ExperimentRow, SeriesRow

MAX_POINTS = 1000
"""Points kept of one metric; when they are reached every second one goes and the stride doubles."""
FOLD_BATCHES = 20
MAX_FOLDED = 200
"""Batches folded at once."""
_KEYS_A_QUERY = 500

Point = Sequence[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Some points of one metric: [step, at_ms, value] each, in the order in which they were reported."""

    key: str
    points: list[Any]


def due(session: Session, *, before: datetime) -> list[str]:
    """Experiments with many batches that wait to be folded, or with one received before that time."""
    waiting = func.count(BatchRow.id) >= FOLD_BATCHES
    query = select(BatchRow.experiment_id).where(BatchRow.folded_at.is_(None)).group_by(BatchRow.experiment_id)
    return list(session.scalars(query.having(or_(waiting, func.min(BatchRow.received_at) < before))))


def fold(session: Session, experiment_id: str, *, now: datetime) -> None:
    """Put the points of waiting batches into the series of metrics whose last values are kept as well."""
    waiting = _waiting(session, experiment_id, limit=MAX_FOLDED)
    kept: Mapping[str, Any] = (
        session.scalar(select(ExperimentRow.metrics).where(ExperimentRow.id == experiment_id)) or {}
    )
    by_key = {key: points for key, points in _by_key(waiting).items() if key in kept}
    rows = {row.key: row for row in _rows(session, experiment_id, tuple(by_key))}
    for key, points in by_key.items():
        row = rows.get(key)
        if row is None:
            row = SeriesRow(experiment_id=experiment_id, key=key, stride=1, seen=0, points=[])
            session.add(row)
        extend(row, points)
    done = [batch.id for batch in waiting]
    session.execute(update(BatchRow).where(BatchRow.id.in_(done)).values(folded_at=now))


def extend(row: SeriesRow, points: Iterable[Point]) -> None:
    """Add points to a series, every ``stride``-th of all."""
    kept, stride, seen = list(row.points), row.stride, row.seen
    for point in points:
        if seen % stride == 0:
            kept.append(list(point))
        seen += 1
        if len(kept) >= MAX_POINTS:
            kept, stride = kept[::2], stride * 2
    row.points, row.stride, row.seen = kept, stride, seen


def of_experiment(session: Session, experiment_id: str, keys: tuple[str, ...] = ()) -> list[Series]:
    """The series of an experiment by name: all, or those named; points that were not folded yet come last."""
    found = {row.key: list(row.points) for row in _rows(session, experiment_id, keys)}
    for key, points in _by_key(_waiting(session, experiment_id)).items():
        if not keys or key in keys:
            found.setdefault(key, []).extend(points)
    return [Series(key=key, points=found[key]) for key in sorted(found)]


def _rows(session: Session, experiment_id: str, keys: tuple[str, ...]) -> list[SeriesRow]:
    query = select(SeriesRow).where(SeriesRow.experiment_id == experiment_id)
    if not keys:
        return list(session.scalars(query))
    portions = (keys[first : first + _KEYS_A_QUERY] for first in range(0, len(keys), _KEYS_A_QUERY))
    return [row for portion in portions for row in session.scalars(query.where(SeriesRow.key.in_(portion)))]


def _waiting(session: Session, experiment_id: str, *, limit: int | None = None) -> list[BatchRow]:
    query = select(BatchRow).where(BatchRow.experiment_id == experiment_id, BatchRow.folded_at.is_(None))
    return list(session.scalars(query.order_by(BatchRow.id).limit(limit)))


def _by_key(batches: Iterable[BatchRow]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for batch in batches:
        for key, value, step, at_ms in batch.payload:
            found.setdefault(key, []).append([step, at_ms, value])
    return found
