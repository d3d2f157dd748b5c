"""The least role that each route for users asks for, in one table. What is not in it is for admins of everything.

A rule says whose role counts: its *reach*. ``SOMEWHERE`` lets a caller in who has the role in any project; such a route
asks about the one project itself (``access.require``), or shows only what lies in the caller's projects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fairlead.rights import Role


class Reach(StrEnum):
    """Where a role must be held."""

    ANYWHERE = "anyone with a token"
    SOMEWHERE = "in a project that the request is about"
    PROJECT = "in the project of the address"
    EXPERIMENT = "in the experiment's project"
    WEBHOOK = "in the webhook's project, or in all where it hears of all"
    EVERYWHERE = "in all projects"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What a route asks for, and what it writes."""

    role: Role
    reach: Reach
    writes: tuple[str, ...] = ()
    """A kind of ``store.audit`` and the parts of the address that are its key: the audit looks before and after."""
    notes: bool = False
    """It tells the audit itself, since what it makes has no address before."""

    def __str__(self) -> str:
        return str(self.reach) if self.reach is Reach.ANYWHERE else f"{self.role} {self.reach}"


def _rule(role: Role, reach: Reach, *writes: str, notes: bool = False) -> Rule:
    return Rule(role=role, reach=reach, writes=writes, notes=notes)


_OF_EXPERIMENT = ("experiment", "experiment_id")
_OF_CLUSTER = ("cluster", "name")
_OF_NODE = ("node", "name", "node_id")
_OF_WEBHOOK = ("webhook", "webhook_id")
NOBODYS = _rule(Role.ADMIN, Reach.EVERYWHERE)
"""Of a route that is not in the table."""
RULES: Mapping[str, Rule] = {
    "GET /v1/whoami": _rule(Role.VIEWER, Reach.ANYWHERE),
    "GET /v1/version": _rule(Role.VIEWER, Reach.ANYWHERE),
    "GET /v1/workloads": _rule(Role.VIEWER, Reach.ANYWHERE),
    "GET /v1/workloads/{name}": _rule(Role.VIEWER, Reach.ANYWHERE),
    "GET /metrics": _rule(Role.VIEWER, Reach.EVERYWHERE),
    # experiments
    "POST /v1/plan": _rule(Role.VIEWER, Reach.SOMEWHERE),
    "POST /v1/experiments": _rule(Role.EDITOR, Reach.SOMEWHERE, notes=True),
    "POST /v1/evaluations": _rule(Role.EDITOR, Reach.SOMEWHERE, notes=True),
    "GET /v1/experiments": _rule(Role.VIEWER, Reach.ANYWHERE),
    "PUT /v1/experiments/{experiment_id}": _rule(Role.EDITOR, Reach.SOMEWHERE, *_OF_EXPERIMENT),
    "GET /v1/experiments/{experiment_id}": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/why": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/attempts": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/events": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/logs": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/metrics": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/report": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/gates": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "POST /v1/experiments/{experiment_id}/gates/{gate_id}/override": _rule(
        Role.ADMIN, Reach.EXPERIMENT, *_OF_EXPERIMENT
    ),
    "GET /v1/experiments/{experiment_id}/checkpoints": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "POST /v1/experiments/{experiment_id}/cancel": _rule(Role.EDITOR, Reach.EXPERIMENT, *_OF_EXPERIMENT),
    "POST /v1/experiments/{experiment_id}/pause": _rule(Role.EDITOR, Reach.EXPERIMENT, *_OF_EXPERIMENT),
    "POST /v1/experiments/{experiment_id}/resume": _rule(Role.EDITOR, Reach.EXPERIMENT, *_OF_EXPERIMENT),
    "POST /v1/experiments/{experiment_id}/release": _rule(Role.EDITOR, Reach.EXPERIMENT, *_OF_EXPERIMENT),
    # sweeps
    "GET /v1/experiments/{experiment_id}/trials": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/trials/{trial_no}": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "GET /v1/experiments/{experiment_id}/amendments": _rule(Role.VIEWER, Reach.EXPERIMENT),
    "POST /v1/experiments/{experiment_id}/amendments": _rule(Role.EDITOR, Reach.EXPERIMENT, notes=True),
    "POST /v1/experiments/{experiment_id}/finish": _rule(Role.EDITOR, Reach.EXPERIMENT, notes=True),
    "POST /v1/experiments/{experiment_id}/promote": _rule(Role.EDITOR, Reach.EXPERIMENT, notes=True),
    "POST /v1/experiments/{experiment_id}/extend": _rule(Role.EDITOR, Reach.EXPERIMENT, notes=True),
    # Whoever vouches for a death answers for a machine that other projects use too.
    "POST /v1/experiments/{experiment_id}/attempts/{attempt_no}/declare-lost": _rule(
        Role.ADMIN, Reach.EVERYWHERE, "attempt", "experiment_id", "attempt_no"
    ),
    "POST /v1/links": _rule(Role.VIEWER, Reach.SOMEWHERE, notes=True),
    # models: those of the caller's projects; what belongs to none is for those who see all
    "GET /v1/models": _rule(Role.VIEWER, Reach.ANYWHERE),
    "GET /v1/models/flags": _rule(Role.VIEWER, Reach.ANYWHERE),
    # code
    "POST /v1/code-bundles": _rule(Role.EDITOR, Reach.SOMEWHERE, notes=True),
    "GET /v1/code-bundles/{sha256}": _rule(Role.VIEWER, Reach.SOMEWHERE),
    "HEAD /v1/code-bundles/{sha256}": _rule(Role.VIEWER, Reach.SOMEWHERE),
    # clusters: everybody's experiments wait for them, so everybody sees them
    "GET /v1/clusters": _rule(Role.VIEWER, Reach.ANYWHERE),
    "GET /v1/clusters/{name}": _rule(Role.VIEWER, Reach.ANYWHERE),
    "PATCH /v1/clusters/{name}": _rule(Role.ADMIN, Reach.EVERYWHERE, *_OF_CLUSTER),
    "POST /v1/clusters/{name}/drain": _rule(Role.ADMIN, Reach.EVERYWHERE, *_OF_CLUSTER),
    "POST /v1/clusters/{name}/activate": _rule(Role.ADMIN, Reach.EVERYWHERE, *_OF_CLUSTER),
    "POST /v1/clusters/{name}/retire": _rule(Role.ADMIN, Reach.EVERYWHERE, *_OF_CLUSTER),
    "GET /v1/clusters/{name}/nodes": _rule(Role.VIEWER, Reach.ANYWHERE),
    "POST /v1/clusters/{name}/nodes/{node_id}/exclude": _rule(Role.ADMIN, Reach.EVERYWHERE, *_OF_NODE),
    "POST /v1/clusters/{name}/nodes/{node_id}/readmit": _rule(Role.ADMIN, Reach.EVERYWHERE, *_OF_NODE),
    # the queue; a project's own admin must not raise what it may hold
    "GET /v1/queue": _rule(Role.VIEWER, Reach.ANYWHERE),
    "GET /v1/projects/{name}/queue": _rule(Role.VIEWER, Reach.PROJECT),
    "GET /v1/projects/{name}/quota": _rule(Role.VIEWER, Reach.PROJECT),
    "PATCH /v1/projects/{name}/quota": _rule(Role.ADMIN, Reach.EVERYWHERE, "project", "name"),
    # webhooks: whoever sees a project sees where its events go; where they go is for its admin to say
    "GET /v1/webhooks": _rule(Role.VIEWER, Reach.ANYWHERE),
    "POST /v1/webhooks": _rule(Role.ADMIN, Reach.SOMEWHERE, notes=True),
    "GET /v1/webhooks/{webhook_id}": _rule(Role.VIEWER, Reach.WEBHOOK),
    "PATCH /v1/webhooks/{webhook_id}": _rule(Role.ADMIN, Reach.WEBHOOK, *_OF_WEBHOOK),
    "DELETE /v1/webhooks/{webhook_id}": _rule(Role.ADMIN, Reach.WEBHOOK, *_OF_WEBHOOK),
    "POST /v1/webhooks/{webhook_id}/rotate": _rule(Role.ADMIN, Reach.WEBHOOK, *_OF_WEBHOOK),
    "POST /v1/webhooks/{webhook_id}/test": _rule(Role.ADMIN, Reach.WEBHOOK, notes=True),
    "GET /v1/webhooks/{webhook_id}/deliveries": _rule(Role.VIEWER, Reach.WEBHOOK),
    "POST /v1/webhooks/{webhook_id}/replay": _rule(Role.ADMIN, Reach.WEBHOOK, notes=True),
    # people
    "GET /v1/projects": _rule(Role.VIEWER, Reach.ANYWHERE),
    "GET /v1/projects/{name}": _rule(Role.VIEWER, Reach.PROJECT),
    "PUT /v1/projects/{name}": _rule(Role.ADMIN, Reach.EVERYWHERE, "project", "name"),
    "GET /v1/projects/{name}/members": _rule(Role.VIEWER, Reach.PROJECT),
    "PUT /v1/projects/{name}/members/{member}": _rule(Role.ADMIN, Reach.PROJECT, "membership", "name", "member"),
    "DELETE /v1/projects/{name}/members/{member}": _rule(Role.ADMIN, Reach.PROJECT, "membership", "name", "member"),
    # A token reaches no further than the one that makes, shows or revokes it: the routes ask that themselves.
    "GET /v1/tokens": _rule(Role.VIEWER, Reach.ANYWHERE),
    "POST /v1/tokens": _rule(Role.VIEWER, Reach.SOMEWHERE, notes=True),
    "GET /v1/tokens/{token_id}": _rule(Role.VIEWER, Reach.ANYWHERE),
    "DELETE /v1/tokens/{token_id}": _rule(Role.VIEWER, Reach.ANYWHERE, "token", "token_id"),
    "GET /v1/audit": _rule(Role.ADMIN, Reach.SOMEWHERE),
}


def rule_for(method: str, path: str) -> Rule:
    """The rule of a route by its method and path pattern."""
    return RULES.get(f"{method} {path}", NOBODYS)
