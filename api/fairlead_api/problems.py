"""Every error leaves as RFC 9457 ``application/problem+json``; only this module knows status codes."""

import errno
import json
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fairlead.errors import (
    BadInput,
    Conflict,
    FairleadError,
    KeyReused,
    NotFound,
    Problem,
    StaleVersion,
    TooMany,
    Unauthorized,
    Unavailable,
    WrongOffset,
)

PROBLEM_TYPE = "application/problem+json"
PROBLEMS_PATH = "/docs/problems"
STATUS: Mapping[type[FairleadError], int] = {
    BadInput: 422,
    NotFound: 404,
    Unauthorized: 401,
    Conflict: 409,
    StaleVersion: 412,
    KeyReused: 422,
    TooMany: 429,
    Unavailable: 503,
}
RETRY_AFTER_S = {429: 10, 503: 2}
_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
}
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
_NO_THREAD = "can't start new thread"
logger = structlog.get_logger(__name__)


class BadRequest(FairleadError):
    """The request lacks something that has nothing to do with its document, such as a header."""

    code = "bad_request"


class TooLarge(FairleadError):
    """The body is larger than this address accepts."""

    code = "too_large"


class TooSlow(FairleadError):
    """The body did not arrive in time."""

    code = "too_slow"


class UnsupportedMediaType(FairleadError):
    """The body has a type that this address does not read."""

    code = "unsupported_media_type"


class PreconditionRequired(FairleadError):
    """The request must say which version it is about."""

    code = "precondition_required"


_OWN_STATUS: Mapping[type[FairleadError], int] = {
    BadRequest: 400,
    TooLarge: 413,
    TooSlow: 408,
    UnsupportedMediaType: 415,
    PreconditionRequired: 428,
}


def status_of(kind: type[FairleadError]) -> int:
    """The status of the nearest ancestor that has one."""
    known = {**STATUS, **_OWN_STATUS}
    return next((known[ancestor] for ancestor in kind.__mro__ if ancestor in known), 500)


def problem_response(
    request: Request,
    *,
    status: int,
    code: str,
    detail: str,
    problems: tuple[Problem, ...] = (),
    headers: Mapping[str, str] | None = None,
    **extra: Any,
) -> Response:
    """One problem as an answer."""
    content: dict[str, Any] = {
        "type": f"{request.app.state.api.settings.public_url.rstrip('/')}{PROBLEMS_PATH}#{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "code": code,
        "request_id": request.scope.get("fairlead.request_id", ""),
        **({"errors": [asdict(problem) for problem in problems]} if problems else {}),
        **extra,
    }
    return Response(json.dumps(content), status, dict(headers or {}), PROBLEM_TYPE)


def on_fairlead_error(request: Request, error: Exception) -> Response:
    """What we raise on purpose."""
    assert isinstance(error, FairleadError), "registered for it"
    status = status_of(type(error))
    headers = {"Retry-After": str(RETRY_AFTER_S[status])} if status in RETRY_AFTER_S else {}
    if isinstance(error, TooMany) and error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="fairlead"'
    if status >= 500:
        logger.warning("unavailable", path=request.url.path, reason=str(error))
    problems = error.problems if isinstance(error, BadInput) else ()
    extra = {"expected": error.expected} if isinstance(error, WrongOffset) else {}
    return problem_response(
        request, status=status, code=error.code, detail=str(error), problems=problems, headers=headers, **extra
    )


def on_http_error(request: Request, error: Exception) -> Response:
    """What the framework raises: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException), "registered for it"
    code = _CODES.get(error.status_code, "error")
    detail = f"{request.method} {request.url.path}: {error.detail}"
    return problem_response(
        request, status=error.status_code, code=code, detail=detail, headers=dict(error.headers or {})
    )


def on_bad_parameters(request: Request, error: Exception) -> Response:
    """Query parameters, headers and path parts that do not fit their type."""
    assert isinstance(error, RequestValidationError), "registered for it"
    problems = tuple(
        Problem(pointer="/" + "/".join(str(part) for part in detail["loc"]), message=str(detail["msg"]))
        for detail in error.errors()
    )
    summary = "; ".join(f"{problem.pointer}: {problem.message}" for problem in problems)
    return problem_response(request, status=422, code=BadInput.code, detail=summary, problems=problems)


def on_uncaught(request: Request, error: Exception) -> Response:
    """Our own mistake, logged with the request's id and told without a trace; or a machine that has nothing left."""
    if _is_exhausted(error):
        return on_fairlead_error(request, Unavailable(f"this server has nothing left for the request: {error}"))
    logger.error("uncaught", path=request.url.path, method=request.method, exc_info=error)
    detail = "something went wrong here; the server's log has the details under this request_id"
    return problem_response(request, status=500, code="internal_error", detail=detail)


def _is_exhausted(error: Exception) -> bool:
    """Out of threads, processes, descriptors or memory, for now."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error))
