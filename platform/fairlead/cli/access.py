"""The commands about who may do what: tokens, projects, members, the audit."""

from datetime import UTC, datetime
from itertools import islice

from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.experiments import connect
from fairlead.cli.output import ago, err, out, print_json, print_json_line, table
from fairlead.representation import AuditView, MembershipView, TokenRequest, TokenView
from fairlead.rights import EVERYWHERE, Role
from fairlead.spec import from_mapping


def whoami(where: Where) -> None:
    """Print whose token it is and what it may do."""
    with connect(where) as client:
        view = client.whoami()
    if where.as_json:
        print_json(view)
        return
    roles = {**({"all projects": view.everywhere} if view.everywhere else {}), **view.projects}
    said = ", ".join(f"{role} of {escape(project)}" for project, role in roles.items()) or "no role in any project"
    end = f", until {view.expires_at:%Y-%m-%d %H:%M} UTC" if view.expires_at else ""
    out().print(f"[bold]{escape(view.name)}[/]: {said} [dim](token {view.token_id}{end})[/]")


# ---- tokens ---------------------------------------------------------------------------------------------------------


def create_token(where: Where, content: dict[str, object]) -> None:
    """Make a token, and print it: the token alone on standard output."""
    request = from_mapping(TokenRequest, {key: value for key, value in content.items() if value is not None})
    with connect(where) as client:
        made = client.access.create_token(request)
    if where.as_json:
        print_json(made)
        return
    err().print(f"Token {made.id} for {escape(made.name)}: {_reach(made)}. It is shown this once:")
    out().print(made.token, soft_wrap=True)


def list_tokens(where: Where) -> None:
    """Print a table of tokens."""
    with connect(where) as client:
        found = list(client.access.tokens())
    if where.as_json:
        print_json(found)
        return
    now = datetime.now(UTC)
    rows = table("id", "for", "label", "reach", "state", "last used")
    for view in found:
        used = "never" if view.last_used_at is None else f"{ago((now - view.last_used_at).total_seconds())} ago"
        rows.add_row(view.id, escape(view.name), escape(view.label), escape(_reach(view)), _state(view, now), used)
    out().print(rows)


def revoke_token(where: Where, token_id: str) -> None:
    """Take a token back."""
    with connect(where) as client:
        client.access.revoke_token(token_id)
    if where.as_json:
        print_json({"id": token_id, "is_revoked": True})
    else:
        out().print(f"{escape(token_id)}: revoked")


def _reach(view: TokenView) -> str:
    if view.kind != "user":
        return f"agent of cluster {view.cluster}"
    return f"{view.role} at most, in {view.project or 'all projects of theirs'}"


def _state(view: TokenView, now: datetime) -> str:
    if view.revoked_at is not None:
        return "revoked"
    if view.expires_at is None:
        return "valid"
    left_s = (view.expires_at - now).total_seconds()
    return f"valid for {ago(left_s)}" if left_s > 0 else "expired"


# ---- projects -------------------------------------------------------------------------------------------------------


def list_projects(where: Where) -> None:
    """Print the projects that the caller may see."""
    with connect(where) as client:
        found = client.access.projects()
    if where.as_json:
        print_json(found)
        return
    rows = table("project", "your role")
    for view in found:
        rows.add_row(escape(view.name), view.role)
    out().print(rows)


def create_project(where: Where, name: str) -> None:
    """Create a project."""
    with connect(where) as client:
        view = client.access.create_project(name)
    if where.as_json:
        print_json(view)
    else:
        out().print(
            f"project {escape(view.name)} is there; 'fairlead projects members {escape(name)}' says who may use it"
        )


def members(where: Where, project: str | None, *, changes: dict[str, Role | None]) -> None:
    """Change roles, if that is asked for (None: take it away), and print who has which."""
    name = project or EVERYWHERE
    with connect(where) as client:
        for member, role in changes.items():
            if role is None:
                client.access.remove_member(name, member)
            else:
                client.access.set_member(name, member, role)
        found = client.access.members(name)
    if where.as_json:
        print_json(found)
    else:
        _print_members(found)


def _print_members(found: tuple[MembershipView, ...]) -> None:
    rows = table("member", "role", "since", "by")
    for view in found:
        rows.add_row(escape(view.member), view.role, f"{view.created_at:%Y-%m-%d}", escape(view.created_by))
    out().print(rows)


# ---- the audit ------------------------------------------------------------------------------------------------------


def audit(where: Where, *, project: str | None, actor: str | None, limit: int) -> None:
    """Print the newest writes; as JSON one line each."""
    with connect(where) as client:
        found = list(islice(client.access.audit(project=project, actor=actor, limit=min(limit, 500)), limit))
    if where.as_json:
        for view in found:
            print_json_line(view)
    else:
        _print_audit(found)


def _print_audit(found: list[AuditView]) -> None:
    rows = table("when", "who", "from", "did", "to", "request")
    for view in found:
        when = f"{view.at:%Y-%m-%d %H:%M:%S}"
        who, target = escape(view.actor), escape(view.target)
        rows.add_row(when, who, escape(view.address), view.action, target, escape(view.request_id))
    out().print(rows)
