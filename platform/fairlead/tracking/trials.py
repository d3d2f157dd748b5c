"""Runs of trials, written below their sweep's run: all at once where the server is ours, else by MLflow's calls.

A server that Fairlead starts takes whole runs (``whole_runs``) under ids that follow from sweep, trial and parent run:
whatever is repeated finds its run there. Any other server chooses ids itself, and a run is made in three calls; so the
runs that an earlier try may have left are looked for first, by when they began, in one search for all.
"""

import time
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import RestException

from fairlead.protocol import MAX_BATCH_POINTS, MetricPoint
from fairlead.tracking.documents import PARENT_TAG, RUNS_PATH, TRIAL_TAG, TrialRun, WholeRun, WholeRuns
from fairlead.tracking.keys import MAX_PARAMS, as_params, as_tags, chunks, flattened

TIMEOUT_S = 20.0
"""Of a call with many runs."""
PATIENCE_S = 1.0
"""How long runs are made one by one before the rest is left for another turn."""
_NOT_OURS = frozenset({401, 403, 404, 405, 501})
"""What a server answers that has no such route, or a gate before it."""
_MISSING = "RESOURCE_DOES_NOT_EXIST"


def write(client: MlflowClient, url: str, parent_run_id: str, trials: Sequence[TrialRun]) -> list[str]:
    """Write the trials' runs; returns the ids of the first so many, at least of one. Raises like MLflow's client."""
    experiment = str(client.get_run(parent_run_id).info.experiment_id)
    runs = [_whole(parent_run_id, trial) for trial in trials]
    if _are_taken(url, WholeRuns(mlflow_experiment_id=experiment, runs=tuple(runs))):
        return [run.run_id for run in runs]
    return _made_one_by_one(client, experiment, runs)


def _whole(parent_run_id: str, trial: TrialRun) -> WholeRun:
    tags = {
        PARENT_TAG: parent_run_id,
        TRIAL_TAG: trial.key,
        "mlflow.user": trial.user,
        "mlflow.source.type": "JOB",
        **trial.tags,
    }
    return WholeRun(
        run_id=sha256(f"{parent_run_id}/{trial.key}".encode()).hexdigest()[:32],
        name=f"trial-{trial.no}",
        user=trial.user,
        status=trial.status,
        started_at_ms=trial.started_at_ms,
        ended_at_ms=trial.ended_at_ms,
        tags=as_tags(tags),
        params=as_params(flattened(trial.params)),
        points=trial.points,
    )


# ---- all at once ----------------------------------------------------------------------------------------------------


def _are_taken(url: str, document: WholeRuns) -> bool:
    """Whether the server has taken the runs; False where it has no such route. Asked anew with each call:
    servers are replaced."""
    headers = {"Content-Type": "application/json"}
    body = document.model_dump_json().encode()
    answer = requests.post(f"{url}{RUNS_PATH}", data=body, headers=headers, timeout=TIMEOUT_S, allow_redirects=False)
    if answer.ok:
        return _said(answer) is not None
    said = _said(answer) or {}
    if answer.status_code in _NOT_OURS and said.get("error_code") != _MISSING:
        return False
    if "error_code" in said:
        raise RestException(said)
    answer.raise_for_status()
    return False


def _said(answer: requests.Response) -> dict[str, Any] | None:
    try:
        said = answer.json()
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


# ---- one by one -----------------------------------------------------------------------------------------------------


def _made_one_by_one(client: MlflowClient, experiment: str, runs: Sequence[WholeRun]) -> list[str]:
    until_s = time.monotonic() + PATIENCE_S
    known = _children(client, experiment, runs)
    made: list[str] = []
    for run in runs:
        made.append(_completed(client, experiment, run, known.get(run.tags[TRIAL_TAG], [])))
        if time.monotonic() > until_s:
            break
    _delete_doubles(client, experiment, runs[: len(made)], made)
    return made


def _completed(client: MlflowClient, experiment: str, run: WholeRun, found: Sequence[Any]) -> str:
    """The id of the trial's run: of the one that an earlier try has left, completed, or of a new one."""
    first = min(found, key=lambda one: (one.info.status == "RUNNING", one.info.run_id), default=None)
    if first is None:
        first = client.create_run(experiment, start_time=run.started_at_ms, tags=run.tags, run_name=run.name)
    run_id = str(first.info.run_id)
    if first.info.status == run.status:
        return run_id  # its end is written last
    params = [Param(key, value) for key, value in run.params.items()]
    for part in chunks(params, MAX_PARAMS):
        client.log_batch(run_id, params=list(part), synchronous=True)
    for points in chunks(run.points, MAX_BATCH_POINTS):
        client.log_batch(run_id, metrics=_metrics(points), synchronous=True)
    client.set_terminated(run_id, run.status, run.ended_at_ms)
    return run_id


def _metrics(points: Iterable[MetricPoint]) -> list[Metric]:
    return [Metric(point.key, point.value, point.at_ms, point.step) for point in points]


def _delete_doubles(client: MlflowClient, experiment: str, runs: Sequence[WholeRun], made: Sequence[str]) -> None:
    """A request whose answer got lost was repeated by the client: its run is there twice."""
    for same in _children(client, experiment, runs).values():
        for one in same:
            if one.info.run_id not in made:
                client.delete_run(one.info.run_id)


def _children(client: MlflowClient, experiment: str, runs: Sequence[WholeRun]) -> dict[str, list[Any]]:
    """The runs there are of these trials, by trial."""
    wanted = {run.tags[TRIAL_TAG] for run in runs}
    starts = [run.started_at_ms for run in runs]
    asked = (
        f"tags.`{PARENT_TAG}` = '{runs[0].tags[PARENT_TAG]}'"
        f" AND attributes.start_time >= {min(starts)} AND attributes.start_time <= {max(starts)}"
    )
    found: dict[str, list[Any]] = {}
    token: str | None = None
    while True:
        page = client.search_runs([experiment], asked, max_results=1000, page_token=token)
        for one in page:
            if (key := one.data.tags.get(TRIAL_TAG)) in wanted:
                found.setdefault(key, []).append(one)
        if not (token := page.token):
            return found
