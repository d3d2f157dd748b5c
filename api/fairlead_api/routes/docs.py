"""The page that explains the API, with everything it needs served from here: it works without the internet."""

import json
from collections.abc import Callable, Iterator
from html import escape
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import HTMLResponse, Response

from fairlead import errors
from fairlead.errors import FairleadError, NotFound
from fairlead_api import problems
from fairlead_api.problems import status_of

router = APIRouter(include_in_schema=False)
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Fairlead API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css"><link rel="icon" href="/docs/favicon-32x32.png"></head>
<body><div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body></html>
"""
_START = """"use strict";
SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true,
  displayRequestDuration: true, defaultModelsExpandDepth: 0, validatorUrl: null});
"""
_CODES = {
    "not_found": "Nothing has that name, or there is no such address.",
    "method_not_allowed": "The address has no such method; `Allow` names those it has.",
    "unknown_host": "The `Host` header names a server that this one does not go by: see FAIRLEAD_ALLOWED_HOSTS.",
    "foreign_origin": "A page of another site asked; the API is for programs, not for other sites' pages.",
    "internal_error": "Our mistake. The server's log has the details under `request_id`.",
}


@router.get("/docs")
def docs() -> Response:
    """Swagger UI."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})


@router.get("/openapi.json")
def openapi(request: Request) -> Response:
    """The description that programs read."""
    make: Callable[[], object] = request.app.openapi
    return Response(json.dumps(make()), media_type="application/json")


@router.get("/docs/problems")
def problem_codes() -> Response:
    """What each ``code`` of a problem means: the page that ``type`` points at."""
    rows = "".join(
        f'<dt id="{escape(code)}"><code>{escape(code)}</code> ({status})</dt><dd>{escape(text)}</dd>'
        for code, status, text in sorted(_explained())
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Problems</title><h1>Problems</h1><dl>{rows}</dl>'
    )
    return HTMLResponse(page)


def _explained() -> Iterator[tuple[str, str, str]]:
    known = {kind for module in (errors, problems) for kind in vars(module).values() if _is_error(kind)}
    for kind in known - {FairleadError}:
        if kind.code not in _CODES:
            yield kind.code, str(status_of(kind)), (kind.__doc__ or "").partition("\n\n")[0].replace("``", "")
    for code, text in _CODES.items():
        statuses = {"unknown_host": "421", "foreign_origin": "403", "internal_error": "500", "not_found": "404"}
        yield code, statuses.get(code, "405"), text.replace("`", "")


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, FairleadError)


@router.get("/docs/{asset}")
def asset(asset: Annotated[str, Path(max_length=60)]) -> Response:
    """Swagger UI's own files, from the installed package."""
    headers = {"Cache-Control": "public, max-age=3600"}
    if asset == "start.js":
        return Response(_START, headers=headers, media_type="text/javascript")
    if asset not in _ASSETS:
        raise NotFound(f"there is no {asset!r} here")
    content = files("fastapi_swagger.resources").joinpath(asset).read_bytes()
    return Response(content, headers=headers, media_type=_ASSETS[asset])
