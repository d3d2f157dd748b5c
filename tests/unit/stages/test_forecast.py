"""When each might start: the queue played forward."""

from fairlead.forecast import LOOKED_AT, forecast
from fairlead.placement import OVERHEAD_S
from fairlead.queueing import Account
from fairlead.store.projects import Held, Quota
from fairlead.testing.scheduling import a_candidate, a_cluster, running


def test_each_starts_when_those_before_it_are_over() -> None:
    cluster = running(running(a_cluster(), 1, key="x", ends_in_s=1000), 1, key="y", ends_in_s=9000)
    first, second, third = (a_candidate(key, bound_s=2000) for key in ("a", "b", "c"))
    found = forecast([first, second, third], [cluster], {})
    assert [found[key].in_s for key in ("a", "b", "c")] == [1000, 3000 + OVERHEAD_S, 5000 + 2 * OVERHEAD_S]
    assert "max_runtime_s" in found["a"].basis


def test_history_is_counted_on_where_there_is_some_and_the_basis_says_so() -> None:
    cluster = running(a_cluster(nodes=((1, 0),)), 1, ends_in_s=80_000, expected_s=300)
    found = forecast([a_candidate("a", expected_s=60), a_candidate("b")], [cluster], {})
    assert (found["a"].in_s, found["b"].in_s) == (300, 360)
    assert found["b"].basis == "those ahead run as long as their like did before"


def test_one_that_is_stopped_is_over_soon() -> None:
    cluster = running(a_cluster(nodes=((1, 0),)), 1, ends_in_s=9000, is_stopping=True)
    assert forecast([a_candidate("a")], [cluster], {})["a"].in_s == 60


def test_quota_comes_back_with_the_end_of_what_holds_it() -> None:
    cluster = running(a_cluster(nodes=((8, 0),)), 1, ends_in_s=700, project="p")
    account = Account(quota=Quota(experiments=1), held=Held(workers=1, cpus=1, experiments=1))
    found = forecast([a_candidate("a", project="p"), a_candidate("b", project="q")], [cluster], {"p": account})
    assert (found["a"].in_s, found["b"].in_s) == (700, 0)
    assert found["b"].basis == "there is room now"


def test_ends_close_to_each_other_are_told_as_the_last_of_them() -> None:
    """Rather a little late than too early."""
    cluster = running(running(a_cluster(), 1, key="x", ends_in_s=1000), 1, key="y", ends_in_s=1050)
    assert forecast([a_candidate("a")], [cluster], {})["a"].in_s == 1050


def test_what_cannot_be_told_says_why() -> None:
    full = running(a_cluster(nodes=((1, 0),)), 1, ends_in_s=100)
    never, behind = a_candidate("never", workers=9), [a_candidate(f"e{i}") for i in range(LOOKED_AT)]
    found = forecast([never, *behind], [full], {})
    assert (found["never"].in_s, found["never"].basis) == (None, "never, as things are")
    assert behind[-1].id not in found, "too far back: it is not looked at"
    assert forecast([a_candidate("a")], [a_cluster(has_fresh_agent=False)], {})["a"].basis == "too far off to tell"
