"""From a problem+json answer to the error it stands for, and how an experiment's end is raised."""

from concurrent.futures import CancelledError
from typing import Any

import httpx

from fairlead.errors import (
    BadBundle,
    BadInput,
    BadSpec,
    Conflict,
    FairleadError,
    IllegalMove,
    KeyReused,
    NotFound,
    Problem,
    StaleVersion,
    TooMany,
    Unauthorized,
    Unavailable,
)

_INPUTS: dict[str, type[BadInput]] = {kind.code: kind for kind in (BadInput, BadSpec, BadBundle)}
_BY_CODE: dict[str, type[FairleadError]] = {
    kind.code: kind
    for kind in (NotFound, Unauthorized, Conflict, IllegalMove, KeyReused, StaleVersion, TooMany, Unavailable)
}
_BY_STATUS: dict[int, type[FairleadError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    412: StaleVersion,
    429: TooMany,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


class ExperimentFailed(FairleadError):
    """The experiment failed, or is held until a human looks; ``reason`` is the platform's word on it."""

    code = "experiment_failed"

    def __init__(self, message: str, *, experiment_id: str, reason: str) -> None:
        super().__init__(message)
        self.experiment_id = experiment_id
        self.reason = reason


class ExperimentCancelled(ExperimentFailed, CancelledError):
    """The experiment was cancelled before it had a result."""

    code = "experiment_cancelled"


def error_of(answer: httpx.Response) -> FairleadError:
    """The error that ``answer`` (status 400 and above, body read) stands for, with its request id as a note."""
    problem = _problem_json(answer)
    detail = problem.get("detail") or problem.get("title") or f"the server answered {answer.status_code}"
    error = _raised(str(problem.get("code", "")), answer.status_code, str(detail), _problems(problem))
    if request_id := problem.get("request_id"):
        error.add_note(f"request {request_id}")
    return error


def _raised(code: str, status: int, detail: str, problems: tuple[Problem, ...]) -> FairleadError:
    if code in _INPUTS or (code not in _BY_CODE and status in (400, 413, 415, 422)):
        return _INPUTS.get(code, BadInput)(detail, problems=problems)
    return (_BY_CODE.get(code) or _BY_STATUS.get(status) or FairleadError)(detail)


def _problem_json(answer: httpx.Response) -> dict[str, Any]:
    if "json" not in answer.headers.get("content-type", ""):
        return {}
    try:
        content = answer.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _problems(problem: dict[str, Any]) -> tuple[Problem, ...]:
    found = problem.get("errors")
    return tuple(
        Problem(
            pointer=str(entry.get("pointer", "")),
            message=str(entry.get("message", "")),
            suggestion=entry.get("suggestion"),
        )
        for entry in (found if isinstance(found, list) else [])
        if isinstance(entry, dict)
    )
