"""The trials of a sweep as its report looks at them: some columns of all rows, read page by page."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from fairlead.evaluation.sweep_report import SweepTrial, bounded_by
from fairlead.search.best import excesses_of
from fairlead.search.trials import TrialState
from fairlead.spec.search import SearchSpec
from fairlead.store.tables import TrialRow

AT_ONCE = 1_000
_SIDES = ("", ".lower95", ".upper95")


def reported_trials(session: Session, experiment_id: str, search: SearchSpec) -> Iterator[SweepTrial]:
    """All of them by number. Of what they reported, only what the search looks at, and its bounds."""
    bare = {bounded_by(metric) for metric in search.metrics}
    wanted = {f"{metric}{side}" for metric in (*search.metrics, *bare) for side in _SIDES}
    query = (
        select(
            TrialRow.no,
            TrialRow.state,
            TrialRow.params,
            TrialRow.values,
            TrialRow.metrics,
            TrialRow.started_at,
            TrialRow.ended_at,
            TrialRow.reason,
            TrialRow.origin,
            TrialRow.last_step,
        )
        .where(TrialRow.experiment_id == experiment_id)
        .order_by(TrialRow.no)
        .limit(AT_ONCE)
    )
    after = -1
    while rows := session.execute(query.where(TrialRow.no > after)).all():
        for row in rows:
            values = {name: float(value) for name, value in row.values.items()}
            yield SweepTrial(
                no=row.no,
                state=TrialState(row.state),
                params=row.params,
                values=values,
                metrics={name: float(value) for name, value in row.metrics.items() if name in wanted},
                excesses=excesses_of(search, values),
                started_at=row.started_at,
                ended_at=row.ended_at,
                reason=row.reason,
                origin=row.origin,
                last_step=row.last_step,
            )
        after = rows[-1].no
