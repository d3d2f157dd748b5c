"""Takes runs that have ended, many in one call and one transaction: 0.5 ms each, where MLflow's calls cost 20.

MLflow's interface makes a run in three calls, each of which goes over its run several times. A sweep of ten thousand
trials would keep a processor busy for minutes. So the server that Fairlead starts answers one more route, which writes
the same rows through MLflow's own tables and session. A test compares both ways row by row.

Whoever sends a run gives it its id, which is all that repeating takes: a run whose id is there is left as it is, since
it was written whole or not at all.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from mlflow.entities import LifecycleStage, Metric, Param, RunTag, SourceType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.uri import append_to_uri_path
from mlflow.utils.validation import _validate_batch_log_data
from pydantic import ValidationError

from fairlead.tracking.documents import RUNS_PATH, WholeRun, WholeRuns

MAX_BYTES = 32 * 2**20
_NAME_TAG = "mlflow.runName"
Rows = list[dict[str, Any]]
Answer = Callable[[Any, Any, Any], Awaitable[None]]


def add_route(application: Any, store: Callable[[], Any]) -> None:
    """Let MLflow's application take whole runs. ``store``: MLflow's, asked for with each call.

    The route comes before MLflow's own, which answer every path, and inside its checks of hosts and origins.
    """

    async def take(request: Any) -> Answer:
        if not (size := request.headers.get("content-length", "")).isdigit() or int(size) > MAX_BYTES:
            return _answer(413, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"more than {MAX_BYTES:,} bytes"})
        status, content = await asyncio.to_thread(_taken, store(), await request.body())
        return _answer(status, content)

    application.add_route(RUNS_PATH, take, methods=["POST"])
    routes = application.router.routes
    routes.insert(0, routes.pop())


def _taken(store: Any, body: bytes) -> tuple[int, dict[str, str]]:
    """Status and content of the answer."""
    if not isinstance(store, SqlAlchemyStore):
        return 501, {"error_code": "NOT_IMPLEMENTED", "message": "this server keeps its runs in no database"}
    try:
        write(store, WholeRuns.model_validate_json(body))
    except ValidationError as error:
        return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)[:1000]}
    except MlflowException as error:
        return error.get_http_status_code(), json.loads(error.serialize_as_json())
    return 200, {}


def write(store: SqlAlchemyStore, document: WholeRuns) -> None:
    """Write those of the runs that are not there yet, all or none. Raises ``MlflowException``, as MLflow's calls do."""
    experiment = store.get_experiment(document.mlflow_experiment_id)
    store._check_experiment_is_active(experiment)  # MLflow has no public one
    for run in document.runs:
        _check(run)
    with store.ManagedSessionMaker(read_only=False) as session:
        ids = [run.run_id for run in document.runs]
        known = {run_id for (run_id,) in session.query(SqlRun.run_uuid).filter(SqlRun.run_uuid.in_(ids))}
        fresh = [run for run in document.runs if run.run_id not in known]
        rows: dict[Any, Rows] = {
            SqlRun: [_run_row(run, store, experiment) for run in fresh],
            SqlTag: [row for run in fresh for row in _texts(run, {_NAME_TAG: run.name, **run.tags})],
            SqlParam: [row for run in fresh for row in _texts(run, run.params)],
        }
        rows[SqlMetric], rows[SqlLatestMetric] = _metric_rows(store, fresh)
        for table, of_table in rows.items():
            if of_table:
                session.execute(table.__table__.insert(), of_table)


def _check(run: WholeRun) -> None:
    """Raise where MLflow's own calls would."""
    _validate_batch_log_data(
        [Metric(point.key, point.value, point.at_ms, point.step) for point in run.points],
        [Param(key, value) for key, value in run.params.items()],
        [RunTag(key, value) for key, value in run.tags.items()],
    )


def _run_row(run: WholeRun, store: SqlAlchemyStore, experiment: Any) -> dict[str, Any]:
    """As ``SqlAlchemyStore.create_run`` and ``update_run_info`` leave it."""
    return {
        "run_uuid": run.run_id,
        "name": run.name,
        "artifact_uri": append_to_uri_path(experiment.artifact_location, run.run_id, store.ARTIFACTS_FOLDER_NAME),
        "experiment_id": int(experiment.experiment_id),
        "source_type": SourceType.to_string(SourceType.UNKNOWN),
        "source_name": "",
        "entry_point_name": "",
        "user_id": run.user,
        "status": run.status,
        "start_time": run.started_at_ms,
        "end_time": run.ended_at_ms,
        "deleted_time": None,
        "source_version": "",
        "lifecycle_stage": LifecycleStage.ACTIVE,
    }


def _texts(run: WholeRun, content: dict[str, str]) -> Rows:
    return [{"run_uuid": run.run_id, "key": key, "value": value} for key, value in content.items()]


def _metric_rows(store: SqlAlchemyStore, runs: Iterable[WholeRun]) -> tuple[Rows, Rows]:
    """All points, each once, and the last of each metric: of the highest step, then time, then value."""
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        for point in run.points:
            is_nan, value = store.sanitize_metric_value(point.value)
            row = {
                "run_uuid": run.run_id,
                "key": point.key,
                "value": value,
                "timestamp": point.at_ms,
                "step": point.step,
                "is_nan": is_nan,
            }
            points[tuple(row.values())] = row
            if (run.run_id, point.key) not in last or _age(row) > _age(last[run.run_id, point.key]):
                last[run.run_id, point.key] = row
    return list(points.values()), list(last.values())


def _age(row: dict[str, Any]) -> tuple[int, int, float]:
    return row["step"], row["timestamp"], row["value"]


def _answer(status: int, content: dict[str, str]) -> Answer:
    """JSON, as an ASGI application."""
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def answer(
        _scope: MutableMapping[str, Any], _receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer
