"""Who may do what, from Python: tokens, projects, members and the audit, as ``client.access``."""

import uuid
from collections.abc import Iterator

from fairlead.client.experiment import pages
from fairlead.client.transport import Transport
from fairlead.protocol import from_answer
from fairlead.representation import (
    AuditView,
    MembershipRequest,
    MembershipView,
    NewTokenView,
    ProjectView,
    TokenRequest,
    TokenView,
)
from fairlead.rights import Role


class Access:
    """What a token may not touch raises ``NotFound``, just as what is not there."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create_token(self, request: TokenRequest | None = None, *, key: str | None = None) -> NewTokenView:
        """Make a token; its secret is in this answer and nowhere else.

        ``request``: whom it speaks for, and how far it reaches; absent: for oneself, as far as this one.
        ``key``: an idempotency key: a second token is never made under it, ``Conflict`` names the first.
        """
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        document = (request or TokenRequest()).model_dump(mode="json", exclude_none=True)
        answer = self._transport.request("POST", "/v1/tokens", headers=headers, document=document)
        return from_answer(NewTokenView, answer.content)

    def tokens(self) -> Iterator[TokenView]:
        """One's own tokens and those of projects that one is an admin of, newest first, without their secrets."""
        return pages(self._transport, TokenView, "/v1/tokens", {})

    def token(self, token_id: str) -> TokenView:
        """One token. Raises ``NotFound``."""
        return from_answer(TokenView, self._transport.request("GET", f"/v1/tokens/{token_id}").content)

    def revoke_token(self, token_id: str) -> None:
        """It works no more. A second time changes nothing. Raises ``NotFound``."""
        self._transport.request("DELETE", f"/v1/tokens/{token_id}")

    def projects(self) -> tuple[ProjectView, ...]:
        """The projects that one may see, and one's role in each."""
        return tuple(pages(self._transport, ProjectView, "/v1/projects", {}))

    def create_project(self, name: str) -> ProjectView:
        """Create a project, or find it there."""
        return from_answer(ProjectView, self._transport.request("PUT", f"/v1/projects/{name}").content)

    def members(self, project: str) -> tuple[MembershipView, ...]:
        """Who has which role in a project; ``*``: in all of them."""
        return tuple(pages(self._transport, MembershipView, f"/v1/projects/{project}/members", {}))

    def set_member(self, project: str, member: str, role: Role | str) -> MembershipView:
        """Give somebody a role in a project. Raises ``Conflict`` for the last admin of everything."""
        document = MembershipRequest(role=Role(role)).model_dump(mode="json")
        path = f"/v1/projects/{project}/members/{member}"
        return from_answer(MembershipView, self._transport.request("PUT", path, document=document).content)

    def remove_member(self, project: str, member: str) -> None:
        """Take somebody's role away. Raises ``NotFound``, and ``Conflict`` for the last admin of everything.

        A call that is repeated after its answer was lost may find nobody there.
        """
        self._transport.request("DELETE", f"/v1/projects/{project}/members/{member}")

    def audit(self, *, project: str | None = None, actor: str | None = None, limit: int = 50) -> Iterator[AuditView]:
        """Every write by a user, newest first, page after page as they are asked for. ``limit``: of one page."""
        params = {"limit": str(limit)}
        params |= {name: f"eq:{value}" for name, value in (("project", project), ("actor", actor)) if value}
        return pages(self._transport, AuditView, "/v1/audit", params)
