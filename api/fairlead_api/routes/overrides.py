"""A person lets a model pass a gate that it has not passed: signed, with a reason, and never hidden."""

from datetime import datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path
from starlette.responses import Response

from fairlead.control.evaluate import registration_of
from fairlead.errors import BadInput, Conflict, NotFound, Problem
from fairlead.evaluation.signing import signed
from fairlead.lifecycle import State
from fairlead.protocol import ResultDocument
from fairlead.representation import GateOverride, GateView
from fairlead.rights import Role
from fairlead.secret_key import report_seed
from fairlead.store import Session, attempts, experiments
from fairlead.store.tables import ExperimentRow
from fairlead.store.tokens import Principal
from fairlead_api.access import Caller
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.openapi import problems, takes
from fairlead_api.parts import Api, ApiParts
from fairlead_api.views import answer

router = APIRouter(prefix="/v1/experiments/{experiment_id}", tags=["progress"])
ExperimentId = Annotated[str, Path(max_length=64)]
GateId = Annotated[str, Path(max_length=64)]
KIND = "gate_overridden"
EXAMPLE = {"reason": "the gap is that of the applicants themselves, see the audit of May", "expires_at": None}
logger = structlog.get_logger(__name__)


@router.post(
    "/gates/{gate_id}/override",
    operation_id="overrideGate",
    summary="Let the model pass a gate that it has not passed",
    response_model=GateView,
    responses=problems(404, 409, 413, 415, 422),
    openapi_extra=takes(GateOverride, EXAMPLE),
)
def override(api: ApiParts, caller: Caller, experiment_id: ExperimentId, gate_id: GateId, body: SpecBody) -> Response:
    """The outcome shown stays what it is. Once no gate is left that withholds the model, it is registered.

    The record (who, in which role, why, of which report) is signed, is an event, and lies beside the report in MLflow.
    A second call by the same person with the same reason changes nothing.
    """
    given = read_document(GateOverride, body)
    now = api.now()
    if given.expires_at is not None and given.expires_at <= now:
        told = Problem(
            pointer="/expires_at", message="that is in the past", suggestion="leave it out, or name a later day"
        )
        raise BadInput("expires_at is in the past", problems=(told,))
    with api.store.write() as session:
        row = experiments.lock(session, experiment_id)
        gates = [dict(gate) for gate in row.gates or ()]
        gate = _gate_of(row, gates, gate_id)
        known = gate.get("override")
        if known is None:
            gate["override"] = _record(api, caller, row, gate, given, now)
            _write(session, row, gates, gate["override"], caller, now)
            logger.warning("a gate is overridden", experiment_id=row.id, gate=gate_id, actor=caller.name)
        elif (known["by"], known["reason"]) != (caller.name, given.reason):
            raise Conflict(f"gate {gate_id} is overridden already, by {known['by']}: {known['reason']}")
    api.hint()
    return answer(GateView.model_validate(gate))


def _gate_of(row: ExperimentRow, gates: list[dict[str, Any]], gate_id: str) -> dict[str, Any]:
    if State(row.state) is not State.SUCCEEDED:
        raise Conflict(f"experiment {row.id} is {row.state}: its gates are not decided")
    gate = next((one for one in gates if one["id"] == gate_id), None)
    if gate is None:
        there = ", ".join(one["id"] for one in gates) or "none"
        raise NotFound(f"experiment {row.id} has no gate {gate_id!r}; there are {there}")
    if gate["outcome"] == "pass":
        raise Conflict(f"gate {gate_id} has passed: there is nothing to override")
    return gate


def _record(
    api: Api, caller: Principal, row: ExperimentRow, gate: dict[str, Any], given: GateOverride, now: datetime
) -> dict[str, Any]:
    record = {
        "experiment": row.id,
        "gate": gate["id"],
        "outcome": gate["outcome"],
        "report_sha256": row.report_sha256,
        "by": caller.name,
        "role": str(Role.ADMIN),
        "reason": given.reason,
        "at": now.isoformat(),
        "expires_at": None if given.expires_at is None else given.expires_at.isoformat(),
    }
    return signed(record, report_seed(api.secret))


def _write(
    session: Session,
    row: ExperimentRow,
    gates: list[dict[str, Any]],
    record: dict[str, Any],
    caller: Principal,
    now: datetime,
) -> None:
    attempt = attempts.get(session, attempts.attempt_id(row.id, row.current_attempt_no))
    result = ResultDocument.model_validate(attempt.result)
    columns: dict[str, Any] = {"gates": gates}
    if not (row.registration or {}).get("is_registered"):
        columns["registration"] = registration_of(experiments.spec_of(row), result, gates)
    experiments.note(
        session,
        row.id,
        kind=KIND,
        actor=caller.name,
        now=now,
        reason=f"gate {record['gate']} ({record['outcome']}) is overridden: {record['reason']}",
        attempt_no=attempt.attempt_no,
        payload=record,
        columns=columns,
    )
