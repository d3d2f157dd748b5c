"""Which tokens a server accepts from its first start: those of a file, or one made now and shown once.

The file is JSON, ``{"tokens": [{"id", "sha256", "kind", "name", "cluster"}, ...]}``: hashes only. ``kind`` is ``user``
or ``agent``; an agent's token names its cluster, and whoever has a user's token of the file is an admin of everything.
Tokens whose id is known stay as they are.
"""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from fairlead.clock import Clock
from fairlead.errors import BadInput
from fairlead.spec import Document
from fairlead.store import Session, Store, audit, tokens
from fairlead.store.audit import Author, Target, Witnessed

FIRST_NAME = "admin"


class TokenEntry(Document):
    """One token to accept, by its hash."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,32}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    kind: Literal["user", "agent"]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    cluster: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _agents_have_a_cluster(self) -> Self:
        if (self.kind == "agent") != (self.cluster is not None):
            raise ValueError("an agent's token names its cluster, a user's token names none")
        return self


class TokenFile(Document):
    """The whole file."""

    tokens: tuple[TokenEntry, ...]


def accept_tokens(store: Store, path: Path, *, clock: Clock) -> None:
    """Store the hashes of the file. Raises ``BadInput`` where it cannot be read."""
    try:
        content = TokenFile.model_validate(json.loads(path.read_text()))
    except ValidationError as error:
        raise BadInput(f"the tokens file {path} cannot be used: {_without_values(error)}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"the tokens file {path} cannot be used: {error}") from error
    with store.write() as session:
        for entry in content.tokens:
            _accept(session, entry, now=clock.now())


def _without_values(error: ValidationError) -> str:
    """What is wrong and where. Whoever has put a token where its hash belongs must not find it in a log."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in found)


def _accept(session: Session, entry: TokenEntry, *, now: datetime) -> None:
    if tokens.ensure(
        session,
        token_id=entry.id,
        sha256=entry.sha256,
        kind=entry.kind,
        name=entry.name,
        cluster=entry.cluster,
        now=now,
    ):
        target = Target(kind="token", key=(entry.id,))
        author = Author(actor="server", action="acceptToken")
        audit.insert(session, author, target, before=Witnessed(), after=audit.look(session, target), now=now)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def ensure_first_token(store: Store, *, clock: Clock, say: Callable[[str], None] = _to_stderr) -> None:
    """Where no token exists at all, make a user token and show it this once."""
    token_id, token = tokens.new_token()
    with store.write() as session:
        if tokens.exists(session):
            return
        entry = TokenEntry(id=token_id, sha256=tokens.hash_token(token), kind="user", name=FIRST_NAME)
        _accept(session, entry, now=clock.now())
    say(f"first start: this token is shown once, keep it\n{token}")
