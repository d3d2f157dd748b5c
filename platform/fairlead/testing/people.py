"""Members, roles and tokens, written straight into a store: who is needed before a test can begin."""

from datetime import datetime

from fairlead.rights import Role
from fairlead.store import Store, members, projects, tokens


def a_member(store: Store, name: str, roles: dict[str, Role], *, now: datetime) -> None:
    """Give ``name`` its roles by project; projects are made."""
    with store.write() as session:
        for project, role in roles.items():
            if project != "*":
                projects.ensure(session, project, now=now)
            members.put(session, project=project, member=name, role=role, by="test", now=now)


def a_token(
    store: Store,
    name: str,
    *,
    now: datetime,
    project: str | None = None,
    role: Role = Role.ADMIN,
    expires_at: datetime | None = None,
    revoked_at: datetime | None = None,
) -> dict[str, str]:
    """The header of a new token that speaks for ``name``."""
    token_id, token = tokens.new_token()
    with store.write() as session:
        tokens.insert(
            session,
            id=token_id,
            sha256=tokens.hash_token(token),
            kind=tokens.USER,
            name=name,
            project=project,
            role=role,
            created_at=now,
            expires_at=expires_at,
            revoked_at=revoked_at,
        )
    return {"Authorization": f"Bearer {token}"}


def id_of(headers: dict[str, str]) -> str:
    """The id of a token, from its header."""
    return headers["Authorization"].split("_")[1]
