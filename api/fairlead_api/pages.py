"""Cursors: opaque, signed, and good for the list they were made for."""

import base64
import binascii
import hmac
import json
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlencode

from fairlead.errors import BadInput, Problem
from fairlead_api.parts import Api

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
_SIGNATURE_BYTES = 16


def encode_token(api: Api, purpose: str, content: object) -> str:
    """``content`` as text that only this server can have made."""
    text = json.dumps(content, separators=(",", ":"))
    signature = api.sign(purpose, text)[:_SIGNATURE_BYTES]
    return base64.urlsafe_b64encode(signature + text.encode()).decode().rstrip("=")


def decode_token(api: Api, purpose: str, token: str) -> object | None:
    """What was encoded, or None where the signature does not hold."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        signature, text = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:].decode()
    except (binascii.Error, ValueError):
        return None
    if not hmac.compare_digest(signature, api.sign(purpose, text)[:_SIGNATURE_BYTES]):
        return None
    content: object = json.loads(text)
    return content


def cursor_after(api: Api, created_at: datetime, experiment_id: str) -> str:
    """The cursor behind an experiment in the order of time."""
    return encode_token(api, "cursor", [created_at.isoformat(), experiment_id])


def read_cursor(api: Api, cursor: str | None) -> tuple[datetime, str] | None:
    """Where a page begins. Raises ``BadInput`` for a cursor that was not made here."""
    if cursor is None:
        return None
    content = decode_token(api, "cursor", cursor)
    if not isinstance(content, list):
        raise bad_cursor()
    return datetime.fromisoformat(content[0]), str(content[1])


def bad_cursor() -> BadInput:
    """What to raise for a cursor that was not made here."""
    problem = Problem(pointer="/query/cursor", message="this cursor was not made by this server")
    return BadInput("the cursor cannot be used; begin again without one", problems=(problem,))


def address(path: str, query: Sequence[tuple[str, str]]) -> str:
    """A path with its query."""
    return f"{path}?{urlencode(query)}" if query else path
