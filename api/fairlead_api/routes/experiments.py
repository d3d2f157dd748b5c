"""Create, list, show, and say what is wanted of an experiment."""

import hashlib
import re
import secrets
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from fairlead.admission import Admitted, FoundTrial, Rejected, admit
from fairlead.errors import BadInput, BadSpec, Conflict, NotFound, Problem, StaleVersion, TooMany
from fairlead.failpoints import failpoint
from fairlead.forecast import TOO_FAR_BACK, forecast
from fairlead.lifecycle import Desired, Observation, State
from fairlead.placement import Placement, place
from fairlead.queueing import Account, order
from fairlead.representation import (
    AttemptView,
    ExperimentDetail,
    ExperimentView,
    LossDeclaration,
    Page,
    PlanView,
    ProblemView,
)
from fairlead.rights import Role
from fairlead.search.trials import TrialState
from fairlead.spec import EvaluationRequest, ExperimentSpec, TrialRef, spec_hash
from fairlead.store import Session, attempts, bundles, clusters, experiments, idempotency, projects, trials
from fairlead.store.experiments import Candidate
from fairlead.store.idempotency import StoredAnswer
from fairlead.store.tables import AttemptRow, ExperimentRow
from fairlead.store.tokens import Principal
from fairlead_api.access import REFUSAL, Caller
from fairlead_api.audits import note_made
from fairlead_api.bodies import SpecBody, read_document, read_evaluation
from fairlead_api.filters import among, read_filters
from fairlead_api.keys import ANSWERS_KEPT, RequiredKey
from fairlead_api.once import unless_raced
from fairlead_api.openapi import EXAMPLE_EVALUATION, EXAMPLE_SPEC, problems, takes
from fairlead_api.pages import DEFAULT_LIMIT, MAX_LIMIT, address, cursor_after, read_cursor
from fairlead_api.parts import Api, ApiParts
from fairlead_api.routes.workloads import bundled_manifest, lock_in
from fairlead_api.sweeps import inherit, sweep_before
from fairlead_api.views import answer, attempt_view, etag, experiment_detail, experiment_view

router = APIRouter(prefix="/v1", tags=["experiments"])
WAITING_STATES = (State.ACCEPTED, *experiments.WAITING_STATES)
FILTERS = {"state": frozenset(State), "project": None, "name": None}
_CLIENT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_TRIES = 5
AHEAD_SHOWN = 5
ExperimentId = Annotated[str, Path(max_length=64)]
IfMatch = Annotated[str | None, Header(description="Act only on this version of the experiment.")]


# ---- plan and submit ------------------------------------------------------------------------------------------------


@router.post(
    "/plan",
    operation_id="planExperiment",
    summary="What would become of a spec; nothing is stored",
    response_model=PlanView,
    responses=problems(413, 415),
    openapi_extra=takes(ExperimentSpec, EXAMPLE_SPEC),
)
def plan(api: ApiParts, caller: Caller, body: SpecBody) -> Response:
    """Is it valid, would it fit, and who is ahead?"""
    try:
        spec = read_document(ExperimentSpec, body)
        with api.store.read() as session:
            _refuse_project(session, caller, spec)
            decision = _admit(api, session, spec)
    except NotFound as error:  # the project
        problem = Problem(pointer="/project", message=str(error))
        return answer(PlanView(is_valid=False, problems=_views((problem,)), why=str(error)))
    except BadSpec as error:
        given = error.problems or (Problem(pointer="", message=str(error)),)
        return answer(PlanView(is_valid=False, problems=_views(given), why=str(error)))
    if isinstance(decision, Rejected):
        return answer(PlanView(is_valid=False, problems=_views(decision.problems), why=decision.detail))
    return answer(_plan(api, caller, spec, decision))


def _plan(api: Api, caller: Principal, spec: ExperimentSpec, decision: Admitted) -> PlanView:
    """As if it were in the queue now: its place there, and where it would fit if nobody were ahead."""
    queue, candidate = api.board.queue(api.now()), _as_candidate(api, spec)
    here = queue.situation
    ordered = order([*queue.ordered, candidate], here.accounts, now=here.now, fairness=here.fairness)
    ahead = ordered.index(candidate)
    nearest = ordered[max(0, ahead - AHEAD_SHOWN) : ahead]
    placement = place(candidate, here.clusters, account=here.accounts.get(spec.project, Account()))
    estimate = forecast(ordered, here.clusters, here.accounts).get(candidate.id, TOO_FAR_BACK)
    would = _beginning(spec, candidate, placement) if isinstance(placement, Placement) else {"why": str(placement)}
    return PlanView(
        is_valid=True,
        warnings=decision.warnings,
        **{"cpus": spec.resources.cpus, "gpus": spec.resources.gpus, **would},
        code="" if isinstance(placement, Placement) else placement.reason,
        ahead=ahead,
        ahead_ids=tuple(one.id for one in nearest if caller.rights.may(Role.VIEWER, one.project)),
        position=ahead + 1,
        estimated_start_at=None if estimate.in_s is None else here.now + timedelta(seconds=estimate.in_s),
        basis=estimate.basis,
        spec=spec,
        spec_hash=spec_hash(spec),
    )


def _beginning(spec: ExperimentSpec, candidate: Candidate, placement: Placement) -> dict[str, Any]:
    """Where it would run, and with how much: a sweep, with as many trials at a time as there is room for."""
    found: dict[str, Any] = {
        "fits": True,
        "why": f"it would run on cluster {placement.cluster}",
        "cluster": placement.cluster,
        "nodes": dict(placement.plan),
        "alternative": placement.alternative,
    }
    if spec.search is not None:
        wish = candidate.wishes[placement.alternative]
        at_a_time = f"{wish.trials} trial{'s' if wish.trials != 1 else ''} at a time"
        found |= {"why": f"{found['why']}, {at_a_time}", "slots": wish.trials, "cpus": wish.cpus, "gpus": wish.gpus}
        found["alternative"] = placement.alternative // len(spec.search.slot_counts)
    return found


def _views(found: tuple[Problem, ...]) -> tuple[ProblemView, ...]:
    return tuple(ProblemView(pointer=p.pointer, message=p.message, suggestion=p.suggestion) for p in found)


def _as_candidate(api: Api, spec: ExperimentSpec) -> Candidate:
    """The spec as if it were in the queue now."""
    return Candidate(
        id="~",
        version=0,
        state=State.QUEUED,
        project=spec.project,
        priority=spec.policy.priority,
        wishes=spec.wishes,
        runtime_left_s=spec.policy.max_runtime_s,
        current_attempt_no=0,
        enqueued_at=api.now(),
        waiting=None,
    )


@router.post(
    "/experiments",
    operation_id="createExperiment",
    summary="Submit a spec",
    status_code=201,
    response_model=ExperimentDetail,
    responses={
        201: {"headers": {"Location": {"description": "The experiment's address", "schema": {"type": "string"}}}},
        **problems(400, 409, 413, 415, 422, 429),
    },
    openapi_extra=takes(ExperimentSpec, EXAMPLE_SPEC),
)
def create(
    api: ApiParts,
    caller: Caller,
    body: SpecBody,
    key: RequiredKey,
) -> Response:
    """Store the spec as a new experiment. The same ``Idempotency-Key`` and body give the first answer again."""
    return _created(api, caller, key, read_document(ExperimentSpec, body), body, route="POST /v1/experiments")


@router.post(
    "/evaluations",
    operation_id="createEvaluation",
    summary="Evaluate predictions that were made elsewhere",
    status_code=201,
    response_model=ExperimentDetail,
    responses={
        201: {"headers": {"Location": {"description": "The experiment's address", "schema": {"type": "string"}}}},
        **problems(400, 409, 413, 415, 422, 429),
    },
    openapi_extra=takes(EvaluationRequest, EXAMPLE_EVALUATION),
)
def create_evaluation(api: ApiParts, caller: Caller, body: SpecBody, key: RequiredKey) -> Response:
    """It becomes an experiment that trains nothing: workers on a cluster count the predictions at `uri`, and report and
    gates follow as ever. The same ``Idempotency-Key`` and body give the first answer again.
    """
    request = read_evaluation(body)
    return _created(api, caller, key, request.experiment, body, route="POST /v1/evaluations")


def _created(api: Api, caller: Principal, key: str, spec: ExperimentSpec, body: bytes, *, route: str) -> Response:
    stored = unless_raced(lambda: _create_once(api, caller, key, spec, body, route=route))
    api.hint()
    return Response(stored.body, stored.status, stored.headers, "application/json")


def _create_once(
    api: Api, caller: Principal, key: str, spec: ExperimentSpec, body: bytes, *, route: str
) -> StoredAnswer:
    """Experiment, event and answer in one transaction, or the answer of the first time."""
    scope = {"principal": caller.token_id, "route": route, "key": key}
    digest = hashlib.sha256(body).hexdigest()
    now = api.now()
    with api.store.write() as session:
        _refuse_project(session, caller, spec)  # first of all: a role may have gone since the first answer
        known = idempotency.find(session, **scope, body_sha256=digest)
        if known is not None:
            return known
        stored = made(api, session, spec, caller)
        expires_at = now + ANSWERS_KEPT
        failpoint("api.inserting")
        idempotency.insert(session, **scope, body_sha256=digest, answer=stored, expires_at=expires_at)
    failpoint("api.inserted")
    return stored


def made(
    api: Api, session: Session, spec: ExperimentSpec, caller: Principal, *, derived_from: str | None = None
) -> StoredAnswer:
    """A new experiment under an id of ours, and what is answered for it."""
    row = _insert(api, session, secrets.token_hex(6), spec, caller, derived_from=derived_from)
    note_made(session, "experiment", row.id, project=row.project)
    return StoredAnswer(
        status=201,
        headers={"Location": f"/v1/experiments/{row.id}", "ETag": etag(row)},
        body=experiment_detail(row, []).model_dump_json(by_alias=True),
    )


def _insert(
    api: Api,
    session: Session,
    experiment_id: str,
    spec: ExperimentSpec,
    caller: Principal,
    *,
    derived_from: str | None = None,
) -> ExperimentRow:
    decision = _admit(api, session, spec)
    if isinstance(decision, Rejected):
        raise BadSpec(decision.detail, problems=decision.problems)
    if not api.crowd.lets_in(api.settings.max_queued, lambda: experiments.count_in(session, WAITING_STATES)):
        raise TooMany(f"{api.settings.max_queued} experiments are waiting already; try again later")
    row = experiments.insert(
        session,
        experiment_id=experiment_id,
        spec=spec,
        actor=caller.name,
        now=api.now(),
        total_steps=decision.total_steps,
        derived_from=derived_from or sweep_before(spec),
    )
    inherit(session, row, spec, now=api.now())
    return row


def _refuse_project(session: Session, caller: Principal, spec: ExperimentSpec) -> None:
    """Raise ``NotFound`` alike for a project that is not there and for one that is not the caller's to submit to.

    An admin of everything may make the project anyway, so naming it in a spec makes it: on one's own machine a project
    is a label that needs no set-up. For everybody else a typing error must not find a way round a quota.
    """
    if caller.rights.may_everywhere(Role.ADMIN):
        return
    if not caller.rights.may(Role.EDITOR, spec.project) or projects.find(session, spec.project) is None:
        raise NotFound(f"there is no project {spec.project!r} that you may submit to; {_advice(caller)}")


def _advice(caller: Principal) -> str:
    known = caller.rights.projects(Role.EDITOR)
    if known is None:
        return "an admin of all projects has to create it first"
    return f"submit to one of: {', '.join(known)}" if known else "you may submit to none yet; ask an admin"


def _admit(api: Api, session: Session, spec: ExperimentSpec) -> Admitted | Rejected:
    def find_spec(experiment_id: str) -> ExperimentSpec | None:
        row = experiments.find(session, experiment_id)
        return experiments.spec_of(row) if row is not None and row.project == spec.project else None

    def find_trial(ref: TrialRef) -> FoundTrial | None:
        sweep, row = find_spec(ref.experiment), trials.find(session, ref.experiment, ref.trial)
        if sweep is None or row is None:
            return None
        return FoundTrial(
            spec=sweep,
            point=row.params,
            has_ended=row.state != TrialState.RUNNING,
            has_checkpoint=row.checkpoint is not None,
        )

    return admit(
        spec,
        manifests=api.manifests,
        has_bundle=lambda sha256: bundles.is_in(session, sha256, spec.project),
        find_lock=lambda sha256: lock_in(api, sha256) if bundles.is_in(session, sha256, spec.project) else None,
        find_bundled=lambda sha256, workload: bundled_manifest(api, sha256, workload),
        find_spec=find_spec,
        find_trial=find_trial,
    )


@router.put(
    "/experiments/{experiment_id}",
    operation_id="putExperiment",
    summary="Submit a spec under an id of your own",
    response_model=ExperimentDetail,
    responses={201: {"model": ExperimentDetail}, **problems(409, 413, 415, 422, 429)},
    openapi_extra=takes(ExperimentSpec, EXAMPLE_SPEC),
)
def put(api: ApiParts, caller: Caller, experiment_id: str, body: SpecBody) -> Response:
    """Create it (201), or find it there with the same spec (200); 409 where the spec is another one."""
    if not _CLIENT_ID.fullmatch(experiment_id):
        message = "an id has 1 to 40 of a-z, 0-9 and '-', and begins with a letter or a digit"
        raise BadInput(message, problems=(Problem(pointer="/path/experiment_id", message=message),))
    spec = read_document(ExperimentSpec, body)
    stored = unless_raced(lambda: _put_once(api, caller, experiment_id, spec))
    api.hint()
    return Response(stored.body, stored.status, stored.headers, "application/json")


def _put_once(api: Api, caller: Principal, experiment_id: str, spec: ExperimentSpec) -> StoredAnswer:
    with api.store.write() as session:
        _refuse_project(session, caller, spec)
        row = experiments.find(session, experiment_id)
        is_new = row is None
        if row is None:
            row = _insert(api, session, experiment_id, spec, caller)
        elif not caller.rights.may(Role.EDITOR, row.project):
            raise NotFound(REFUSAL)
        elif row.spec_hash != spec_hash(spec):
            raise Conflict(f"experiment {experiment_id} exists with another spec; specs never change, use another id")
        tries = [] if is_new else attempts.of_experiment(session, row.id)
        body = experiment_detail(row, tries).model_dump_json(by_alias=True)
        headers = {"Location": f"/v1/experiments/{row.id}", "ETag": etag(row)}
        return StoredAnswer(status=201 if is_new else 200, headers=headers, body=body)


# ---- list and show --------------------------------------------------------------------------------------------------


@router.get(
    "/experiments",
    operation_id="listExperiments",
    summary="Experiments, newest first",
    response_model=Page[ExperimentView],
    responses=problems(422),
)
def list_experiments(
    request: Request,
    api: ApiParts,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=500, description="From `next` of the page before.")] = None,
    state: Annotated[str | None, Query(examples=["eq:running", "in:queued,running"])] = None,
    project: Annotated[str | None, Query(examples=["eq:default"])] = None,
    name: Annotated[str | None, Query(examples=["eq:diabetes-risk"])] = None,
) -> Response:
    """Filters are written ``field=eq:value`` or ``field=in:a,b``; repeated ones must all hold."""
    del state, project, name  # declared for the description; read all at once, since they may be repeated
    wanted = among(read_filters(request.query_params, FILTERS), "project", caller.rights.projects())
    after = read_cursor(api, cursor)
    if any(values == () for values in wanted.values()):
        return answer(Page[ExperimentView](items=()))
    with api.store.read() as session:
        rows = experiments.page(
            session,
            limit=limit + 1,
            after=after,
            states=wanted.get("state", ()),
            projects=wanted.get("project", ()),
            names=wanted.get("name", ()),
        )
    items, following = rows[:limit], None
    if len(rows) > limit:
        kept = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        last = items[-1]
        following = address("/v1/experiments", [*kept, ("cursor", cursor_after(api, last.created_at, last.id))])
    return answer(Page[ExperimentView](items=tuple(experiment_view(row) for row in items), next=following))


@router.get(
    "/experiments/{experiment_id}",
    operation_id="getExperiment",
    summary="An experiment, its spec and its attempts",
    response_model=ExperimentDetail,
    responses=problems(404),
)
def show(api: ApiParts, experiment_id: ExperimentId) -> Response:
    """Everything about it; the ETag is its version."""
    with api.store.read() as session:
        row = experiments.get(session, experiment_id)
        return answer(experiment_detail(row, attempts.of_experiment(session, row.id)), headers={"ETag": etag(row)})


@router.get(
    "/experiments/{experiment_id}/attempts",
    operation_id="listAttempts",
    summary="Every try at running it, oldest first",
    response_model=Page[AttemptView],
    responses=problems(404),
)
def list_attempts(api: ApiParts, experiment_id: ExperimentId) -> Response:
    """Outcome, reason and observation of each."""
    with api.store.read() as session:
        experiments.get(session, experiment_id)
        rows = attempts.of_experiment(session, experiment_id)
    return answer(Page[AttemptView](items=tuple(attempt_view(row) for row in rows)))


# ---- what is wanted -------------------------------------------------------------------------------------------------


def _want(api: Api, caller: Caller, experiment_id: str, desired: Desired, if_match: str | None) -> Response:
    for _ in range(_TRIES):
        with api.store.write() as session:
            row = experiments.get(session, experiment_id)
            _refuse_stale(row, if_match)
            _refuse_too_late(row, desired)
            if row.desired != desired:
                if not experiments.want_if_current(session, row, desired, actor=caller.name, now=api.now()):
                    continue
                session.refresh(row)
            body = experiment_view(row)
            headers = {"ETag": etag(row), "Location": f"/v1/experiments/{row.id}"}
        api.hint()
        return answer(body, status=202, headers=headers)
    raise Conflict(f"experiment {experiment_id} changes too fast; ask again")


def _refuse_stale(row: ExperimentRow, if_match: str | None) -> None:
    if if_match is not None and if_match.strip() not in ("*", etag(row)):
        raise StaleVersion(f"experiment {row.id} is at version {row.version}; look again, then decide")


def _refuse_too_late(row: ExperimentRow, desired: Desired) -> None:
    state, is_repeated = State(row.state), row.desired == desired
    if desired is Desired.RUN and state is State.HELD:
        raise Conflict(f"experiment {row.id} is held ({row.reason}): release it once that is mended, or cancel it")
    if state.is_final and (desired is Desired.RUN or not is_repeated):
        raise Conflict(f"experiment {row.id} is {state}: it is too late to {_VERBS[desired]} it")
    if state is State.EVALUATING and not is_repeated and desired is not Desired.RUN:
        raise Conflict(f"experiment {row.id} is being evaluated: it is too late to {_VERBS[desired]} it")
    if row.desired == Desired.CANCEL and not is_repeated:
        raise Conflict(f"experiment {row.id} is being cancelled: that cannot be taken back; submit it again")


_VERBS = {Desired.CANCEL: "cancel", Desired.PAUSE: "pause", Desired.RUN: "resume"}
_ACTION_ANSWERS = problems(404, 409, 412)


@router.post(
    "/experiments/{experiment_id}/cancel",
    operation_id="cancelExperiment",
    summary="Ask for its end",
    status_code=202,
    response_model=ExperimentView,
    responses=_ACTION_ANSWERS,
)
def cancel(api: ApiParts, caller: Caller, experiment_id: ExperimentId, if_match: IfMatch = None) -> Response:
    """Stops it wherever it is. A second call changes nothing."""
    return _want(api, caller, experiment_id, Desired.CANCEL, if_match)


@router.post(
    "/experiments/{experiment_id}/pause",
    operation_id="pauseExperiment",
    summary="Ask it to stop after its next checkpoint and to wait",
    status_code=202,
    response_model=ExperimentView,
    responses=_ACTION_ANSWERS,
)
def pause(api: ApiParts, caller: Caller, experiment_id: ExperimentId, if_match: IfMatch = None) -> Response:
    """Its place in the queue is kept. A second call changes nothing."""
    return _want(api, caller, experiment_id, Desired.PAUSE, if_match)


@router.post(
    "/experiments/{experiment_id}/resume",
    operation_id="resumeExperiment",
    summary="Ask it to go on after a pause",
    status_code=202,
    response_model=ExperimentView,
    responses=_ACTION_ANSWERS,
)
def resume(api: ApiParts, caller: Caller, experiment_id: ExperimentId, if_match: IfMatch = None) -> Response:
    """It goes on from its last checkpoint. A second call changes nothing."""
    return _want(api, caller, experiment_id, Desired.RUN, if_match)


@router.post(
    "/experiments/{experiment_id}/release",
    operation_id="releaseExperiment",
    summary="Let it go on after it was held",
    status_code=202,
    response_model=ExperimentView,
    responses=_ACTION_ANSWERS,
)
def release(api: ApiParts, caller: Caller, experiment_id: ExperimentId, if_match: IfMatch = None) -> Response:
    """What ended before counts for no budget any more; an evaluation is made again. A second call changes nothing."""
    for _ in range(_TRIES):
        with api.store.write() as session:
            row = experiments.get(session, experiment_id)
            _refuse_stale(row, if_match)
            tries = attempts.of_experiment(session, row.id)
            _refuse_release(row, tries)
            if not experiments.is_released(session, row):
                now = api.now()
                last_end = max((one.ended_at for one in tries if one.ended_at is not None), default=now)
                released_at = max(now, last_end)  # by another process's clock it may have ended later than now
                if not experiments.release_if_current(
                    session, row, actor=caller.name, now=now, released_at=released_at
                ):
                    continue
                session.refresh(row)
            body = experiment_view(row)
            headers = {"ETag": etag(row), "Location": f"/v1/experiments/{row.id}"}
        api.hint()
        return answer(body, status=202, headers=headers)
    raise Conflict(f"experiment {experiment_id} changes too fast; ask again")


def _refuse_release(row: ExperimentRow, tries: list[AttemptRow]) -> None:
    state = State(row.state)
    if state is not State.HELD and (row.released_at is None or state.is_final):
        raise Conflict(f"experiment {row.id} is {state}, not held: there is nothing to release")
    if row.desired == Desired.CANCEL:
        raise Conflict(f"experiment {row.id} is being cancelled: that cannot be taken back; submit it again")
    still_there = [one for one in tries if one.outcome is None]
    if state is State.HELD and still_there:
        one = still_there[-1]
        raise Conflict(
            f"attempt {one.attempt_no} of experiment {row.id} is still open on cluster {one.cluster}, and its end "
            "decides what follows: end its processes, or declare it lost"
        )


# ---- an attempt that is dead, and nobody can see it -----------------------------------------------------------------


@router.post(
    "/experiments/{experiment_id}/attempts/{attempt_no}/declare-lost",
    operation_id="declareAttemptLost",
    summary="Vouch for an attempt's death where nobody can see it",
    status_code=202,
    response_model=AttemptView,
    responses=problems(404, 409, 413, 415, 422),
    openapi_extra=takes(LossDeclaration, {"reason": "the machine was sold"}),
)
def declare_lost(
    api: ApiParts,
    caller: Caller,
    experiment_id: ExperimentId,
    attempt_no: Annotated[int, Path(ge=1, le=2**31 - 1)],
    body: SpecBody,
) -> Response:
    """It ends as ``lost``, and the next may begin: if it still runs, its work is thrown away."""
    given = read_document(LossDeclaration, body)
    with api.store.write() as session:
        experiments.get(session, experiment_id)
        row = attempts.get(session, attempts.attempt_id(experiment_id, attempt_no))
        if row.declared_lost_by is None:
            if row.outcome is not None:
                raise Conflict(f"attempt {attempt_no} of experiment {experiment_id} has ended: {row.outcome}")
            cluster = clusters.get(session, row.cluster)
            is_fresh = clusters.has_fresh_agent(cluster, ttl_s=api.settings.agent_ttl_s, now=api.now())
            if is_fresh and row.observation == Observation.PRESENT and not given.force:
                raise Conflict(
                    f"the agent of cluster {row.cluster} sees attempt {attempt_no} at work: cancel the experiment, "
                    'or say "force": true'
                )
            note_loss(session, row, given.reason, actor=caller.name, now=api.now())
        view = attempt_view(row)
    api.hint()
    return answer(view, status=202, headers={"Location": f"/v1/experiments/{experiment_id}"})


def note_loss(session: Session, row: AttemptRow, reason: str, *, actor: str, now: datetime) -> None:
    """Write down a human's word that an open attempt is dead, with its event."""
    if attempts.declare_lost(session, row.id, by=actor, why=reason):
        experiments.note(
            session,
            row.experiment_id,
            kind="declared_lost",
            actor=actor,
            now=now,
            reason=f"{actor} declares attempt {row.attempt_no} on cluster {row.cluster} lost: {reason}",
            attempt_no=row.attempt_no,
            payload={"cluster": row.cluster, "observation": row.observation},
        )
