"""Trials of a sweep."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from fairlead.errors import NotFound
from fairlead.representation import Page, TrialDetail, TrialView
from fairlead.search.trials import TrialState
from fairlead.store import experiments, trials
from fairlead.store.trials import Sort
from fairlead_api.openapi import problems
from fairlead_api.pages import DEFAULT_LIMIT, MAX_LIMIT, address, bad_cursor, decode_token, encode_token
from fairlead_api.parts import Api, ApiParts
from fairlead_api.views import answer, trial_detail, trial_view

router = APIRouter(prefix="/v1/experiments/{experiment_id}", tags=["sweeps"])
ExperimentId = Annotated[str, Path(max_length=64)]
TrialNo = Annotated[int, Path(ge=0, le=trials.MAX_NO)]
_CURSOR = "trials-cursor"


@router.get(
    "/trials",
    operation_id="listTrials",
    summary="Trials of a sweep",
    response_model=Page[TrialView],
    responses=problems(404, 422),
)
def list_trials(
    request: Request,
    api: ApiParts,
    experiment_id: ExperimentId,
    state: Annotated[TrialState | None, Query(description="Only those in this state.")] = None,
    sort: Annotated[Sort, Query(description="`-` before it: the largest first.")] = "no",
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=500, description="From `next` of the page before.")] = None,
) -> Response:
    """In any order. By value those come first that keep all constraints. What is no sweep has no trials.

    In an order of what still changes, a trial that has moved meanwhile may be missed or come twice.
    """
    after = _place(api, cursor, experiment_id, sort)
    states = () if state is None else (state,)
    with api.store.read() as session:
        experiments.get(session, experiment_id)
        page = trials.page(session, experiment_id, sort=sort, limit=limit, states=states, after=after)
    following = None
    if page.place is not None:
        kept = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        token = encode_token(api, _CURSOR, [experiment_id, sort, *page.place])
        following = address(f"/v1/experiments/{experiment_id}/trials", [*kept, ("cursor", token)])
    return answer(Page[TrialView](items=tuple(trial_view(row) for row in page.rows), next=following))


def _place(api: Api, cursor: str | None, experiment_id: str, sort: Sort) -> list[object] | None:
    """Where a page begins. Raises ``BadInput`` for a cursor that was made for another list."""
    if cursor is None:
        return None
    content = decode_token(api, _CURSOR, cursor)
    if not isinstance(content, list) or content[:2] != [experiment_id, sort]:
        raise bad_cursor()
    return content[2:]


@router.get(
    "/trials/{trial_no}",
    operation_id="getTrial",
    summary="A trial with its metrics and their courses",
    response_model=TrialDetail,
    responses=problems(404, 422),
)
def show(api: ApiParts, experiment_id: ExperimentId, trial_no: TrialNo) -> Response:
    """NaN and infinity are null here and named beside it."""
    with api.store.read() as session:
        experiments.get(session, experiment_id)
        row = trials.find(session, experiment_id, trial_no)
    if row is None:
        raise NotFound(f"experiment {experiment_id} has no trial {trial_no}")
    return answer(trial_detail(row))
