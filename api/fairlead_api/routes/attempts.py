"""For the runner of one attempt, through its agent, with the attempt's token: each works for its own attempt only.

Once the attempt has an outcome, or another one is current, every write answers 409 ``stale_attempt``: drop it.
"""

from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from fairlead.errors import BadInput, NotFound, Problem, StaleAttempt
from fairlead.failpoints import failpoint
from fairlead.protocol import (
    MAX_TRIALS_A_PAGE,
    Batch,
    BatchAnswer,
    CheckpointCommit,
    MetricPoint,
    ResultClaim,
    StartedReport,
    TrialRecord,
    TrialsAnswer,
    checkpoint_path,
)
from fairlead.store import Session, attempts, batches, checkpoints, events, experiments, trials
from fairlead.store.tables import AttemptRow
from fairlead_api.access import AttemptToken, attempt_named_by
from fairlead_api.bodies import ReportBody, read_report
from fairlead_api.openapi import problems, takes
from fairlead_api.parts import Api, ApiParts
from fairlead_api.routes.workloads import Sha256, bundle_answer
from fairlead_api.views import answer

router = APIRouter(prefix="/internal/v1", tags=["agents"])
MAX_KEYS = 1000
"""Metrics of which last values and series are kept here; MLflow gets all of them."""
SYSTEM_PREFIX = "system/"
MAX_DETAIL = 20_000
REFUSED_KIND = "records_refused"
MAX_STEP = 2**31 - 1
"""Of what is shown as the last step; series keep the numbers that were given."""
AttemptId = Annotated[str, Path(max_length=80)]
_ANSWERS = problems(409, 413, 415, 422)


def _actor(row: AttemptRow) -> str:
    return f"agent:{row.cluster}"


@router.post(
    "/attempts/{attempt_id}/started",
    operation_id="reportStarted",
    summary="A runner has begun",
    status_code=204,
    responses=_ANSWERS,
    openapi_extra=takes(StartedReport),
)
def started(api: ApiParts, token: AttemptToken, attempt_id: AttemptId, body: ReportBody) -> Response:
    """Repeating it changes nothing but where the runner is."""
    report = read_report(StartedReport, body)
    with api.store.write() as session:
        row = attempts.authenticate(session, attempt_id, token)
        began = row.started_at or api.now()
        columns = {"started_at": began, "ray_session": report.ray_session, "node_id": report.node_id}
        attempts.write_if_open(session, attempt_id, **columns)
    api.hint()
    return Response(status_code=204)


@router.post(
    "/attempts/{attempt_id}/batches",
    operation_id="shipBatch",
    summary="Consecutive metric points, notes or records of trials",
    response_model=BatchAnswer,
    responses=_ANSWERS,
    openapi_extra=takes(Batch),
)
def ship(api: ApiParts, token: AttemptToken, attempt_id: AttemptId, body: ReportBody) -> Response:
    """Taken in once and in order: 409 ``offset`` says in ``expected`` where the next one must start."""
    batch = read_report(Batch, body)
    with api.store.write() as session:
        row = attempts.authenticate(session, attempt_id, token)
        if batch.refused is not None:
            return answer(_refused(session, row, batch, batch.refused, now=api.now()))
        batches.advance(session, attempt_id, batch)
        batches.insert(session, row, batch, now=api.now())
        if batch.points:
            _keep_points(session, row, batch.points)
        if batch.trials:
            _keep_trials(session, row, batch.trials, now=api.now())
        for note in batch.notes:
            if note.kind == "checkpoint_rejected" and isinstance(path := note.payload.get("path"), str):
                checkpoints.reject(session, row.experiment_id, path)
            experiments.note(
                session,
                row.experiment_id,
                kind=note.kind,
                actor=_actor(row),
                now=api.now(),
                reason=note.detail[:MAX_DETAIL],
                attempt_no=row.attempt_no,
                payload={**note.payload, "at_ms": note.at_ms},
            )
    failpoint("api.took_batch")
    if batch.notes:
        api.hint()
    return answer(BatchAnswer(next_offset=batch.next_offset))


def _refused(session: Session, row: AttemptRow, batch: Batch, why: str, *, now: datetime) -> BatchAnswer:
    """The agent cannot hand the rest of a stream over: said once, where whoever misses the records will look."""
    expected = batches.next_offset(session, row.id, batch.stream)
    if batch.points or batch.notes or batch.trials:
        message = "a batch that says that records were refused brings none"
        raise BadInput(message, problems=(Problem(pointer="/refused", message=message),))
    told = events.of_kind(session, row.experiment_id, REFUSED_KIND)
    if not any(event.attempt_no == row.attempt_no and event.payload["stream"] == batch.stream for event in told):
        experiments.note(
            session,
            row.experiment_id,
            kind=REFUSED_KIND,
            actor=_actor(row),
            now=now,
            reason=f"{batch.stream} from record {expected} on were refused and are missing: {why[:MAX_DETAIL]}",
            attempt_no=row.attempt_no,
            payload={"stream": batch.stream, "first_offset": expected},
        )
    return BatchAnswer(next_offset=expected)


def _keep_points(session: Session, row: AttemptRow, points: tuple[MetricPoint, ...]) -> None:
    """Last values and the last step; the series are made later, of the batch itself."""
    last: dict[str, Any] = dict(experiments.get(session, row.experiment_id).metrics)
    for point in points:
        if point.key in last or len(last) < MAX_KEYS:
            last[point.key] = trials.number_in(point.value)
    steps = [point.step for point in points if not point.key.startswith(SYSTEM_PREFIX)]
    columns: dict[str, Any] = {"metrics": last} | ({"last_step": min(max(steps), MAX_STEP)} if steps else {})
    experiments.set_columns(session, row.experiment_id, **columns)
    if steps:
        attempts.write_if_open(session, row.id, last_step=columns["last_step"])


def _keep_trials(session: Session, row: AttemptRow, records: tuple[TrialRecord, ...], *, now: datetime) -> None:
    """Rows of trials and how the sweep stands; its last step is the number of trials that have ended."""
    experiment = experiments.get(session, row.experiment_id)
    spec = experiments.spec_of(experiment)
    if spec.search is None:
        message = f"experiment {experiment.id} is no sweep, and has no trials"
        raise BadInput(message, problems=(Problem(pointer="/trials", message=message),))
    for index, record in enumerate(records):
        _refuse_foreign_trial(row, record, f"/trials/{index}")
    trials.take(session, experiment, spec.search, attempt_no=row.attempt_no, records=records, now=now)
    attempts.write_if_open(session, row.id, last_step=experiment.last_step)


def _refuse_foreign_trial(row: AttemptRow, record: TrialRecord, pointer: str) -> None:
    """A trial's checkpoint lies below the place of its own attempt, like everything that an attempt makes visible."""
    if max(record.no, record.parent or 0) > trials.MAX_NO:
        message = f"the number of a trial is {trials.MAX_NO} at most"
        raise BadInput(message, problems=(Problem(pointer=f"{pointer}/no", message=message),))
    if record.checkpoint is None:
        return
    path, own = PurePosixPath(record.checkpoint.path), PurePosixPath(row.storage_path)
    if not path.is_relative_to(own) or ".." in path.parts:
        message = f"checkpoints of trials of this attempt lie below {own}"
        raise BadInput(message, problems=(Problem(pointer=f"{pointer}/checkpoint/path", message=message),))


@router.get(
    "/attempts/{attempt_id}/trials",
    operation_id="listAttemptTrials",
    summary="Trials that the attempt's sweep has by now",
    response_model=TrialsAnswer,
    responses=problems(409, 422),
)
def list_trials(
    api: ApiParts,
    token: AttemptToken,
    attempt_id: AttemptId,
    first_no: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_TRIALS_A_PAGE)] = MAX_TRIALS_A_PAGE,
) -> Response:
    """By number, from ``first_no`` on; ``next_no`` says where the next page begins."""
    with api.store.write() as session:  # the attempt's row is locked while its token is compared
        row = attempts.authenticate(session, attempt_id, token)
    with api.store.read() as session:
        found = trials.documents(session, row.experiment_id, first_no=first_no, limit=limit + 1)
    next_no = found[limit].no if len(found) > limit else None
    return answer(TrialsAnswer(trials=tuple(found[:limit]), next_no=next_no))


@router.post(
    "/attempts/{attempt_id}/checkpoints",
    operation_id="commitCheckpoint",
    summary="Make a complete checkpoint visible",
    status_code=204,
    responses=_ANSWERS,
    openapi_extra=takes(CheckpointCommit),
)
def commit(api: ApiParts, token: AttemptToken, attempt_id: AttemptId, body: ReportBody) -> Response:
    """The same step and digest again change nothing; another digest for the step is a conflict."""
    given = read_report(CheckpointCommit, body)
    now = api.now()
    with api.store.write() as session:
        row = attempts.authenticate(session, attempt_id, token)
        _refuse_foreign_path(row, given)
        is_new = checkpoints.commit(
            session,
            experiment_id=row.experiment_id,
            attempt_no=row.attempt_no,
            step=given.step,
            path=given.path,
            manifest_sha256=given.manifest_sha256,
            score=given.score,
            now=now,
        )
        if is_new:
            experiments.note(
                session,
                row.experiment_id,
                kind="checkpoint_committed",
                actor=_actor(row),
                now=now,
                reason=f"checkpoint of step {given.step}",
                attempt_no=row.attempt_no,
                payload={"step": given.step, "path": given.path},
            )
    if is_new:
        api.tell()  # what it makes superfluous is deleted in lots, when somebody looks anyway
    return Response(status_code=204)


def _refuse_foreign_path(row: AttemptRow, given: CheckpointCommit) -> None:
    """An attempt makes visible what lies at the place of that step below its own path, nothing else."""
    own = str(checkpoint_path(PurePosixPath(row.storage_path), given.step))
    if given.path != own:
        message = f"the checkpoint of step {given.step} of this attempt lies at {own}"
        raise BadInput(message, problems=(Problem(pointer="/path", message=message),))


@router.post(
    "/attempts/{attempt_id}/result",
    operation_id="claimResult",
    summary="How the attempt ended",
    status_code=204,
    responses=_ANSWERS,
    openapi_extra=takes(ResultClaim),
)
def claim(api: ApiParts, token: AttemptToken, attempt_id: AttemptId, body: ReportBody) -> Response:
    """Written once; the very same claim again changes nothing."""
    given = read_report(ResultClaim, body)
    with api.store.write() as session:
        try:
            row = attempts.authenticate(session, attempt_id, token)
        except StaleAttempt:
            if attempts.get(session, attempt_id).result_sha256 != given.result_sha256:
                raise
            return Response(status_code=204)
        _refuse_foreign_result(row, given)
        result = given.result
        attempts.end(
            session,
            attempt_id,
            outcome=result.outcome,
            reason=result.reason,
            now=api.now(),
            detail=result.detail[:MAX_DETAIL],
            result=result.model_dump(mode="json"),
            result_sha256=given.result_sha256,
        )
    failpoint("api.claimed")
    api.hint()
    return Response(status_code=204)


def _refuse_foreign_result(row: AttemptRow, given: ResultClaim) -> None:
    if (given.result.experiment_id, given.result.attempt_no) != (row.experiment_id, row.attempt_no):
        message = f"this result is not of attempt {row.attempt_no} of experiment {row.experiment_id}"
        raise BadInput(message, problems=(Problem(pointer="/result", message=message),))


@router.get(
    "/code-bundles/{sha256}",
    operation_id="getAttemptBundle",
    summary="The code, or the lock of the environment, that this attempt runs",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}, **problems(404, 409)},
)
def download(api: ApiParts, token: AttemptToken, sha256: Sha256) -> Response:
    """Only the bundles that the attempt's own spec names."""
    _refuse_other_bundle(api, token, sha256)
    return bundle_answer(api, sha256)


def _refuse_other_bundle(api: Api, token: str, sha256: str) -> None:
    with api.store.write() as session:  # the attempt's row is locked while its token is compared
        row = attempts.authenticate(session, attempt_named_by(token), token)
        spec = experiments.spec_of(experiments.get(session, row.experiment_id))
    lock = spec.environment.requirements if spec.environment else None
    if f"sha256:{sha256}" not in (spec.code, lock):
        raise NotFound("this attempt runs no such bundle")
