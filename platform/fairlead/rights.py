"""Who may do what: a *role* in a project, or in all of them. Rows become rights here, and rights answer; no I/O.

A *member* is a person or a program by name; it has at most one role in each project. A *token* speaks for a member and
may be narrower than it: bound to one project, or to a lower role. It never reaches further.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

EVERYWHERE = "*"
"""Stands for all projects, and for what belongs to none of them: clusters, projects. No project is called so."""


class Role(StrEnum):
    """A role holds all that the ones before it do."""

    VIEWER = "viewer"
    """Sees."""
    EDITOR = "editor"
    """Submits, and says what is wanted of experiments."""
    ADMIN = "admin"
    """Says who else may, and reads the audit."""

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(Role).index(self)

    def covers(self, other: "Role") -> bool:
        """Whether it holds all that ``other`` does."""
        return self.rank >= other.rank


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    """What a token may do, as of one moment."""

    everywhere: Role | None = None
    in_projects: Mapping[str, Role] = field(default_factory=dict)

    def role_in(self, project: str | None) -> Role | None:
        """The highest role that counts there. None: for what belongs to no project."""
        here = None if project is None else self.in_projects.get(project)
        found = [role for role in (self.everywhere, here) if role is not None]
        return max(found, key=lambda role: role.rank, default=None)

    def may(self, role: Role, project: str | None) -> bool:
        """Whether ``role`` is held in ``project``; None: in all, since it belongs to none."""
        held = self.role_in(project)
        return held is not None and held.covers(role)

    def may_everywhere(self, role: Role) -> bool:
        """Whether ``role`` is held in all projects, those to come included."""
        return self.everywhere is not None and self.everywhere.covers(role)

    def may_somewhere(self, role: Role) -> bool:
        """Whether there is a project where ``role`` is held."""
        return self.may_everywhere(role) or any(held.covers(role) for held in self.in_projects.values())

    def projects(self, role: Role = Role.VIEWER) -> tuple[str, ...] | None:
        """Where ``role`` is held, by name; None: everywhere."""
        if self.may_everywhere(role):
            return None
        return tuple(sorted(name for name, held in self.in_projects.items() if held.covers(role)))


def rights_of(roles: Mapping[str, Role], *, project: str | None = None, ceiling: Role = Role.ADMIN) -> Rights:
    """What a token may do whose member has ``roles`` by project, ``EVERYWHERE`` among them.

    ``project``: the only one that the token is good for. ``ceiling``: the highest role that it is good for.
    """
    full = Rights(
        everywhere=roles.get(EVERYWHERE), in_projects={name: role for name, role in roles.items() if name != EVERYWHERE}
    )
    if project is not None:
        held = full.role_in(project)
        return Rights(in_projects={} if held is None else {project: _lower(held, ceiling)})
    return Rights(
        everywhere=None if full.everywhere is None else _lower(full.everywhere, ceiling),
        in_projects={name: _lower(role, ceiling) for name, role in full.in_projects.items()},
    )


def _lower(one: Role, other: Role) -> Role:
    return one if other.covers(one) else other
