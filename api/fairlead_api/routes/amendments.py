"""Changes to a sweep that runs. The spec stays as it is; each change has a number, an event and a line in the audit."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.responses import Response

from fairlead.errors import BadSpec, Conflict, Problem
from fairlead.representation import AmendmentView, ExperimentView, Page, SweepChange
from fairlead.search.space import problems_with_point
from fairlead.search.trials import TrialState
from fairlead.spec.search import MOST_TRIALS, SearchSpec
from fairlead.store import Session, amendments, experiments, trials
from fairlead.store.idempotency import StoredAnswer
from fairlead.store.tables import AmendmentRow, ExperimentRow
from fairlead.store.tokens import Principal
from fairlead_api.access import Caller
from fairlead_api.audits import note_made
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.keys import RequiredKey
from fairlead_api.once import once
from fairlead_api.openapi import problems, takes
from fairlead_api.parts import Api, ApiParts
from fairlead_api.sweeps import refusal, refuse_ended, search_of
from fairlead_api.views import amendment_view, answer, etag, experiment_view

router = APIRouter(prefix="/v1/experiments/{experiment_id}", tags=["sweeps"])
ExperimentId = Annotated[str, Path(max_length=64)]
FINISH = SweepChange(finish=True)


@router.get(
    "/amendments",
    operation_id="listAmendments",
    summary="How a sweep was changed while it ran, in order",
    response_model=Page[AmendmentView],
    responses=problems(404),
)
def list_amendments(api: ApiParts, experiment_id: ExperimentId) -> Response:
    """All of them."""
    with api.store.read() as session:
        experiments.get(session, experiment_id)
        found = amendments.rows(session, experiment_id)
    return answer(Page[AmendmentView](items=tuple(amendment_view(row) for row in found)))


@router.post(
    "/amendments",
    operation_id="amendSweep",
    summary="Change a sweep that runs",
    status_code=201,
    response_model=AmendmentView,
    responses=problems(400, 404, 409, 413, 415, 422),
    openapi_extra=takes(SweepChange, {"add_trials": 20}),
)
def amend(api: ApiParts, caller: Caller, experiment_id: ExperimentId, body: SpecBody, key: RequiredKey) -> Response:
    """Its runner hears of it within seconds. The same ``Idempotency-Key`` and body give the first answer again."""
    change = read_document(SweepChange, body)

    def act(session: Session) -> StoredAnswer:
        row = experiments.lock(session, experiment_id)
        search = search_of(row)
        refuse_ended(row)
        made = _amended(api, session, row, _amendment(session, row, search, change), caller)
        return StoredAnswer(status=201, headers={}, body=amendment_view(made).model_dump_json())

    return once(api, caller, key, body, route=f"POST /v1/experiments/{experiment_id}/amendments", act=act)


@router.post(
    "/finish",
    operation_id="finishSweep",
    summary="Ask a sweep to end well: begin no more trials and keep the best",
    status_code=202,
    response_model=ExperimentView,
    responses=problems(404, 409),
)
def finish(api: ApiParts, caller: Caller, experiment_id: ExperimentId) -> Response:
    """Trials that run are let run to their end. A second call changes nothing."""
    with api.store.write() as session:
        row = experiments.lock(session, experiment_id)
        search = search_of(row)
        refuse_ended(row)
        if not any(one.kind == FINISH.kind for one in amendments.rows(session, experiment_id)):
            _amended(api, session, row, _amendment(session, row, search, FINISH), caller)
            session.refresh(row)
        view, headers = experiment_view(row), {"ETag": etag(row), "Location": f"/v1/experiments/{row.id}"}
    api.hint()
    return answer(view, status=202, headers=headers)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Amendment:
    """A change as it is written down, and what it changes of the experiment itself."""

    kind: str
    payload: dict[str, Any]
    said: str
    columns: dict[str, Any] | None = None


def _amended(api: Api, session: Session, row: ExperimentRow, change: _Amendment, caller: Principal) -> AmendmentRow:
    made = amendments.insert(
        session,
        row.id,
        kind=change.kind,
        payload=change.payload,
        actor=caller.name,
        now=api.now(),
        reason=f"{caller.name} {change.said}",
        columns=change.columns,
    )
    note_made(session, "amendment", row.id, str(made.no), project=row.project)
    return made


def _amendment(session: Session, row: ExperimentRow, search: SearchSpec, change: SweepChange) -> _Amendment:
    """Raises ``BadSpec`` or ``Conflict`` for a change that cannot be carried out."""
    kind = change.kind
    if change.add_trials is not None:
        return _more_trials(row, search, change.add_trials)
    if change.concurrency is not None:
        said = f"asks for {change.concurrency} trials at a time at most"
        return _Amendment(kind=kind, payload={"concurrency": change.concurrency}, said=said)
    if change.priority is not None:
        columns = {"priority": change.priority}
        return _Amendment(kind=kind, payload=columns, said=f"sets the priority to {change.priority}", columns=columns)
    if change.enqueue is not None:
        _refuse_point(search, change.enqueue)
        return _Amendment(kind=kind, payload={"params": change.enqueue}, said="asks for a trial made by hand")
    if change.stop_trial is not None:
        _refuse_stop(session, row, change.stop_trial)
        said = f"asks to stop trial {change.stop_trial}"
        return _Amendment(kind=kind, payload={"trial": change.stop_trial}, said=said)
    return _Amendment(kind=kind, payload={}, said="asks to finish: no trial is begun any more")


def _more_trials(row: ExperimentRow, search: SearchSpec, more: int) -> _Amendment:
    asked = row.total_steps if row.total_steps is not None else search.trials
    if asked + more > MOST_TRIALS:
        raise refusal("/add_trials", f"a sweep has at most {MOST_TRIALS} trials, and {asked} are asked for already")
    said, columns = f"asks for {more} more trials: {asked + more} in all", {"total_steps": asked + more}
    return _Amendment(kind="add_trials", payload={"trials": more}, said=said, columns=columns)


def _refuse_point(search: SearchSpec, point: dict[str, Any]) -> None:
    found = tuple(
        Problem(pointer=f"/enqueue{one.pointer}", message=one.message, suggestion=one.suggestion)
        for one in problems_with_point(search, point)
    )
    if found:
        raise BadSpec(f"{found[0].pointer}: {found[0].message}", problems=found)


def _refuse_stop(session: Session, row: ExperimentRow, no: int) -> None:
    trial = trials.find(session, row.id, no)
    if trial is None:
        raise refusal("/stop_trial", f"sweep {row.id} has no trial {no}")
    if trial.state != TrialState.RUNNING:
        raise Conflict(f"trial {no} of sweep {row.id} is {trial.state}: there is nothing to stop")
