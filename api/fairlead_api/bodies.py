"""Reads request bodies: bounded in size and time, JSON only, nothing that a database could not keep."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel

from fairlead.errors import BadSpec, Problem
from fairlead.spec import EvaluationRequest, evaluation_request, from_mapping
from fairlead.spec.document import MAX_BYTES, MAX_DEPTH
from fairlead_api.problems import TooLarge, TooSlow, UnsupportedMediaType

MAX_REPORT_BYTES = 4 * 2**20
"""Of a document that an agent sends: a thousand points or a result with its traceback."""
DOCUMENT_TIMEOUT_S = 30.0
D = TypeVar("D", bound=BaseModel)


async def chunks(request: Request, *, max_bytes: int, timeout_s: float) -> AsyncIterator[bytes]:
    """The body, piece by piece. Raises ``TooLarge`` as soon as it is, ``TooSlow`` after ``timeout_s``."""
    refusal = TooLarge(f"the body is larger than the {max_bytes} bytes accepted here")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise refusal
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise refusal
                yield chunk
    except TimeoutError as error:
        raise TooSlow(f"the body did not arrive within {timeout_s:g} s") from error


async def _json_body(request: Request, max_bytes: int) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"send application/json, not {media_type or 'a body without Content-Type'}")
    pieces = [chunk async for chunk in chunks(request, max_bytes=max_bytes, timeout_s=DOCUMENT_TIMEOUT_S)]
    return b"".join(pieces)


async def _spec_body(request: Request) -> bytes:
    return await _json_body(request, MAX_BYTES)


async def _report_body(request: Request) -> bytes:
    return await _json_body(request, MAX_REPORT_BYTES)


SpecBody = Annotated[bytes, Depends(_spec_body)]
ReportBody = Annotated[bytes, Depends(_report_body)]


def read_document(model: type[D], body: bytes) -> D:
    """A user's document. Raises ``BadSpec`` with a pointer for what is wrong; NaN and control characters are."""
    content = _parse(body)
    _refuse_unstorable(content)
    return from_mapping(model, content)


def read_evaluation(body: bytes) -> EvaluationRequest:
    """A user's request for an evaluation. Raises ``BadSpec`` like ``read_document``."""
    content = _parse(body)
    _refuse_unstorable(content)
    return evaluation_request(content)


def read_report(model: type[D], body: bytes) -> D:
    """An agent's document. What a database could not keep is replaced: a workload's last words must not get stuck."""
    content = _replaced(_parse(body), 0)
    try:
        return model.model_validate(content)
    except ValueError as error:
        from_mapping(model, content)  # says it better, where the document is small enough
        raise BadSpec(f"the document cannot be used: {str(error)[:500]}") from error


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadSpec(f"this is not JSON: {str(error)[:200]}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_unstorable(content: Any) -> None:
    stack: list[tuple[str, Any]] = [("", content)]
    while stack:
        pointer, value = stack.pop()
        if isinstance(value, str) and _is_unstorable(value):
            message = "the text holds a NUL or half a surrogate pair"
            raise BadSpec(f"{pointer or '/'}: {message}", problems=(Problem(pointer=pointer, message=message),))
        if isinstance(value, float) and not math.isfinite(value):
            message = "the number is too large"
            raise BadSpec(f"{pointer or '/'}: {message}", problems=(Problem(pointer=pointer, message=message),))
        if isinstance(value, dict):
            stack.extend((pointer, key) for key in value)
            stack.extend((f"{pointer}/{key}", inner) for key, inner in value.items())
        elif isinstance(value, list):
            stack.extend((f"{pointer}/{index}", inner) for index, inner in enumerate(value))


def _is_unstorable(text: str) -> bool:
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)


def _replaced(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise BadSpec(f"the document is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        return "".join("\ufffd" if _is_unstorable(c) else c for c in value) if _is_unstorable(value) else value
    if isinstance(value, float) and not math.isfinite(value):
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {_replaced(key, depth): _replaced(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, depth + 1) for inner in value]
    return value
