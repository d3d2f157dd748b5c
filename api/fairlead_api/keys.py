"""``Idempotency-Key``: what a request that makes something must carry, so that it can be repeated."""

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header

from fairlead_api.problems import BadRequest

ANSWERS_KEPT = timedelta(hours=24)
"""How long the first answer under a key is remembered."""


async def _required_key(
    idempotency_key: Annotated[
        str | None, Header(max_length=255, description="Any text of your own; the same when you repeat.")
    ] = None,
) -> str:
    key = (idempotency_key or "").strip().strip('"')
    if not key:
        raise BadRequest("Idempotency-Key is missing: send any text of your own, the same when you repeat the request")
    return key


RequiredKey = Annotated[str, Depends(_required_key)]
"""The header without spaces and quotes. Raises ``BadRequest`` where it is missing."""
