from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.errors import IllegalMove
from fairlead.lifecycle import (
    BLAME_AFTER,
    EXCLUDE_AFTER,
    EXCLUDE_WITHIN,
    MAX_RETRY_DELAY_S,
    MOVES,
    POISON_AFTER,
    REFUSALS_HELD_AFTER,
    SESSION_ENDED,
    Desired,
    EndedAttempt,
    EndedThere,
    Next,
    NodeDeath,
    Outcome,
    State,
    after_attempt,
    blame,
    blame_nodes,
    move,
    retry_delay_bound_s,
)
from fairlead.spec import RetriesSpec

FINAL = {State.SUCCEEDED, State.FAILED, State.CANCELLED}
UNHAPPY = [Outcome.USER_ERROR, Outcome.OOM, Outcome.STALLED, Outcome.INFRA_ERROR, Outcome.LOST]


def ended(outcome: Outcome, reason: str = "why", *, made_progress: bool = False) -> EndedAttempt:
    return EndedAttempt(outcome=outcome, reason=reason, made_progress=made_progress)


def follows(*attempts: EndedAttempt, desired: Desired = Desired.RUN, retries: RetriesSpec | None = None) -> Next:
    return after_attempt(attempts, desired=desired, retries=retries or RetriesSpec())


# ---- the table ----------------------------------------------------------------------------------------------------


def reachable(start: State) -> set[State]:
    found, edge = {start}, [start]
    while edge:
        new = MOVES[edge.pop()] - found
        found |= new
        edge += new
    return found


def test_every_state_stands_in_the_table_and_is_a_participle_of_its_own_name() -> None:
    assert set(MOVES) == set(State)
    assert all(state.value == state.name.lower() for state in State)


def test_final_states_are_the_three_without_a_move() -> None:
    assert {state for state in State if state.is_final} == FINAL


@pytest.mark.parametrize("state", State)
def test_every_state_can_come_to_an_end_and_be_reached(state: State) -> None:
    assert reachable(state) & FINAL
    assert state in reachable(State.ACCEPTED)


@pytest.mark.parametrize("state", [state for state in State if state not in FINAL | {State.EVALUATING}])
def test_a_user_can_cancel_until_the_evaluation(state: State) -> None:
    assert State.CANCELLED in MOVES[state]


def test_only_an_evaluation_succeeds() -> None:
    assert [state for state in State if State.SUCCEEDED in MOVES[state]] == [State.EVALUATING]


@given(st.sampled_from(State), st.sampled_from(State))
def test_a_move_is_in_the_table_or_refused(state: State, to: State) -> None:
    if to in MOVES[state]:
        assert move(state, to) is to
    else:
        with pytest.raises(IllegalMove, match=f"from {state} to {to}"):
            move(state, to)


# ---- what follows an attempt --------------------------------------------------------------------------------------

attempts = st.builds(
    EndedAttempt,
    outcome=st.sampled_from(Outcome),
    reason=st.sampled_from(["why", "worker_died", "runner_died: signal 9", "node_lost", ""]),
    made_progress=st.booleans(),
)
histories = st.lists(attempts, min_size=1, max_size=12).map(tuple)
budgets = st.builds(RetriesSpec, infra=st.integers(0, 4), oom=st.integers(0, 3), stalled=st.integers(0, 3))


@given(histories, st.sampled_from(Desired), budgets)
def test_what_follows_is_always_legal_and_says_why(
    history: tuple[EndedAttempt, ...], desired: Desired, retries: RetriesSpec
) -> None:
    found = after_attempt(history, desired=desired, retries=retries)
    assert found.state in MOVES[State.RUNNING]
    assert found.reason
    assert (found.retry_no is not None) is (found.state is State.RETRYING)
    assert found.retry_no is None or found.retry_no >= 1


@given(histories, budgets)
def test_a_result_is_never_thrown_away_whatever_the_user_wants_now(
    history: tuple[EndedAttempt, ...], retries: RetriesSpec
) -> None:
    for desired in Desired:
        found = follows(*history, ended(Outcome.SUCCEEDED), desired=desired, retries=retries)
        assert found.state is State.EVALUATING


@given(histories, budgets)
def test_a_wish_to_end_is_obeyed_unless_there_is_a_result(
    history: tuple[EndedAttempt, ...], retries: RetriesSpec
) -> None:
    if history[-1].outcome is not Outcome.SUCCEEDED:
        assert follows(*history, desired=Desired.CANCEL, retries=retries).state is State.CANCELLED


@given(st.lists(st.sampled_from(UNHAPPY), min_size=1, max_size=40), budgets)
def test_without_progress_retries_end_within_their_budgets(outcomes: list[Outcome], retries: RetriesSpec) -> None:
    history: tuple[EndedAttempt, ...] = ()
    for outcome in outcomes:
        history = (*history, ended(outcome))
        found = after_attempt(history, desired=Desired.RUN, retries=retries)
        if found.state is not State.RETRYING:
            break
    allowed = retries.infra + retries.oom + retries.stalled + retries.user_error
    assert len(history) <= allowed + 1
    assert found.state is not State.RETRYING or len(history) == len(outcomes)


@pytest.mark.parametrize(
    ("outcome", "budget"),
    [(Outcome.USER_ERROR, "user_error"), (Outcome.OOM, "oom"), (Outcome.STALLED, "stalled"), (Outcome.LOST, "infra")],
)
@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_budget_of_n_allows_n_retries(outcome: Outcome, budget: str, allowed: int) -> None:
    retries = RetriesSpec.model_validate({budget: allowed})
    found = [follows(*[ended(outcome)] * count, retries=retries).state for count in range(1, allowed + 2)]
    assert found[:-1] == [State.RETRYING] * allowed
    assert found[-1] in (State.FAILED, State.HELD)


def test_losses_and_infrastructure_errors_share_one_budget() -> None:
    pair = (ended(Outcome.LOST), ended(Outcome.INFRA_ERROR))
    assert follows(*pair, retries=RetriesSpec(infra=2)).retry_no == 2
    assert follows(*pair, retries=RetriesSpec(infra=1)).state is State.FAILED


def test_progress_forgives_infrastructure_and_nothing_else() -> None:
    retries = RetriesSpec(infra=1, oom=1)
    for outcome, expected in ((Outcome.LOST, State.RETRYING), (Outcome.OOM, State.FAILED)):
        history = (ended(outcome), ended(outcome, made_progress=True))
        assert follows(*history, retries=retries).state is expected


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.USER_ERROR])
def test_what_a_retry_would_not_cure_fails_at_once(outcome: Outcome) -> None:
    assert follows(ended(outcome, "the reason")) == Next(state=State.FAILED, reason=f"{outcome}: the reason")


@given(st.integers(1, 50))
def test_preemption_is_charged_to_nobody(count: int) -> None:
    found = follows(*[ended(Outcome.PREEMPTED, "drain")] * count, retries=RetriesSpec(infra=0, oom=0, stalled=0))
    assert found == Next(state=State.QUEUED, reason="preempted: drain")


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ([ended(Outcome.INFRA_ERROR, "worker_died")] * POISON_AFTER, State.HELD),
        ([ended(Outcome.INFRA_ERROR, "runner_died: signal 11")] * POISON_AFTER, State.HELD),
        ([ended(Outcome.OOM), ended(Outcome.STALLED), ended(Outcome.INFRA_ERROR, "worker_died")], State.HELD),
        ([ended(Outcome.INFRA_ERROR, "worker_died")] * (POISON_AFTER - 1), State.RETRYING),
        ([ended(Outcome.INFRA_ERROR, "node_lost")] * POISON_AFTER, State.RETRYING),
        ([ended(Outcome.INFRA_ERROR, "worker_died", made_progress=True)] * POISON_AFTER, State.RETRYING),
        (
            [ended(Outcome.INFRA_ERROR, "worker_died")] * 2
            + [ended(Outcome.LOST, "node_lost"), ended(Outcome.INFRA_ERROR, "worker_died")],
            State.RETRYING,
        ),
    ],
)
def test_three_deaths_in_a_row_without_progress_are_held_for_a_human(tail: list[EndedAttempt], expected: State) -> None:
    assert follows(*tail, retries=RetriesSpec(infra=50, oom=50, stalled=50)).state is expected


def forgiven(attempt: EndedAttempt) -> EndedAttempt:
    return replace(attempt, is_forgiven=True)


@given(histories, budgets, st.sampled_from(UNHAPPY))
def test_after_a_release_an_attempt_is_judged_as_if_it_were_the_first(
    history: tuple[EndedAttempt, ...], retries: RetriesSpec, outcome: Outcome
) -> None:
    before = tuple(forgiven(attempt) for attempt in history)
    assert follows(*before, ended(outcome), retries=retries) == follows(ended(outcome), retries=retries)


def test_a_release_starts_the_count_to_poison_again() -> None:
    death, retries = ended(Outcome.INFRA_ERROR, "worker_died"), RetriesSpec(infra=50)
    before = [forgiven(death)] * POISON_AFTER
    found = [follows(*before, *[death] * count, retries=retries).state for count in (1, 2, 3)]
    assert found == [State.RETRYING, State.RETRYING, State.HELD]


@given(histories, st.sampled_from(Desired), budgets)
def test_without_run_time_nothing_is_tried_again(
    history: tuple[EndedAttempt, ...], desired: Desired, retries: RetriesSpec
) -> None:
    plenty = after_attempt(history, desired=desired, retries=retries, runtime_left_s=1)
    spent = after_attempt(history, desired=desired, retries=retries, runtime_left_s=0)
    if plenty.state in (State.RETRYING, State.QUEUED):
        assert (spent.state, spent.reason.split(":")[0]) == (State.FAILED, "timeout")
    else:
        assert spent == plenty


def test_a_rule_may_forbid_another_attempt_whatever_the_budget() -> None:
    allowed = RetriesSpec(user_error=5)
    assert follows(ended(Outcome.USER_ERROR, "rule: user_error: exit code 3"), retries=allowed).state is State.RETRYING
    assert follows(ended(Outcome.USER_ERROR, "rule: fail: exit code 3"), retries=allowed).state is State.FAILED


def test_offers_that_are_refused_again_and_again_are_held_for_a_human() -> None:
    refused, withdrawn = (ended(Outcome.PREEMPTED, f"{code}: why") for code in ("offer_refused", "offer_withdrawn"))
    below = [refused] * (REFUSALS_HELD_AFTER - 1)
    assert follows(*below).state is State.QUEUED
    assert follows(*below, refused).state is State.HELD
    assert follows(*below, refused).reason.startswith("cannot_be_offered: ")
    assert follows(*below, withdrawn).state is State.QUEUED
    assert follows(*below, withdrawn, refused).state is State.QUEUED
    assert follows(*[forgiven(refused)] * 5, refused).state is State.QUEUED


# ---- whom to blame ------------------------------------------------------------------------------------------------


def there(
    key: str,
    outcome: Outcome = Outcome.INFRA_ERROR,
    reason: str = "storage: full",
    *,
    session: str = "s1",
    node: str = "",
) -> EndedThere:
    return EndedThere(
        experiment_id=key, ray_session=session, node_id=node or f"n-{key}", outcome=outcome, reason=reason
    )


@pytest.mark.parametrize(
    ("newest_first", "is_blamed"),
    [
        ([there("a"), there("b"), there("c")], True),
        (
            [there("a", Outcome.LOST, ""), there("b", reason="node_lost"), there("c", reason="environment: no code")],
            True,
        ),
        ([there("a"), there("a"), there("b"), there("b"), there("c")], True),
        ([there("a"), there("b")], False),
        ([there("a"), there("b"), there("a"), there("b")], False),
        ([there("a"), there("b"), there("x", Outcome.SUCCEEDED, "completed"), there("c")], False),
        ([there("a"), there("b"), there("c", reason="worker_died")], False),
        ([there("a"), there("b"), there("c", Outcome.USER_ERROR, "storage")], False),
        ([there(key, reason=SESSION_ENDED) for key in "abc"], False),
        ([there(key, reason=SESSION_ENDED, session=f"s-{key}") for key in "abc"], True),
        ([there(key, reason="node_lost", node="n") for key in "abc"], False),
        ([there(key, reason="node_lost") for key in "abc"], True),
    ],
)
def test_a_cluster_that_loses_three_experiments_in_a_row_is_suspected(
    newest_first: list[EndedThere], is_blamed: bool
) -> None:
    why = blame(newest_first)
    assert (why is not None) is is_blamed
    assert why is None or str(BLAME_AFTER) in why


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def death(key: str, *nodes: str, age_s: float = 60, outcome: Outcome = Outcome.INFRA_ERROR, **more: str) -> NodeDeath:
    told = {"reason": "worker_died", **more}
    return NodeDeath(experiment_id=key, outcome=outcome, nodes=nodes, ended_at=NOW - timedelta(seconds=age_s), **told)


@pytest.mark.parametrize(
    ("deaths", "blamed"),
    [
        ([death("a", "n"), death("b", "n"), death("c", "n")], {"n"}),
        ([death("a", "n"), death("b", "n", reason="runner_died"), death("c", "n")], {"n"}),
        ([death("a", "n", "n"), death("b", "n"), death("c", "n")], {"n"}),
        ([death("a", "n"), death("b", "n")], set()),
        ([death("a", "n"), death("b", "n"), death("b", "n"), death("a", "n")], set()),
        ([death("a", "n"), death("b", "n"), death("c", "m")], set()),
        ([death("a", "n"), death("b", "n"), death("c", "n", age_s=86_400)], set()),
        ([death("a", "n"), death("b", "n"), death("c", "n", age_s=86_399)], {"n"}),
        ([death("a", "n"), death("b", "n"), death("c", "n", outcome=Outcome.USER_ERROR)], set()),
        ([death("a", "n"), death("b", "n"), death("c", "n", outcome=Outcome.LOST)], set()),
        ([death("a", "n"), death("b", "n"), death("c", "n", reason="node_lost")], set()),
        ([death("a", "n"), death("b", "n"), death("c", "n", reason="storage: full")], set()),
        ([death("a", "n"), death("b", "n"), death("c")], set()),
        ([death("a", "n"), death("b", "n"), death("c", "n", "m")], set()),
        ([death("a", "n"), death("b", "n"), death("c", "n"), death("c", "m")], set()),
        ([death(key, node) for key, node in zip("abcdef", "nmnmnm", strict=True)], {"n", "m"}),
    ],
)
def test_a_node_on_which_three_experiments_died_within_a_day_is_to_blame(
    deaths: list[NodeDeath], blamed: set[str]
) -> None:
    assert blame_nodes(deaths, now=NOW, readmitted={}).keys() == blamed


@pytest.mark.parametrize(("age_s", "is_blamed"), [(90, True), (60, False), (30, False)])
def test_what_died_on_a_node_before_it_was_readmitted_counts_no_more(age_s: float, is_blamed: bool) -> None:
    deaths = [death("a", "n"), death("b", "n", age_s=50), death("c", "n", age_s=40)]
    found = blame_nodes(deaths, now=NOW, readmitted={"n": NOW - timedelta(seconds=age_s)})
    assert ("n" in found) is is_blamed


@given(
    st.lists(
        st.builds(
            death,
            st.sampled_from("abcdef"),
            st.sampled_from("nmo"),
            age_s=st.integers(0, 100_000),
            outcome=st.sampled_from([Outcome.INFRA_ERROR, Outcome.INFRA_ERROR, Outcome.OOM]),
            reason=st.sampled_from(["worker_died", "runner_died", "start_timeout"]),
        ),
        max_size=30,
    ),
    st.dictionaries(st.sampled_from("nmo"), st.integers(0, 100_000).map(lambda s: NOW - timedelta(seconds=s))),
    st.randoms(use_true_random=False),
)
def test_who_is_blamed_has_three_deaths_that_are_its_own_in_any_order(
    deaths: list[NodeDeath], readmitted: dict[str, datetime], random: Random
) -> None:
    found = blame_nodes(deaths, now=NOW, readmitted=readmitted)
    shuffled = random.sample(deaths, len(deaths))
    assert blame_nodes(shuffled, now=NOW, readmitted=readmitted).keys() == found.keys()
    for node, those in found.items():
        assert len({one.experiment_id for one in those}) == len(those) >= EXCLUDE_AFTER
        for one in those:
            assert (one.nodes, one.outcome) == ((node,), Outcome.INFRA_ERROR)
            assert NOW - one.ended_at < EXCLUDE_WITHIN
            assert one.ended_at > readmitted.get(node, NOW - EXCLUDE_WITHIN)
    later = dict.fromkeys(found, NOW)
    assert blame_nodes(deaths, now=NOW, readmitted={**readmitted, **later}) == {}, "taken in again, they begin anew"


# ---- the delay before a retry -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retry_no", "bound_s"), [(1, 20), (2, 40), (3, 80), (5, 320), (6, 600), (1000, 600)])
def test_the_delay_doubles_up_to_ten_minutes(retry_no: int, bound_s: float) -> None:
    assert retry_delay_bound_s(retry_no) == bound_s


@given(st.integers(1, 10**9))
def test_the_delay_never_shrinks_and_never_exceeds_its_bound(retry_no: int) -> None:
    assert 0 < retry_delay_bound_s(retry_no) <= retry_delay_bound_s(retry_no + 1) <= MAX_RETRY_DELAY_S
