"""Whose turn is it, why is mine not next, when might it start; and what a project may hold."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from fairlead.control.situation import Situation, look
from fairlead.errors import BadInput
from fairlead.forecast import Estimate
from fairlead.lifecycle import Desired, State
from fairlead.queueing import Account
from fairlead.representation import QueueEntryView, QueueView, QuotaChange, QuotaView, WhyView
from fairlead.rights import Role
from fairlead.store import experiments, projects
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Quota
from fairlead.store.tables import ExperimentRow
from fairlead.store.tokens import Principal
from fairlead_api.access import Caller
from fairlead_api.board import Queue
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.openapi import problems, takes
from fairlead_api.pages import DEFAULT_LIMIT, MAX_LIMIT, address
from fairlead_api.parts import Api, ApiParts
from fairlead_api.routes.experiments import AHEAD_SHOWN
from fairlead_api.views import answer

router = APIRouter(prefix="/v1", tags=["queue"])

Project = Annotated[str, Path(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Start = Annotated[int, Query(ge=1, le=10**9, description="Positions from here on; from `next` of the page before.")]


@router.get("/queue", operation_id="getQueue", summary="Who waits, in order", response_model=QueueView)
def show_queue(api: ApiParts, caller: Caller, limit: Limit = DEFAULT_LIMIT, start: Start = 1) -> Response:
    """Positions, reasons and estimates, of the caller's projects; positions count all. At most a second old."""
    return answer(_page(api, "/v1/queue", caller.rights.projects(), limit, start))


@router.get(
    "/projects/{name}/queue",
    operation_id="getProjectQueue",
    summary="Who of a project waits",
    response_model=QueueView,
    responses=problems(404),
)
def show_project_queue(api: ApiParts, name: Project, limit: Limit = DEFAULT_LIMIT, start: Start = 1) -> Response:
    """The same, of one project; positions count over all projects."""
    with api.store.read() as session:
        projects.get(session, name)
    return answer(_page(api, f"/v1/projects/{name}/queue", (name,), limit, start))


def _page(api: Api, route: str, wanted: tuple[str, ...] | None, limit: int, start: int) -> QueueView:
    """``wanted``: projects; None is all of them."""
    queue = api.board.queue(api.now())
    rest = [one for one in queue.ordered[start - 1 :] if wanted is None or one.project in wanted]
    shown = rest[:limit]
    with api.store.read() as session:
        rows = experiments.names_and_reasons(session, [one.id for one in shown])
    items = tuple(_entry(one, queue, *rows[one.id]) for one in shown if one.id in rows)
    following = None
    if len(rest) > limit:
        following = address(route, [("limit", str(limit)), ("start", str(queue.places[rest[limit].id]))])
    return QueueView(as_of=queue.situation.now, total=len(queue.ordered), items=items, next=following)


def _entry(one: Candidate, queue: Queue, name: str, waiting: str | None) -> QueueEntryView:
    wish, estimate = one.wishes[0], queue.estimate(one.id)
    return QueueEntryView(
        position=queue.places[one.id],
        id=one.id,
        name=name,
        project=one.project,
        priority=one.priority,
        workers=wish.workers,
        cpus=wish.cpus,
        gpus=wish.gpus,
        enqueued_at=one.enqueued_at,
        waiting=waiting,
        estimated_start_at=starts_at(queue, estimate),
        basis=estimate.basis,
    )


def starts_at(queue: Queue, estimate: Estimate) -> datetime | None:
    """The estimate as a time."""
    return None if estimate.in_s is None else queue.situation.now + timedelta(seconds=estimate.in_s)


def ahead_of(queue: Queue, position: int, caller: Principal) -> tuple[str, ...]:
    """Ids of the next few before ``position`` that the caller may see, the nearest last."""
    nearest = queue.ordered[max(0, position - 1 - AHEAD_SHOWN) : position - 1]
    return tuple(one.id for one in nearest if caller.rights.may(Role.VIEWER, one.project))


@router.get(
    "/experiments/{experiment_id}/why",
    operation_id="whyExperiment",
    summary="Why it is not running, and when it might",
    response_model=WhyView,
    responses=problems(404),
)
def why(api: ApiParts, caller: Caller, experiment_id: Annotated[str, Path(max_length=64)]) -> Response:
    """Admission, queue or placement: the reason in words and numbers, its position, who is ahead, an estimate."""
    with api.store.read() as session:
        row = experiments.get(session, experiment_id)
    queue = api.board.queue(api.now())
    position = queue.places.get(row.id) if row.state == State.QUEUED else None
    estimate = queue.estimate(row.id) if position is not None else None
    reason, code = _reason(row)
    return answer(
        WhyView(
            id=row.id,
            state=State(row.state),
            desired=Desired(row.desired),
            is_waiting=State(row.state) in (State.ACCEPTED, *experiments.WAITING_STATES),
            reason=reason,
            code=code,
            position=position,
            total=len(queue.ordered) if position is not None else None,
            ahead=ahead_of(queue, position, caller) if position is not None else (),
            estimated_start_at=starts_at(queue, estimate) if estimate is not None else None,
            basis=estimate.basis if estimate is not None else "",
            quota=_quota_view(row.project, queue.situation),
        )
    )


def _reason(row: ExperimentRow) -> tuple[str, str]:
    """In words, and by name."""
    if row.state == State.QUEUED and row.waiting is not None:
        return row.waiting, row.waiting.partition(":")[0]
    if row.state == State.QUEUED:
        return "it has just entered the queue and is looked at next", "not_looked_at_yet"
    if row.state == State.RETRYING and row.due_at is not None:
        return f"{row.reason}; tried again at {row.due_at.isoformat(timespec='seconds')}", "retrying"
    return row.reason, row.state


# ---- quota ----------------------------------------------------------------------------------------------------------


@router.get(
    "/projects/{name}/quota",
    operation_id="getQuota",
    summary="What a project may hold, and what it holds",
    response_model=QuotaView,
    responses=problems(404),
)
def show_quota(api: ApiParts, name: Project) -> Response:
    """Limits beside what is in use, and the recent use that decides whose turn it is."""
    with api.store.read() as session:
        projects.get(session, name)
        return answer(_quota_view(name, look(session, api.settings, api.now())))


@router.patch(
    "/projects/{name}/quota",
    operation_id="setQuota",
    summary="Limit what a project may hold at once",
    response_model=QuotaView,
    responses=problems(404, 413, 415, 422),
    openapi_extra=takes(QuotaChange),
)
def set_quota(api: ApiParts, caller: Caller, name: Project, body: SpecBody) -> Response:
    """What runs beyond a smaller limit goes on; nothing new begins until there is room under it."""
    change = read_document(QuotaChange, body)
    given = change.model_dump(exclude_unset=True)
    if "weight" in given and change.weight is None:
        raise BadInput("weight must be a number above 0: it cannot be taken away")
    with api.store.write() as session:
        row = projects.get(session, name)
        projects.locked(session, name)
        limits = {key: getattr(row, f"quota_{key}") for key in ("workers", "cpus", "gpus", "experiments")}
        weight = given.pop("weight", row.weight)
        projects.amend(session, name, quota=Quota(**{**limits, **given}), weight=weight)
        view = _quota_view(name, look(session, api.settings, api.now()))
    api.hint()
    return answer(view)


def _quota_view(name: str, situation: Situation) -> QuotaView:
    account = situation.accounts.get(name, Account())
    held, quota = account.held, account.quota
    return QuotaView(
        project=name,
        weight=account.weight,
        workers=quota.workers,
        cpus=quota.cpus,
        gpus=quota.gpus,
        experiments=quota.experiments,
        workers_held=held.workers,
        cpus_held=held.cpus,
        gpus_held=held.gpus,
        experiments_held=held.experiments,
        used_cpu_hours=account.used / 3600,
    )
