"""The audit: one row for every write by a user, in the transaction of that write. Rows never change.

A row holds digests of what users may write of its target, before and after; what moves by itself, such as the state of
an experiment, has its own log of events.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fairlead.store.attempts import attempt_id
from fairlead.store.tables import (
    AmendmentRow,
    AttemptRow,
    AuditRow,
    BundleProjectRow,
    ClusterRow,
    ExclusionRow,
    ExperimentRow,
    MembershipRow,
    ProjectRow,
    Table,
    TokenRow,
    WebhookEndpointRow,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """Who writes, from where, and by which request."""

    actor: str
    token_id: str = ""
    address: str = ""
    request_id: str = ""
    action: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is written: ``experiment`` and its id, ``membership`` and its project and member."""

    kind: str
    key: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join((self.kind, *self.key))[:200]


@dataclass(frozen=True, kw_only=True, slots=True)
class Witnessed:
    """A target as it stands: its digest, and the project that it belongs to. Both None: it is not there."""

    sha256: str | None = None
    project: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    row: type[Table]
    columns: tuple[str, ...]
    """What users may write of it."""
    key: Callable[[tuple[str, ...]], Any] = lambda key: key[0]
    project: Callable[[Session, tuple[str, ...]], str | None] | None = None
    """Finds its project; absent: what its column ``project`` says, if it has one."""


def _project_of_experiment(session: Session, key: tuple[str, ...]) -> str | None:
    return session.scalar(select(ExperimentRow.project).where(ExperimentRow.id == key[0]))


KINDS: Mapping[str, _Kind] = {
    "experiment": _Kind(
        row=ExperimentRow,
        columns=("project", "name", "spec_hash", "desired", "priority", "labels", "released_at", "gates"),
    ),
    "amendment": _Kind(
        row=AmendmentRow,
        columns=("kind", "payload"),
        key=lambda key: (key[0], int(key[1])),
        project=_project_of_experiment,
    ),
    "attempt": _Kind(
        row=AttemptRow,
        columns=("experiment_id", "attempt_no", "declared_lost_by"),
        key=lambda key: attempt_id(key[0], int(float(key[1]))),  # as an address may spell a number: 1, 01, 1.0
        project=_project_of_experiment,
    ),
    "cluster": _Kind(row=ClusterRow, columns=("state", "labels")),
    "node": _Kind(row=ExclusionRow, columns=("reason", "created_at", "created_by", "readmitted_at"), key=tuple),
    "project": _Kind(
        row=ProjectRow,
        columns=("name", "weight", "quota_workers", "quota_cpus", "quota_gpus", "quota_experiments"),
        project=lambda _, key: key[0],
    ),
    "membership": _Kind(row=MembershipRow, columns=("role",), key=tuple),
    "token": _Kind(row=TokenRow, columns=("kind", "name", "label", "project", "role", "expires_at", "revoked_at")),
    "webhook": _Kind(row=WebhookEndpointRow, columns=("url", "project", "kinds", "description", "state", "secret_no")),
    "bundle": _Kind(row=BundleProjectRow, columns=("sha256", "project"), key=tuple),
}


def look(session: Session, target: Target) -> Witnessed:
    """The target as this transaction sees it now."""
    kind = KINDS[target.kind]
    table = [column.key for column in kind.row.__table__.columns]
    names = [name for name in table if name in (*kind.columns, "project")]
    given = kind.key(target.key)
    values = given if isinstance(given, tuple) else (given,)
    keys = kind.row.__mapper__.primary_key
    session.flush()
    query = select(*(getattr(kind.row, name) for name in names))
    found = session.execute(query.where(*(key == value for key, value in zip(keys, values, strict=True)))).first()
    if found is None:
        return Witnessed()
    content = dict(zip(names, found, strict=True))
    project = kind.project(session, target.key) if kind.project else content.get("project")
    return Witnessed(sha256=digest({name: content[name] for name in kind.columns}), project=project)


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a document in one spelling."""
    text = json.dumps(content, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def insert(
    session: Session, author: Author, target: Target, *, before: Witnessed, after: Witnessed, now: datetime
) -> None:
    """Add a row."""
    session.add(
        AuditRow(
            at=now,
            actor=author.actor,
            token_id=author.token_id,
            address=author.address[:64],
            request_id=author.request_id,
            action=author.action,
            target=str(target),
            project=after.project or before.project,
            before_sha256=before.sha256,
            after_sha256=after.sha256,
        )
    )
    session.flush()


def page(
    session: Session,
    *,
    limit: int,
    before: int | None = None,
    after: int | None = None,
    projects: tuple[str, ...] | None = None,
    actors: tuple[str, ...] = (),
    actions: tuple[str, ...] = (),
) -> list[AuditRow]:
    """Newest first below the id ``before``; with ``after`` oldest first above it. ``projects``: None is all."""
    query = select(AuditRow)
    if projects is not None:
        query = query.where(AuditRow.project.in_(projects))
    if actors:
        query = query.where(AuditRow.actor.in_(actors))
    if actions:
        query = query.where(AuditRow.action.in_(actions))
    if after is not None:
        return list(session.scalars(query.where(AuditRow.id > after).order_by(AuditRow.id).limit(limit)))
    if before is not None:
        query = query.where(AuditRow.id < before)
    return list(session.scalars(query.order_by(AuditRow.id.desc()).limit(limit)))
