from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fairlead.lifecycle import State
from fairlead.protocol import MetricPoint, TrialRecord
from fairlead.search.best import best, front, nearest_miss
from fairlead.spec.search import SearchSpec
from fairlead.store import Store, amendments, events, experiments, trials
from fairlead.store.tables import ExperimentRow, TrialRow
from fairlead.testing.stored import an_experiment

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPACE = {"lr": {"log_uniform": [0.001, 1.0]}}
ONE: dict[str, Any] = {"space": SPACE, "objectives": [{"minimize": "loss"}]}
BOUND: dict[str, Any] = {**ONE, "constraints": ["gap <= 0.2"]}
TWO: dict[str, Any] = {"space": SPACE, "objectives": [{"minimize": "loss"}, {"maximize": "auc"}]}


def a_sweep(store: Store, search: dict[str, Any] = ONE, key: str = "exp-1") -> SearchSpec:
    an_experiment(store, key, search=search)
    return SearchSpec.model_validate(search)


def begins(no: int, **more: Any) -> TrialRecord:
    return TrialRecord(**{"no": no, "state": "running", "params": {"lr": 0.1}, "at_ms": 1000 + no, **more})


def ends(no: int, state: str = "succeeded", **values: float) -> TrialRecord:
    return TrialRecord(no=no, state=state, values=values, metrics=values, at_ms=2000 + no)


def take(store: Store, search: SearchSpec, *records: TrialRecord, attempt_no: int = 1, key: str = "exp-1") -> None:
    with store.write() as session:
        row = experiments.get(session, key)
        trials.take(session, row, search, attempt_no=attempt_no, records=records, now=NOW)


def sweep(store: Store, key: str = "exp-1") -> ExperimentRow:
    with store.read() as session:
        return experiments.get(session, key)


def trial(store: Store, no: int, key: str = "exp-1") -> TrialRow:
    with store.read() as session:
        found = trials.find(session, key, no)
    assert found is not None
    return found


def test_a_trial_is_told_of_from_its_beginning_to_its_end(store: Store) -> None:
    search = a_sweep(store, BOUND)
    point = MetricPoint(key="loss", value=0.9, step=1, at_ms=1500)
    take(store, search, begins(0), TrialRecord(no=0, state="running", points=(point,), last_step=1, at_ms=1500))
    running = trial(store, 0)
    assert (running.state, running.tries, running.last_step, running.ended_at) == ("running", 1, 1, None)
    assert (running.curves, running.value, running.excess) == ({"loss": [[1, 1500, 0.9]]}, None, None)
    take(store, search, ends(0, loss=0.5, gap=0.3))
    ended = trial(store, 0)
    assert (ended.state, ended.value, ended.params) == ("succeeded", 0.5, {"lr": 0.1})
    assert ended.excess == pytest.approx(0.1)
    assert ended.started_at == datetime.fromtimestamp(1, UTC)
    assert ended.ended_at == datetime.fromtimestamp(2, UTC)
    assert sweep(store).last_step == 1


def test_a_trial_that_was_running_is_tried_again_and_one_that_is_final_never_changes(store: Store) -> None:
    search = a_sweep(store)
    take(store, search, begins(0), begins(1), ends(1, loss=0.5))
    take(store, search, begins(0), begins(1), ends(1, loss=0.1), attempt_no=2)
    assert (trial(store, 0).tries, trial(store, 0).attempt_no) == (2, 2)
    assert (trial(store, 1).tries, trial(store, 1).attempt_no, trial(store, 1).value) == (1, 1, 0.5)
    assert sweep(store).sweep is not None
    assert sweep(store).sweep["counts"] == {"running": 1, "succeeded": 1, "pruned": 0, "failed": 0}


def test_trials_that_run_end_with_their_sweep(store: Store) -> None:
    search = a_sweep(store)
    take(store, search, begins(0), begins(1), ends(1, loss=0.5))
    with store.write() as session:
        row = experiments.get(session, "exp-1")
        assert experiments.move_if_current(session, row, State.CANCELLED, reason="asked", actor="me", now=NOW)
    cut = trial(store, 0)
    assert (cut.state, cut.reason, cut.ended_at) == ("pruned", experiments.CUT, NOW)
    assert trial(store, 1).state == "succeeded"
    summary = sweep(store).sweep
    assert summary is not None
    assert summary["counts"] == {"running": 0, "succeeded": 1, "pruned": 1, "failed": 0}
    assert summary["finished"] == 2


def test_a_record_whose_beginning_was_never_told_leaves_no_trial(store: Store) -> None:
    search = a_sweep(store)
    take(store, search, ends(3, loss=0.5))
    with store.read() as session:
        assert trials.count(session, "exp-1") == 0


@pytest.mark.parametrize("asked", [ONE, BOUND, TWO])
def test_how_a_sweep_stands_is_the_same_as_if_all_trials_were_looked_at(store: Store, asked: dict[str, Any]) -> None:
    search = a_sweep(store, asked)
    values = [(0.9, 0.5, 0.4), (0.7, 0.6, 0.3), (0.7, 0.6, 0.3), (0.8, 0.9, 0.1), (float("nan"), 0.9, 0.1)]
    states = ["succeeded", "succeeded", "succeeded", "succeeded", "succeeded", "pruned", "failed"]
    values += [(0.1, 0.99, 0.0), (0.0, 1.0, 0.0)]
    for no, ((loss, auc, gap), state) in enumerate(zip(values, states, strict=True)):
        take(store, search, begins(no), ends(no, state, loss=loss, auc=auc, gap=gap))
        with store.read() as session:
            rows = trials.page(session, "exp-1", sort="no", limit=100).rows
        found = [trials.trial_of(search, one) for one in rows]
        winner, on_front, nearest = best(search, found), front(search, found), nearest_miss(search, found)
        said = sweep(store).sweep
        assert said is not None
        is_one = len(search.objectives) == 1
        assert said["best"] == (winner.no if winner and is_one else None)
        assert said["front"] == ([] if is_one else [one.no for one in on_front])
        assert said["nearest"] == (nearest.no if nearest and not on_front else None)
        assert said["finished"] == no + 1


@pytest.mark.parametrize("sort", trials.SORTS)
def test_pages_hold_every_trial_once_and_in_order(store: Store, sort: trials.Sort) -> None:
    search = a_sweep(store, BOUND)
    for no in range(11):
        record = TrialRecord(
            no=no, state="succeeded", values={"loss": float(no % 4), "gap": (no % 3) / 10}, at_ms=2000 + no % 5
        )
        unfinished = [] if no % 4 == 3 else [record]
        take(store, search, begins(no, at_ms=1000 + no % 3), *unfinished)
    with store.read() as session:
        whole = trials.page(session, "exp-1", sort=sort, limit=100)
        found, after = list[int](), None
        while True:
            page = trials.page(session, "exp-1", sort=sort, limit=3, after=after)
            found += [one.no for one in page.rows]
            if (after := page.place) is None:
                break
    assert whole.place is None
    assert found == [one.no for one in whole.rows]
    assert sorted(found) == list(range(11))


def test_by_value_those_come_first_that_keep_the_constraints(store: Store) -> None:
    search = a_sweep(store, BOUND)
    take(store, search, *(begins(no) for no in range(5)))
    take(store, search, ends(0, loss=0.1, gap=0.5), ends(1, loss=0.5, gap=0.1), ends(2, loss=0.4, gap=0.1))
    take(store, search, ends(3, loss=0.05, gap=float("nan")))
    with store.read() as session:
        up = [one.no for one in trials.page(session, "exp-1", sort="value", limit=9).rows]
        down = [one.no for one in trials.page(session, "exp-1", sort="-value", limit=9).rows]
        running = trials.page(session, "exp-1", sort="no", limit=9, states=("running",)).rows
    assert up == [2, 1, 0, 3, 4]
    assert down == [1, 2, 0, 3, 4]
    assert [one.no for one in running] == [4]


@pytest.mark.parametrize(("sort", "order"), [("ended_at", [0, 2, 1, 3]), ("-ended_at", [2, 0, 1, 3])])
def test_by_time_those_that_have_not_ended_come_last_either_way(
    store: Store, sort: trials.Sort, order: list[int]
) -> None:
    search = a_sweep(store)
    take(store, search, *(begins(no) for no in range(4)), ends(0, loss=0.5), ends(2, loss=0.4))
    with store.read() as session:
        assert [one.no for one in trials.page(session, "exp-1", sort=sort, limit=9).rows] == order


def test_documents_tell_the_course_of_the_first_objective(store: Store) -> None:
    search = a_sweep(store, TWO)
    told = [MetricPoint(key=key, value=step / 10, step=step, at_ms=1) for key in ("auc", "loss") for step in (1, 2)]
    record = TrialRecord(no=0, state="running", points=tuple(told), values={"auc": 0.2, "loss": 0.2}, at_ms=1500)
    take(store, search, begins(0), record, begins(1), begins(2))
    with store.read() as session:
        (first, second) = trials.documents(session, "exp-1", first_no=0, limit=2)
        rest = trials.documents(session, "exp-1", first_no=2, limit=2)
    assert (first.no, second.no, [one.no for one in rest]) == (0, 1, [2])
    assert first.curve == ((1, 0.1), (2, 0.2))


def test_no_time_of_a_runner_is_later_than_ours(store: Store) -> None:
    search = a_sweep(store)
    take(store, search, begins(0, at_ms=10**18), begins(1, at_ms=-5))
    assert [trial(store, no).started_at for no in (0, 1)] == [NOW, NOW]


def test_amendments_are_numbered_and_each_has_its_event(store: Store) -> None:
    a_sweep(store)
    for trials_more in (5, 7):
        with store.write() as session:
            amendments.insert(
                session,
                "exp-1",
                kind="add_trials",
                payload={"trials": trials_more},
                actor="ada",
                now=NOW + timedelta(seconds=trials_more),
                reason="more",
            )
    with store.read() as session:
        found = amendments.of(session, "exp-1")
        said = events.of_kind(session, "exp-1", amendments.AMENDED_KIND)
    assert [(one.no, one.trials, one.by) for one in found] == [(1, 5, "ada"), (2, 7, "ada")]
    assert [one.payload["no"] for one in said] == [1, 2]
