"""Requests that make something: the same key and body give the first answer again, whatever has happened since."""

import hashlib
from collections.abc import Callable

from starlette.responses import Response

from fairlead.errors import Conflict
from fairlead.store import Session, idempotency
from fairlead.store.idempotency import StoredAnswer
from fairlead.store.tokens import Principal
from fairlead_api.keys import ANSWERS_KEPT
from fairlead_api.parts import Api


def once(
    api: Api, caller: Principal, key: str, body: bytes, *, route: str, act: Callable[[Session], StoredAnswer]
) -> Response:
    """What ``act`` answers, which it makes true in the transaction it is given; or the answer of the first time."""
    scope = {"principal": caller.token_id, "route": route, "key": key}
    digest = hashlib.sha256(body).hexdigest()

    def try_it() -> StoredAnswer:
        with api.store.write() as session:
            if (known := idempotency.find(session, **scope, body_sha256=digest)) is not None:
                return known
            stored = act(session)
            idempotency.insert(session, **scope, body_sha256=digest, answer=stored, expires_at=api.now() + ANSWERS_KEPT)
            return stored

    stored = unless_raced(try_it)
    api.hint()
    return Response(stored.body, stored.status, stored.headers, "application/json")


def unless_raced(act: Callable[[], StoredAnswer]) -> StoredAnswer:
    """Once more where another request inserted the same row first: now its row can be seen."""
    try:
        return act()
    except Conflict as error:
        if type(error) is not Conflict:
            raise
        return act()
