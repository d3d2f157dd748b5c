"""Questions about members: who has which role in which project. ``rights.EVERYWHERE`` stands for all projects."""

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from fairlead.errors import Conflict, NotFound
from fairlead.rights import EVERYWHERE, Role
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import MembershipRow


def of_project(session: Session, project: str) -> list[MembershipRow]:
    """The members of one project, by name."""
    query = select(MembershipRow).where(MembershipRow.project == project)
    return list(session.scalars(query.order_by(MembershipRow.member)))


def get(session: Session, project: str, member: str) -> MembershipRow:
    """One membership, as it is in the database now. Raises ``NotFound``."""
    row = session.get(MembershipRow, (project, member), populate_existing=True)
    if row is None:
        raise NotFound(f"{member!r} is no member of project {project!r}")
    return row


def ensure(session: Session, *, project: str, member: str, role: Role, by: str, now: datetime) -> bool:
    """Make somebody a member who is none yet; returns whether they were not."""
    return insert_if_absent(
        session, MembershipRow, project=project, member=member, role=role, created_by=by, created_at=now
    )


def put(session: Session, *, project: str, member: str, role: Role, by: str, now: datetime) -> bool:
    """Give a member a role; returns whether they are new. Raises ``Conflict`` for the last admin of everything."""
    if ensure(session, project=project, member=member, role=role, by=by, now=now):
        return True
    if role is not Role.ADMIN:
        _keep_an_admin(session, project, member)
    session.execute(
        update(MembershipRow)
        .where(MembershipRow.project == project, MembershipRow.member == member)
        .values(role=role)
        .execution_options(synchronize_session=False)
    )
    return False


def remove(session: Session, *, project: str, member: str) -> None:
    """Take a role away. Raises ``NotFound``, and ``Conflict`` for the last admin of everything."""
    _keep_an_admin(session, project, member)
    gone = delete(MembershipRow).where(MembershipRow.project == project, MembershipRow.member == member)
    if session.execute(gone.returning(MembershipRow.member)).first() is None:
        raise NotFound(f"{member!r} is no member of project {project!r}")


def _keep_an_admin(session: Session, project: str, member: str) -> None:
    """Nobody could undo it. Two admins that remove each other at once take turns on the locked rows."""
    if project != EVERYWHERE:
        return
    admins = select(MembershipRow.member).where(MembershipRow.project == EVERYWHERE, MembershipRow.role == Role.ADMIN)
    if set(session.scalars(admins.order_by(MembershipRow.member).with_for_update())) == {member}:
        raise Conflict(f"{member!r} is the last admin of everything: give that role to somebody else first")
