"""For agents, with an agent token: attach, sync, lease. The agent's epoch fences all but the newest out."""

import asyncio
import time
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from fairlead.admission import Admitted, Rejected, admit
from fairlead.errors import BadInput, BadSpec, Conflict, Problem, StaleAgent, StaleAttempt
from fairlead.failpoints import failpoint
from fairlead.lifecycle import Desired, Observation
from fairlead.protocol import (
    MAX_DELETIONS,
    PROTOCOL,
    STOP_GRACE_S,
    AttachAnswer,
    AttachRequest,
    AttemptObservation,
    CheckpointRef,
    Collected,
    Deletion,
    LaunchDocument,
    LeaseRequest,
    Offer,
    OpenAttempt,
    StopCommand,
    StopMode,
    SweepLaunch,
    SweepOrders,
    SyncAnswer,
    SyncRequest,
)
from fairlead.spec import ExperimentSpec, TrialRef
from fairlead.store import (
    Session,
    amendments,
    attempts,
    batches,
    bundles,
    checkpoints,
    clusters,
    events,
    exclusions,
    experiments,
    trials,
)
from fairlead.store.tables import AttemptRow, ExperimentRow
from fairlead_api.access import CallingCluster, new_attempt_token
from fairlead_api.bodies import ReportBody, read_report
from fairlead_api.openapi import problems, takes
from fairlead_api.parts import Api, ApiParts
from fairlead_api.rings import listening
from fairlead_api.routes.attempts import MAX_STEP
from fairlead_api.routes.workloads import bundled_manifest
from fairlead_api.views import answer

router = APIRouter(prefix="/internal/v1", tags=["agents"])
SYNC_POLL_S = 5.0
"""Between two looks for something to do without a ring."""
MAX_KEEPERS = 3
"""Checkpoints named beside one to be deleted: one of them must verify."""
START_IS_GONE = "start_is_gone"
REOFFER_AFTER_S = 10.0
"""A leased attempt that its agent does not know was leased by an answer that got lost."""
_MODES = {Desired.CANCEL: StopMode.CANCEL, Desired.PAUSE: StopMode.PAUSE}


class Greeting(BaseModel):
    """What every release's ``attach`` begins with: it is read first, since the rest may be another protocol's."""

    protocol: int


class CannotBeOffered(Conflict):
    """This release cannot make a launch document of what was accepted before."""


@router.post(
    "/agent/attach",
    operation_id="attachAgent",
    summary="Become the agent of a cluster",
    response_model=AttachAnswer,
    responses=problems(413, 415, 422),
    openapi_extra=takes(AttachRequest),
)
def attach(api: ApiParts, cluster: CallingCluster, body: ReportBody) -> Response:
    """A new epoch, which fences older agents out; open attempts, with fresh tokens for those that were leased."""
    spoken = read_report(Greeting, body).protocol
    if spoken != PROTOCOL:
        message = f"this server speaks protocol {PROTOCOL}, not {spoken}; install the same release on both"
        raise BadInput(message, problems=(Problem(pointer="/protocol", message=message),))
    request = read_report(AttachRequest, body)
    with api.store.write() as session:
        epoch = clusters.attach(session, cluster, request, now=api.now())
        found = tuple(_open_attempt(session, row) for row in attempts.open_on(session, cluster))
    failpoint("api.attached")
    return answer(AttachAnswer(cluster=cluster, agent_epoch=epoch, attempts=found))


def _open_attempt(session: Session, row: AttemptRow) -> OpenAttempt:
    token = None
    if row.leased_at is not None:
        token = new_attempt_token(row.id)
        attempts.renew_token(session, row.id, token)
    return OpenAttempt(
        attempt_id=row.id,
        experiment_id=row.experiment_id,
        attempt_no=row.attempt_no,
        runner_name=row.runner_name,
        attempt_token=token,
        is_leased=row.leased_at is not None,
        storage_path=row.storage_path,
        batch_offsets=batches.offsets(session, row.id),
    )


@router.post(
    "/agent/sync",
    operation_id="syncAgent",
    summary="Say what is seen, hear what is to be done",
    response_model=SyncAnswer,
    responses=problems(404, 409, 413, 415, 422),
    openapi_extra=takes(SyncRequest),
)
async def sync(http_request: Request, api: ApiParts, cluster: CallingCluster, body: ReportBody) -> Response:
    """The answer is held back for ``wait_s`` until there is something new to do; no connection is held meanwhile.

    What was told before is repeated, but does not hurry: an attempt takes seconds to stop.
    """
    told: dict[str, tuple[int, SyncAnswer]] = http_request.app.state.told
    request = await asyncio.to_thread(read_report, SyncRequest, body)
    deadline_s = time.monotonic() + request.wait_s
    await asyncio.to_thread(_take_in, api, cluster, request)
    async with listening(api.bell) as rung:
        while True:
            rung.clear()
            todo = await asyncio.to_thread(_todo, api, cluster, request)
            is_late = time.monotonic() >= deadline_s or api.stopping.is_set()
            news = request.agent_epoch, todo
            if is_late or (todo != SyncAnswer() and told.get(cluster) != news):
                told[cluster] = news
                return answer(todo)
            await rung.wait_at_most(min(SYNC_POLL_S, max(0.0, deadline_s - time.monotonic())))


def _take_in(api: Api, cluster: str, request: SyncRequest) -> None:
    now = api.now()
    with api.store.write() as session:
        is_changed = clusters.sync(
            session,
            cluster,
            agent_epoch=request.agent_epoch,
            ray_session=request.ray_session,
            nodes=request.nodes,
            now=now,
        )
        here = {row.id: row for row in attempts.open_on(session, cluster)}
        for seen in request.observations:
            if (row := here.get(seen.attempt_id)) is not None:
                attempts.write_if_open(session, row.id, **_columns(seen, row, now))
                if seen.has_evidence_of_death and row.death_since is None:
                    attempts.write_if_open(session, row.id, death_since=now, death_reason=seen.death_reason)
        for one in request.collected:
            _note_collected(session, cluster, one, now)
    if is_changed or any(seen.has_evidence_of_death for seen in request.observations):
        api.hint()


def _note_collected(session: Session, cluster: str, one: Collected, now: datetime) -> None:
    row = checkpoints.collected(session, cluster, one.path, is_deleted=one.is_deleted)
    if row is None:
        return
    for path in one.damaged:
        if checkpoints.reject(session, row.experiment_id, path):
            experiments.note(
                session,
                row.experiment_id,
                kind="checkpoint_rejected",
                actor=f"agent:{cluster}",
                now=now,
                reason=f"{path}: damaged; the checkpoint of step {row.step} is kept instead",
                attempt_no=row.attempt_no,
                payload={"path": path},
            )


def _deletions(session: Session, cluster: str) -> tuple[Deletion, ...]:
    rows = checkpoints.to_delete(session, cluster, limit=MAX_DELETIONS)
    keepers = {one: _refs(session, one)[:MAX_KEEPERS] for one in {row.experiment_id for row in rows}}
    return tuple(Deletion(path=row.path, keepers=keepers[row.experiment_id]) for row in rows)


def _refs(session: Session, experiment_id: str) -> tuple[CheckpointRef, ...]:
    return tuple(
        CheckpointRef(step=one.step, path=one.path, manifest_sha256=one.manifest_sha256)
        for one in checkpoints.newest_first(session, experiment_id)
    )


def _columns(seen: AttemptObservation, row: AttemptRow, now: datetime) -> dict[str, object]:
    columns: dict[str, object] = {"observation": seen.observation, "observed_detail": seen.detail}
    if seen.last_step is not None:
        columns["last_step"] = min(max(seen.last_step, row.last_step or 0), MAX_STEP)
    if seen.observation is Observation.PRESENT:
        columns |= {"death_since": None, "death_reason": "", "observed_at": now}
    return columns


def _todo(api: Api, cluster: str, request: SyncRequest) -> SyncAnswer:
    """What there is to do for the agent, or an empty answer. Raises ``StaleAgent``."""
    known = {seen.attempt_id for seen in request.observations}
    offers, stops, first_stops, sweeps = [], [], [], []
    heard = {seen.attempt_id: seen for seen in request.observations}
    with api.store.read() as session:
        if clusters.get(session, cluster).agent_epoch != request.agent_epoch:
            raise StaleAgent(f"another agent has attached to cluster {cluster} since epoch {request.agent_epoch}")
        rows = attempts.open_on(session, cluster)
        for row in rows:
            desired = Desired(experiments.get(session, row.experiment_id).desired)
            is_leased = row.leased_at is not None
            # A leased one must be taken even if nobody wants it: only a lease lets the agent say that it never began.
            if (desired is Desired.RUN or is_leased) and _is_on_offer(api, row, known):
                offers.append(Offer(attempt_id=row.id, runner_name=row.runner_name))
            if is_leased and (stop := _stop(row, desired)) is not None:
                stops.append(stop)
                first_stops += [row.id] * (row.stop_since is None)
            if row.id in heard and (orders := _orders(session, row, heard[row.id])) is not None:
                sweeps.append(orders)
        ended = sorted(known - {row.id for row in rows})
        deletions = _deletions(session, cluster)
    if first_stops:
        with api.store.write() as session:
            for attempt_id in first_stops:
                attempts.note_stop(session, attempt_id, api.now())
    served = {row.runner_name for row in rows}
    strays = tuple(name for name in request.stray_runners if name not in served)
    return SyncAnswer(
        offers=tuple(offers),
        stops=tuple(stops),
        ended=tuple(ended),
        strays_to_stop=strays,
        sweeps=tuple(sweeps),
        deletions=deletions,
    )


def _orders(session: Session, attempt: AttemptRow, heard: AttemptObservation) -> SweepOrders | None:
    """What the runner of a sweep has not heard of yet; None where there is nothing."""
    slots = attempts.slots(attempt)
    if slots == 0:
        return None
    if heard.slots in (0, slots) and amendments.last_no(session, attempt.experiment_id) <= heard.amendment_no:
        return None
    return SweepOrders(attempt_id=attempt.id, slots=slots, amendments=amendments.of(session, attempt.experiment_id))


def _is_on_offer(api: Api, row: AttemptRow, known: set[str]) -> bool:
    if row.leased_at is None:
        return True
    is_lost = row.id not in known and row.started_at is None
    return is_lost and (api.now() - row.leased_at).total_seconds() >= REOFFER_AFTER_S


def _stop(row: AttemptRow, desired: Desired) -> StopCommand | None:
    """What the user wants goes before what the platform wants; None where both want it to run."""
    if desired is not Desired.RUN:
        mode, detail = _MODES[desired], f"the user asks to {desired}"
    elif row.stop_mode is not None:
        mode, detail = StopMode(row.stop_mode), row.stop_reason or ""
    else:
        return None
    return StopCommand(attempt_id=row.id, mode=mode, grace_s=STOP_GRACE_S[mode], detail=detail)


@router.post(
    "/attempts/{attempt_id}/lease",
    operation_id="leaseAttempt",
    summary="Take an offered attempt",
    response_model=LaunchDocument,
    responses=problems(404, 409, 413, 415, 422),
    openapi_extra=takes(LeaseRequest),
)
def lease(
    api: ApiParts, cluster: CallingCluster, attempt_id: Annotated[str, Path(max_length=80)], body: ReportBody
) -> Response:
    """Everything that a runner needs, with a fresh token: the one before stops working."""
    request = read_report(LeaseRequest, body)
    now, token = api.now(), new_attempt_token(attempt_id)
    try:
        document = _lease(api, cluster, attempt_id, request, token, now)
    except CannotBeOffered as refusal:
        with api.store.write() as session:  # in a transaction of its own: the one before was taken back
            attempts.write_if_open(session, attempt_id, observed_detail=str(refusal)[:2000])
        raise
    failpoint("api.leased")
    return answer(document)


def _lease(api: Api, cluster: str, attempt_id: str, request: LeaseRequest, token: str, now: datetime) -> LaunchDocument:
    with api.store.write() as session:
        # The same fence as a sync's: no agent can attach between this line and the commit.
        clusters.sync(session, cluster, agent_epoch=request.agent_epoch, ray_session="", nodes=(), now=now)
        attempt = attempts.lease(session, attempt_id, cluster=cluster, token=token, now=now)
        row = experiments.get(session, attempt.experiment_id)
        is_first = attempt.lease_epoch == 1
        if row.current_attempt_no != attempt.attempt_no or (is_first and row.desired != Desired.RUN):
            raise StaleAttempt(f"attempt {attempt_id} is no longer wanted: {row.state}, {row.desired}")
        return _launch_document(api, session, row, attempt, token)


def _excluded(session: Session, cluster: str) -> tuple[str, ...]:
    """Living nodes only: a cluster may have lost many that were excluded once."""
    living = {node["node_id"] for node in clusters.get(session, cluster).nodes if node["is_alive"]}
    return tuple(one.node_id for one in exclusions.on(session, cluster) if one.node_id in living)


def _admit_again(api: Api, session: Session, spec: ExperimentSpec) -> Admitted | Rejected:
    return admit(
        spec,
        manifests=api.manifests,
        has_bundle=lambda sha256: bundles.find(session, sha256) is not None,
        find_bundled=lambda sha256, workload: bundled_manifest(api, sha256, workload),
    )


def _launch_document(api: Api, session: Session, row: ExperimentRow, attempt: AttemptRow, token: str) -> LaunchDocument:
    try:
        spec = experiments.spec_of(row)
    except ValidationError as error:
        raise CannotBeOffered(f"this release cannot read the spec of experiment {row.id}: {error}") from error
    try:
        admitted = _admit_again(api, session, spec)
    except BadSpec as error:  # a manifest in its bundle, which older releases did not look for
        raise CannotBeOffered(f"experiment {row.id} could not be admitted now: {error}") from error
    if not isinstance(admitted, Admitted):
        raise CannotBeOffered(f"experiment {row.id} could not be admitted now: {admitted.detail}")
    spent_s = attempts.spent_s(session, row.id, without=attempt.id)
    return LaunchDocument(
        attempt_id=attempt.id,
        experiment_id=row.id,
        attempt_no=attempt.attempt_no,
        lease_epoch=attempt.lease_epoch,
        runner_name=attempt.runner_name,
        attempt_token=token,
        spec=spec.chosen(attempt.alternative),
        spec_hash=row.spec_hash,
        workload_module=admitted.workload_module,
        task=admitted.task,
        params=dict(admitted.params),
        code_sha256=spec.code.removeprefix("sha256:") if spec.code else None,
        storage_path=attempt.storage_path,
        resume=_resume(session, row, spec, now=api.now()),
        runtime_left_s=max(0.0, spec.policy.max_runtime_s - spent_s),
        excluded_nodes=_excluded(session, attempt.cluster),
        keeps_answers=spec.register_as is not None,
        sweep=_sweep_launch(session, row, spec, attempt, spent_s),
    )


def _sweep_launch(
    session: Session, row: ExperimentRow, spec: ExperimentSpec, attempt: AttemptRow, spent_s: float
) -> SweepLaunch | None:
    if spec.search is None:
        return None
    return SweepLaunch(
        slots=max(1, attempts.slots(attempt)),
        amendments=amendments.of(session, row.id),
        num_trials=trials.count(session, row.id),
        spent_s=spent_s,
    )


def _resume(session: Session, row: ExperimentRow, spec: ExperimentSpec, *, now: datetime) -> tuple[CheckpointRef, ...]:
    """Its own checkpoints, the newest first; behind them that of the trial which it goes on from."""
    own = _refs(session, row.id)
    if spec.start_from is None:
        return own
    trial = None
    if experiments.project_of(session, spec.start_from.experiment) == row.project:
        trial = trials.find(session, spec.start_from.experiment, spec.start_from.trial)
    if trial is None or trial.checkpoint is None:
        _note_start_is_gone(session, row, spec.start_from, now=now)
        return own
    return (*own, CheckpointRef.model_validate(trial.checkpoint))


def _note_start_is_gone(session: Session, row: ExperimentRow, start: TrialRef, *, now: datetime) -> None:
    """Others of its sweep were better by then, and only the best keep theirs: the same parameters train again. Once."""
    if events.of_kind(session, row.id, START_IS_GONE):
        return
    reason = f"trial {start.trial} of {start.experiment} has no checkpoint any more: it is trained from the beginning"
    experiments.note(session, row.id, kind=START_IS_GONE, actor="api", now=now, reason=reason)
