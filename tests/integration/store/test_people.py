"""Members, tokens narrower than their member, code by project, and an audit that only grows."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Barrier, Thread

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError

from fairlead.errors import Conflict, NotFound
from fairlead.rights import EVERYWHERE, Role
from fairlead.store import Session, Store, audit, members, tokens
from fairlead.store.audit import Author, Target, Witnessed
from fairlead.store.tables import AuditRow
from fairlead.testing import FakeClock
from fairlead.testing.people import a_member, a_token, id_of

SET_UP = Author(actor="server", action="acceptToken")


def bearer(headers: dict[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


def test_a_token_has_the_roles_that_its_member_has_now_as_far_as_it_is_good_for_them(
    store: Store, clock: FakeClock
) -> None:
    a_member(store, "ada", {"red": Role.ADMIN, "blue": Role.VIEWER}, now=clock.now())
    wide = a_token(store, "ada", now=clock.now())
    narrow = a_token(store, "ada", now=clock.now(), project="red", role=Role.EDITOR)
    with store.read() as session:
        found = [tokens.authenticate(session, bearer(one), now=clock.now()).rights for one in (wide, narrow)]
    assert [dict(one.in_projects) for one in found] == [
        {"red": Role.ADMIN, "blue": Role.VIEWER},
        {"red": Role.EDITOR},
    ]
    with store.write() as session:
        members.remove(session, project="red", member="ada")
    with store.read() as session:
        assert tokens.authenticate(session, bearer(narrow), now=clock.now()).rights.projects() == ()


def test_whoever_comes_with_the_set_up_is_an_admin_of_everything_and_agents_are_no_members(
    store: Store, clock: FakeClock
) -> None:
    for kind, cluster in ((tokens.USER, None), (tokens.AGENT, "local")):
        token_id, token = tokens.new_token()
        with store.write() as session:
            tokens.ensure(
                session,
                token_id=token_id,
                sha256=tokens.hash_token(token),
                kind=kind,
                name="one",
                cluster=cluster,
                now=clock.now(),
            )
            caller = tokens.authenticate(session, token, now=clock.now())
        assert caller.rights.may_everywhere(Role.ADMIN) is (kind == tokens.USER)
        assert caller.rights.may_somewhere(Role.VIEWER) is (kind == tokens.USER)


def test_a_use_is_written_once_a_minute(store: Store, clock: FakeClock) -> None:
    token_id, first = id_of(a_token(store, "ada", now=clock.now())), clock.now()
    for later_s, expected in ((0, 0), (59, 0), (60, 60)):
        with store.write() as session:
            tokens.note_use(session, token_id, now=first + timedelta(seconds=later_s))
        with store.read() as session:
            assert tokens.get(session, token_id).last_used_at == first + timedelta(seconds=expected)


def test_two_admins_of_everything_who_remove_each_other_leave_one(store: Store, clock: FakeClock) -> None:
    for name in ("ada", "bob"):
        a_member(store, name, {EVERYWHERE: Role.ADMIN}, now=clock.now())
    start, refused = Barrier(2), []

    def remove(name: str) -> None:
        start.wait(timeout=30)
        try:
            with store.write() as session:
                members.remove(session, project=EVERYWHERE, member=name)
        except Conflict:
            refused.append(name)

    threads = [Thread(target=remove, args=(name,)) for name in ("ada", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    with store.read() as session:
        assert [row.member for row in members.of_project(session, EVERYWHERE)] == refused
    assert len(refused) == 1


def test_whoever_is_no_member_cannot_be_removed(store: Store) -> None:
    with store.write() as session, pytest.raises(NotFound):
        members.remove(session, project="red", member="nobody")


def test_the_audit_refuses_to_change_or_forget_a_row(store: Store, clock: FakeClock) -> None:
    target = Target(kind="token", key=(id_of(a_token(store, "ada", now=clock.now())),))
    with store.write() as session:
        after = audit.look(session, target)
        audit.insert(session, SET_UP, target, before=Witnessed(), after=after, now=clock.now())
    for statement in (update(AuditRow).values(actor="somebody else"), delete(AuditRow)):
        with pytest.raises(DBAPIError, match="the audit only grows"), store.engine.begin() as connection:
            connection.execute(statement)
    with store.read() as session:
        (row,) = audit.page(session, limit=10)
    assert (row.actor, row.target, row.before_sha256, row.after_sha256) == ("server", str(target), None, after.sha256)


def test_the_audit_tells_a_token_from_a_revoked_one_and_never_its_secret(store: Store, clock: FakeClock) -> None:
    token_id = id_of(a_token(store, "ada", now=clock.now(), project="red"))
    target, found = Target(kind="token", key=(token_id,)), []
    for _ in range(3):
        with store.write() as session:
            found.append(audit.look(session, target))
            tokens.revoke(session, token_id, now=clock.now())
    assert found[0].sha256 != found[1].sha256 == found[2].sha256
    assert {one.project for one in found} == {"red"}
    assert audit.KINDS["token"].columns == ("kind", "name", "label", "project", "role", "expires_at", "revoked_at")
    with store.read() as session:
        assert audit.look(session, Target(kind="token", key=("nonesuch",))) == Witnessed()


def test_a_witness_stands_inside_every_writing_transaction(store: Store, clock: FakeClock) -> None:
    seen = []

    @contextmanager
    def witness(_: Session) -> Iterator[None]:
        seen.append("before")
        yield
        seen.append("after")

    watched = store.witnessed(witness)
    a_member(watched, "ada", {"red": Role.VIEWER}, now=clock.now())
    with watched.read():
        pass
    assert seen == ["before", "after"]
    assert watched.refusals is store.refusals
