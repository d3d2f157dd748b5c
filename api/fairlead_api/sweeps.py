"""What an experiment has to do with sweeps before it: a trial that it goes on from, trials that it inherits."""

from datetime import datetime

from fairlead.errors import BadSpec, Conflict, Problem
from fairlead.lifecycle import State
from fairlead.search.trials import TrialState
from fairlead.spec import ExperimentSpec
from fairlead.spec.search import SearchSpec
from fairlead.store import Session, experiments, trials
from fairlead.store.tables import ExperimentRow, TrialRow


def sweep_before(spec: ExperimentSpec) -> str | None:
    """The sweep that a spec names: whose trial it goes on from, or whose trials it inherits."""
    if spec.start_from is not None:
        return spec.start_from.experiment
    return spec.search.inherit if spec.search is not None else None


def inherit(session: Session, row: ExperimentRow, spec: ExperimentSpec, *, now: datetime) -> None:
    """Give a new sweep the trials that it inherits. Raises ``BadSpec`` where none of them is of use to it."""
    if spec.search is None or spec.search.inherit is None:
        return
    if trials.inherit(session, row, spec.search, now=now) == 0:
        message = (
            f"no finished trial of sweep {spec.search.inherit} lies in this space and has a value for each objective: "
            "leave inherit out, or search where it has searched"
        )
        raise refusal("/search/inherit", message)


def refusal(pointer: str, message: str) -> BadSpec:
    """Of one field."""
    return BadSpec(f"{pointer}: {message}", problems=(Problem(pointer=pointer, message=message),))


def search_of(row: ExperimentRow) -> SearchSpec:
    """What a sweep looks for. Raises ``Conflict`` for an experiment that is none."""
    search = experiments.spec_of(row).search
    if search is None:
        raise Conflict(f"experiment {row.id} is no sweep: it trains once")
    return search


def refuse_ended(row: ExperimentRow) -> None:
    """Raise ``Conflict`` once nothing of a sweep can be changed any more."""
    state = State(row.state)
    if state.is_final or state is State.EVALUATING:
        raise Conflict(f"sweep {row.id} is {state}: it is too late to change it; 'extend' goes on from it")


def promoted(session: Session, row: ExperimentRow, search: SearchSpec, asked: int | None) -> TrialRow:
    """The trial that is to become a model: the one asked for, or the best.

    Raises ``Conflict`` where there is no such trial, or where one must be named.
    """
    no = asked if asked is not None else _best(row, search)
    trial = trials.find(session, row.id, no)
    if trial is None:
        raise refusal("/trial", f"sweep {row.id} has no trial {no}")
    if trial.state not in (TrialState.SUCCEEDED, TrialState.PRUNED):
        raise Conflict(f"trial {no} of sweep {row.id} is {trial.state}: only a finished trial can be promoted")
    return trial


def _best(row: ExperimentRow, search: SearchSpec) -> int:
    standing = {**trials.unbegun(), **(row.sweep or {})}
    if standing["best"] is not None:
        return int(standing["best"])
    if standing["front"] and len(search.objectives) > 1:
        front = ", ".join(str(no) for no in standing["front"])
        message = f"there are several objectives, and none of these is beaten in all of them: name one of {front}"
        raise refusal("/trial", message)
    if standing["nearest"] is not None:
        raise Conflict(
            f"no trial of sweep {row.id} keeps all constraints; trial {standing['nearest']} comes nearest: name it to "
            "promote it all the same"
        )
    raise Conflict(f"no trial of sweep {row.id} has finished: there is nothing to promote")
