"""Trials of a sweep that have ended, as rows, for tests and benchmarks of what comes after them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from fairlead.search.trials import TrialState
from fairlead.store import Store
from fairlead.store.tables import TrialRow

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def an_ended_trial(experiment_id: str, no: int, *, points: int = 5, **changes: Any) -> TrialRow:
    """One that has taken half a second and reported ``points`` losses, with ``changes`` of columns."""
    began = BEGIN + timedelta(seconds=no / 4)
    at_ms = int(began.timestamp() * 1000)
    curve = [[step, at_ms + 100 * step, 1 / (1 + step) + no / 1000] for step in range(points)]
    loss = curve[-1][2] if curve else 1.0
    plain: dict[str, Any] = {
        "attempt_no": 1,
        "state": TrialState.SUCCEEDED,
        "origin": "proposed",
        "params": {"lr": 0.001 * (no + 1), "hidden": 8 + no % 8, "optimizer": "adam"},
        "reason": "",
        "detail": "",
        "values": {"validation/loss": loss},
        "metrics": {"validation/loss": loss, "validation/accuracy": 0.9, "train/loss": loss / 2},
        "curves": {"validation/loss": curve},
        "value": loss,
        "excess": 0.0,
        "last_step": max(0, points - 1),
        "tries": 1,
        "started_at": began,
        "ended_at": began + timedelta(seconds=0.5),
    }
    return TrialRow(experiment_id=experiment_id, no=no, **{**plain, **changes})


def keep_ended_trials(store: Store, experiment_id: str, nos: Iterable[int], **changes: Any) -> None:
    """Store such trials."""
    with store.write() as session:
        session.add_all(an_ended_trial(experiment_id, no, **changes) for no in nos)
