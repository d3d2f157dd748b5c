"""Writes the audit: looks at the target of a user's request before and after each of its writing transactions.

What a request makes has no address before: its route says ``note_made``. What changes nothing adds nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from fairlead.clock import Clock
from fairlead.store import Session, Witness, audit
from fairlead.store.audit import Author, Target, Witnessed


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request that may write: who makes it, and what it is about, if that is known before."""

    author: Author
    target: Target | None


_current: ContextVar[Request | None] = ContextVar("fairlead_request", default=None)
_KEY = "fairlead.author"


def begin(author: Author, target: Target | None) -> None:
    """From here to the end of this request, writes are this author's. Others have contexts of their own."""
    _current.set(Request(author=author, target=target))


def witness_of(clock: Clock) -> Witness:
    """What the API's store asks round each of its writing transactions."""

    @contextmanager
    def witness(session: Session) -> Iterator[None]:
        request = _current.get()
        if request is None:
            yield
            return
        session.info[_KEY] = request.author, clock
        if request.target is None:
            yield
            return
        before = audit.look(session, request.target)
        yield
        after = audit.look(session, request.target)
        if before != after:
            audit.insert(session, request.author, request.target, before=before, after=after, now=clock.now())

    return witness


def note_made(session: Session, kind: str, *key: str, project: str | None, sha256: str | None = None) -> None:
    """Tell the audit what this transaction makes. ``sha256``: of it, where the database holds no row to look at."""
    if _KEY not in session.info:
        return  # no user's request: a test, or the server itself
    author, clock = session.info[_KEY]
    target = Target(kind=kind, key=key)
    after = Witnessed(sha256=sha256, project=project) if sha256 else audit.look(session, target)
    audit.insert(session, author, target, before=Witnessed(), after=after, now=clock.now())
