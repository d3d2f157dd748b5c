"""Experiments that come of a sweep: a trial that becomes a model, and a sweep that goes on."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from fairlead.errors import Conflict
from fairlead.lifecycle import State
from fairlead.representation import ExperimentDetail, Extension, Promotion
from fairlead.spec import ExperimentSpec
from fairlead.spec.experiment import TrialRef
from fairlead.store import Session, experiments
from fairlead.store.idempotency import StoredAnswer
from fairlead.store.tables import ExperimentRow, TrialRow
from fairlead_api.access import Caller
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.keys import RequiredKey
from fairlead_api.once import once
from fairlead_api.openapi import problems, takes
from fairlead_api.parts import ApiParts
from fairlead_api.routes.experiments import made
from fairlead_api.sweeps import promoted, search_of

router = APIRouter(prefix="/v1/experiments/{experiment_id}", tags=["sweeps"])
ExperimentId = Annotated[str, Path(max_length=64)]
_ANSWERS = {
    201: {"headers": {"Location": {"description": "The new experiment's address", "schema": {"type": "string"}}}},
    **problems(400, 404, 409, 413, 415, 422, 429),
}


@router.post(
    "/promote",
    operation_id="promoteTrial",
    summary="Make a model of a trial: judge it on the test split and pass it through the gates",
    status_code=201,
    response_model=ExperimentDetail,
    responses=_ANSWERS,
    openapi_extra=takes(Promotion, {"trial": 7}),
)
def promote(api: ApiParts, caller: Caller, experiment_id: ExperimentId, body: SpecBody, key: RequiredKey) -> Response:
    """It becomes an experiment of its own, with the sweep's gates, which were not judged for trials.

    Without ``trial`` the best one, where there is one that keeps all constraints.
    """
    asked = read_document(Promotion, body)

    def act(session: Session) -> StoredAnswer:
        row = experiments.get(session, experiment_id)
        trial = promoted(session, row, search_of(row), asked.trial)
        return made(api, session, _promotion(row, trial, asked), caller, derived_from=row.id)

    return once(api, caller, key, body, route=f"POST /v1/experiments/{experiment_id}/promote", act=act)


def _promotion(row: ExperimentRow, trial: TrialRow, asked: Promotion) -> ExperimentSpec:
    is_taken = trial.checkpoint is not None if asked.take is None else asked.take
    if is_taken and trial.checkpoint is None:
        raise Conflict(f"trial {trial.no} of sweep {row.id} has no checkpoint to take: say take: false to train again")
    sweep = experiments.spec_of(row)
    return sweep.amended(
        search=None,
        name=asked.name or sweep.name,
        params={**sweep.params, **trial.params},
        start_from=TrialRef(experiment=row.id, trial=trial.no) if is_taken else None,
    )


@router.post(
    "/extend",
    operation_id="extendSweep",
    summary="Go on from a sweep that has ended",
    status_code=201,
    response_model=ExperimentDetail,
    responses=_ANSWERS,
    openapi_extra=takes(Extension, {"trials": 50}),
)
def extend(api: ApiParts, caller: Caller, experiment_id: ExperimentId, body: SpecBody, key: RequiredKey) -> Response:
    """It becomes a sweep of its own that inherits the finished trials; ``trials`` counts new ones."""
    asked = read_document(Extension, body)

    def act(session: Session) -> StoredAnswer:
        row = experiments.get(session, experiment_id)
        search = search_of(row)
        if not State(row.state).is_final:
            raise Conflict(f"sweep {row.id} is {row.state}: while it runs, amend it with add_trials")
        spec = experiments.spec_of(row).amended(search=search.amended(trials=asked.trials, inherit=row.id))
        return made(api, session, spec, caller, derived_from=row.id)

    return once(api, caller, key, body, route=f"POST /v1/experiments/{experiment_id}/extend", act=act)
