from hypothesis import given
from hypothesis import strategies as st

from fairlead.rights import EVERYWHERE, Rights, Role, rights_of

ROLES = st.dictionaries(st.sampled_from(["red", "blue", EVERYWHERE]), st.sampled_from(Role))
PROJECTS = ("red", "blue", "other")


def test_a_role_holds_all_that_the_ones_before_it_do() -> None:
    assert [[one.covers(other) for other in Role] for one in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_nobody_may_do_anything_unless_it_was_said() -> None:
    nobody = Rights()
    assert not any(
        nobody.may(role, "red") or nobody.may_everywhere(role) or nobody.may_somewhere(role) for role in Role
    )
    assert nobody.projects() == ()


def test_the_higher_of_two_roles_counts() -> None:
    rights = rights_of({EVERYWHERE: Role.VIEWER, "red": Role.ADMIN})
    assert (rights.role_in("red"), rights.role_in("blue")) == (Role.ADMIN, Role.VIEWER)
    assert (rights.projects(), rights.projects(Role.EDITOR)) == (None, ("red",))


def test_what_belongs_to_no_project_asks_for_a_role_in_all() -> None:
    assert Rights(everywhere=Role.VIEWER).may(Role.VIEWER, None)
    assert not Rights(in_projects={"red": Role.ADMIN}).may(Role.VIEWER, None)


@given(roles=ROLES, ceiling=st.sampled_from(Role), bound=st.sampled_from([None, *PROJECTS]))
def test_a_token_never_reaches_further_than_its_member(
    roles: dict[str, Role], ceiling: Role, bound: str | None
) -> None:
    full, narrow = rights_of(roles), rights_of(roles, project=bound, ceiling=ceiling)
    for project in PROJECTS:
        for role in Role:
            if narrow.may(role, project):
                assert full.may(role, project)
                assert ceiling.covers(role)
                assert bound in (None, project)
            elif full.may(role, project) and bound in (None, project):
                assert not ceiling.covers(role)
    if bound is not None:
        assert narrow.everywhere is None


@given(roles=ROLES, role=st.sampled_from(Role))
def test_projects_are_those_where_the_role_is_held(roles: dict[str, Role], role: Role) -> None:
    rights = rights_of(roles)
    named = rights.projects(role)
    for project in PROJECTS:
        assert rights.may(role, project) is (named is None or project in named)
