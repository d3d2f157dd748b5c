"""Questions about sweeps: how many trials at a time could they make use of?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fairlead.spec.search import MOST_SLOTS, MOST_TRIALS
from fairlead.store.tables import AmendmentRow, ExperimentRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Appetite:
    """How many trials at a time a sweep could make use of."""

    wanted: int
    limit: int
    """That many it may train at most."""


def of(session: Session, ids: Sequence[str]) -> dict[str, Appetite]:
    """Of sweeps, as they are amended and have come along."""
    if not ids:
        return {}
    columns = (ExperimentRow.id, ExperimentRow.total_steps, ExperimentRow.sweep)
    query = select(*columns, ExperimentRow.spec["search"]["concurrency"]).where(ExperimentRow.id.in_(ids))
    amended = _amended(session, ids)
    return {
        key: _appetite(amended.get(key, []), trials, (summary or {}).get("finished", 0), concurrency)
        for key, trials, summary, concurrency in session.execute(query)
    }


def _amended(session: Session, ids: Sequence[str]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    query = select(AmendmentRow.experiment_id, AmendmentRow.kind, AmendmentRow.payload)
    query = query.where(AmendmentRow.experiment_id.in_(ids)).order_by(AmendmentRow.experiment_id, AmendmentRow.no)
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for experiment_id, kind, payload in session.execute(query):
        found.setdefault(experiment_id, []).append((kind, payload))
    return found


def _appetite(
    amended: Iterable[tuple[str, dict[str, Any]]], trials: int | None, finished: int, concurrency: int | None
) -> Appetite:
    left, limit = (MOST_TRIALS if trials is None else trials) - finished, concurrency or MOST_SLOTS
    for kind, payload in amended:
        match kind:
            case "add_trials":
                left += payload["trials"]
            case "concurrency":
                limit = payload["concurrency"]
            case "finish":
                return Appetite(wanted=0, limit=limit)
    return Appetite(wanted=max(0, min(left, limit)), limit=limit)
