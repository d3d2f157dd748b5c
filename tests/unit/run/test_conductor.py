"""What a sweep does next, decided without Ray: from rows, reports and amendments."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.protocol import Amendment, TrialDocument
from fairlead.run.sweep.conductor import MAX_TRIES, Begin, Conductor
from fairlead.search.proposals import Proposals
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import from_mapping
from fairlead.spec.search import SearchSpec

LOSS = "validation/loss"


def a_search(**changes: Any) -> SearchSpec:
    content = {
        "space": {"x": {"choice": [1, 2, 3, 4, 5, 6, 7, 8]}},
        "algorithm": "grid",
        "objectives": [{"minimize": LOSS}],
        "trials": 8,
    }
    return from_mapping(SearchSpec, content | changes)


def a_conductor(search: SearchSpec, **given: Any) -> Conductor:
    def proposer(trials: Sequence[Trial]) -> Proposals:
        return Proposals(search, seed=0, trials=trials)

    return Conductor(search, proposer, **given)


def begin(conductor: Conductor, *, elapsed_s: float = 0) -> Begin:
    found = conductor.next(elapsed_s=elapsed_s)
    assert found is not None
    return found


def run(conductor: Conductor, loss: float | None, **metrics: float) -> Begin:
    """Begin a trial and let it end with ``loss``."""
    begun = begin(conductor)
    if loss is not None:
        conductor.reported(begun.no, 1, {LOSS: loss, **metrics})
    conductor.finished(begun.no, {}, has_evaluated=True)
    return begun


def row(no: int, state: str = "succeeded", loss: float = 1.0, **changes: Any) -> TrialDocument:
    values = {} if state == "running" else {LOSS: loss}
    content = {"no": no, "state": state, "params": {"x": no + 1}, "values": values}
    return TrialDocument.model_validate(content | changes)


def test_all_points_are_tried_once_and_then_it_is_over() -> None:
    conductor = a_conductor(a_search(trials=20))
    assert [run(conductor, 1.0 / no).point["x"] for no in range(1, 9)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert conductor.next(elapsed_s=0) is None
    assert conductor.over_because(0) == "grid"
    assert conductor.summary("grid").best == 7


def test_it_is_not_over_while_a_trial_runs() -> None:
    conductor = a_conductor(a_search(trials=1))
    begun = begin(conductor)
    assert conductor.next(elapsed_s=0) is None
    assert conductor.over_because(0) is None
    conductor.finished(begun.no, {LOSS: 1}, has_evaluated=True)
    assert conductor.over_because(0) == "trials"


def test_what_had_ended_is_not_begun_again_and_what_ran_is_begun_first() -> None:
    rows = [row(0), row(1, "running", tries=1), row(2, "failed")]
    conductor = a_conductor(a_search(), trials=rows)
    first, second = begin(conductor), begin(conductor)
    assert (first.no, first.tries, first.point) == (1, 2, {"x": 2})
    assert (second.no, second.tries, second.point) == (3, 1, {"x": 4})


def test_inherited_trials_do_not_count_against_the_budget() -> None:
    rows = [row(no, origin="inherited") for no in range(3)]
    conductor = a_conductor(a_search(trials=2), trials=rows)
    assert [run(conductor, 2.0).no for _ in range(2)] == [3, 4]
    assert conductor.over_because(0) == "trials"
    assert conductor.summary("trials").best == 0


def test_hours_are_counted_over_all_attempts() -> None:
    conductor = a_conductor(a_search(hours=1))
    assert conductor.next(elapsed_s=3599) is not None
    assert conductor.next(elapsed_s=3600) is None
    assert conductor.why_no_more(3600) == "hours"


def test_a_plateau_ends_it() -> None:
    conductor = a_conductor(a_search(plateau={"trials": 3}))
    for loss in (3.0, 1.0, 2.0, 2.0):
        run(conductor, loss)
        assert conductor.why_no_more(0) is None
    run(conductor, 1.0)
    assert conductor.over_because(0) == "plateau"


def test_amendments_are_carried_out_once_and_in_order() -> None:
    conductor = a_conductor(a_search(trials=1))
    more = [
        Amendment(no=1, kind="add_trials", trials=1),
        Amendment(no=2, kind="enqueue", params={"x": 8}),
        Amendment(no=3, kind="concurrency", concurrency=1),
        Amendment(no=4, kind="priority", priority=90),
    ]
    assert conductor.amend(more[:2]) == []
    assert conductor.amend(more) == []
    assert (conductor.amendment_no, conductor.concurrency) == (4, 1)
    first = run(conductor, 1.0)
    assert (first.origin, first.point) == ("enqueued", {"x": 8})
    assert run(conductor, 1.0).origin == "proposed"
    assert conductor.over_because(0) == "trials"


def test_an_enqueued_trial_that_was_begun_by_an_earlier_attempt_is_not_begun_again() -> None:
    amendments = [Amendment(no=no, kind="enqueue", params={"x": x}) for no, x in ((1, 8), (2, 7))]
    rows = [row(0, params={"x": 8}, origin="enqueued")]
    conductor = a_conductor(a_search(), trials=rows, amendments=amendments)
    begun = begin(conductor)
    assert (begun.no, begun.origin, begun.point) == (1, "enqueued", {"x": 7})
    assert begin(conductor).origin == "proposed"


def test_one_trial_is_stopped_by_hand() -> None:
    conductor = a_conductor(a_search())
    first, _ = begin(conductor), begin(conductor)
    stops = [Amendment(no=no, kind="stop_trial", trial=no - 1, by="ada") for no in (1, 4)]
    assert conductor.amend(stops) == [0]
    conductor.reported(first.no, 1, {LOSS: 4})
    entry = conductor.finished(first.no, {}, has_evaluated=False)
    assert (entry.state, entry.reason, entry.values) == (TrialState.PRUNED, "stopped by ada", {LOSS: 4})


def test_a_trial_that_was_stopped_while_it_waited_to_go_on_is_not_begun() -> None:
    stop = Amendment(no=1, kind="stop_trial", trial=0, by="ada")
    conductor = a_conductor(a_search(), trials=[row(0, "running")], amendments=[stop])
    assert [(one.no, one.state) for one in conductor.take_settled()] == [(0, TrialState.PRUNED)]
    assert conductor.take_settled() == []
    assert begin(conductor).no == 1


def test_finish_begins_no_more() -> None:
    conductor = a_conductor(a_search())
    begun = begin(conductor)
    conductor.amend([Amendment(no=1, kind="finish")])
    assert conductor.next(elapsed_s=0) is None
    conductor.finished(begun.no, {LOSS: 1}, has_evaluated=True)
    assert conductor.over_because(0) == "finished"


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({}, "it never reported validation/loss, which the sweep looks at; it reported nothing"),
        ({"train/loss": 1.0}, "it reported train/loss"),
        ({LOSS: float("nan")}, "validation/loss is not a number (NaN)"),
    ],
)
def test_a_trial_without_a_value_has_failed(metrics: dict[str, float], words: str) -> None:
    conductor = a_conductor(a_search())
    begun = begin(conductor)
    conductor.reported(begun.no, 1, metrics)
    entry = conductor.finished(begun.no, {}, has_evaluated=True)
    assert entry.state is TrialState.FAILED
    assert words in entry.reason


def test_the_last_value_counts_or_the_best_as_the_spec_says() -> None:
    for value, expected in (("last", 3.0), ("best", 1.0)):
        conductor = a_conductor(a_search(value=value))
        begun = begin(conductor)
        for step, loss in enumerate((2.0, 1.0, 3.0), start=1):
            conductor.reported(begun.no, step, {LOSS: loss})
        entry = conductor.finished(begun.no, {}, has_evaluated=True)
        assert entry.values == {LOSS: expected}


def test_a_process_that_dies_again_and_again_is_given_up() -> None:
    conductor = a_conductor(a_search(trials=1))
    for tries in range(1, MAX_TRIES + 1):
        begun = begin(conductor)
        assert begun.tries == tries
        conductor.interrupted(begun.no, is_counted=True)
    assert [(one.state, one.no) for one in conductor.take_settled()] == [(TrialState.FAILED, 0)]
    assert conductor.too_many_failed is not None


def test_a_trial_that_is_begun_again_for_other_reasons_is_not_given_up() -> None:
    conductor = a_conductor(a_search(trials=1))
    for _ in range(3 * MAX_TRIES):
        conductor.interrupted(begin(conductor).no, is_counted=False)
    assert begin(conductor).tries == 1


def test_a_row_that_was_begun_too_often_is_given_up_by_the_next_attempt() -> None:
    conductor = a_conductor(a_search(), trials=[row(0, "running", tries=MAX_TRIES)])
    assert [one.state for one in conductor.take_settled()] == [TrialState.FAILED]
    assert begin(conductor).no == 1


def test_failures_end_a_sweep_once_enough_have_been_seen() -> None:
    search = a_search(space={"x": {"uniform": [0, 1]}}, algorithm="random", trials=100, max_failed_fraction=0.2)
    conductor = a_conductor(search)
    for no in range(20):
        assert conductor.why_no_more(0) is None
        run(conductor, None if no % 4 == 0 else 1.0)
    assert conductor.over_because(0) == "failed"
    assert (conductor.too_many_failed or "").startswith("5 of 20 trials failed; the last of them: it never reported")


def test_a_trial_that_ends_by_itself_at_the_most_steps_is_not_cut_before_it_has_counted() -> None:
    asha = {"asha": {"grace": 1, "max_resource": 4, "reduction_factor": 2}}
    search = a_search(early_stopping=asha)
    conductor = a_conductor(search, steps_of=lambda point: 4)
    begun = begin(conductor)
    assert [conductor.reported(begun.no, step, {LOSS: 1}) for step in (1, 2, 3, 4)] == [None] * 4
    conductor = a_conductor(search, steps_of=lambda point: 100)
    begun = begin(conductor)
    assert "max_resource" in (conductor.reported(begun.no, 4, {LOSS: 1}) or "")
    assert conductor.finished(begun.no, {}, has_evaluated=False).state is TrialState.SUCCEEDED


def test_the_best_are_kept_and_where_none_keeps_the_constraints_the_nearest() -> None:
    search = a_search(constraints=["validation/gap <= 0.1"])
    conductor = a_conductor(search)
    for gap in (0.5, 0.3, 0.4):
        run(conductor, 1.0, **{"validation/gap": gap})
    assert conductor.kept(2) == {1}
    assert conductor.summary("trials").nearest == 1
    for loss in (3.0, 2.0, 1.0):
        run(conductor, loss, **{"validation/gap": 0.05})
    assert conductor.kept(2) == {4, 5}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_wherever_it_is_cut_another_conductor_goes_on_and_no_trial_is_lost_or_run_twice(data: st.DataObject) -> None:
    """Trials end in any order; at any moment all is forgotten but the rows."""
    search = a_search(space={"x": {"uniform": [0, 1]}}, algorithm="random", trials=data.draw(st.integers(1, 12)))
    slots = data.draw(st.integers(1, 4))
    rows: dict[int, TrialDocument] = {}
    ends: list[int] = []
    conductor = a_conductor(search)
    running: dict[int, Begin] = {}
    for _ in range(200):
        if conductor.over_because(0) is not None:
            break
        while len(running) < slots and (begun := conductor.next(elapsed_s=0)) is not None:
            assert begun.no not in running
            if begun.no in rows:
                assert rows[begun.no].params == begun.point
            running[begun.no] = begun
            rows[begun.no] = TrialDocument(
                no=begun.no, state=TrialState.RUNNING, params=dict(begun.point), tries=begun.tries
            )
        if data.draw(st.integers(0, 9)) == 0 and all(one.tries < 4 for one in rows.values()):
            conductor, running = a_conductor(search, trials=list(rows.values())), {}
            continue
        no = data.draw(st.sampled_from(sorted(running)))
        conductor.reported(no, 1, {LOSS: float(running[no].point["x"])})
        conductor.finished(no, {}, has_evaluated=True)
        del running[no]
        ends.append(no)
        rows[no] = rows[no].amended(state=TrialState.SUCCEEDED, values={LOSS: float(rows[no].params["x"])})
    assert sorted(ends) == list(range(search.trials))
    best = min(rows.values(), key=lambda one: one.values[LOSS])
    assert conductor.summary("trials").best == best.no
