"""A sweep's report: it agrees with the rules of the search, and says what is not known."""

import csv
import io
import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fairlead.evaluation import report_bytes
from fairlead.evaluation.signing import signed, verify
from fairlead.evaluation.sweep_report import MOST_LISTED, MOST_RANKED, SweepTrial, trials_csv
from fairlead.search.best import best, front, nearest_miss, values_of
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import ExperimentSpec
from fairlead.spec.search import SearchSpec
from fairlead.testing.sweeps import ACCURACY, GAP, LOSS, TWO_OBJECTIVES, a_sweep, a_sweep_report, sweep_trials

BOUND = f"{GAP}.upper95 <= 0.12"
IMPOSSIBLE = f"{GAP}.upper95 <= 0.0001"


def search_of(spec: ExperimentSpec) -> SearchSpec:
    assert spec.search is not None
    return spec.search


def plain(search: SearchSpec, trials: list[SweepTrial]) -> list[Trial]:
    return [
        Trial(
            no=one.no,
            point=one.params,
            state=one.state,
            values=values_of(search, one.values) or (),
            excesses=one.excesses,
        )
        for one in trials
    ]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("constraints", [(), (BOUND,), (IMPOSSIBLE,)])
@pytest.mark.parametrize("objectives", [[{"minimize": LOSS}], [{"maximize": ACCURACY}], TWO_OBJECTIVES])
def test_best_front_and_nearest_are_those_that_the_search_names(
    objectives: list[Any], constraints: tuple[str, ...], seed: int
) -> None:
    spec = a_sweep(objectives=objectives, constraints=constraints)
    trials = sweep_trials(search_of(spec), 30, seed=seed)
    report = a_sweep_report(spec, trials)
    known = plain(search_of(spec), trials)
    first, missed = best(search_of(spec), known), nearest_miss(search_of(spec), known)
    is_single = len(objectives) == 1
    assert (report["best"] or {}).get("no") == (first.no if first and is_single else None)
    on_front = front(search_of(spec), known)
    assert [one["no"] for one in report["front"]] == ([] if is_single else [one.no for one in on_front])
    assert (report["nearest"] or {}).get("no") == (missed.no if missed and first is None else None)
    ranked = [one["no"] for one in report["ranking"]]
    ahead = [report["best"] or report["nearest"]] if is_single or first is None else report["front"]
    assert {one["no"] for one in ahead} == set(ranked[: len(ahead)])
    assert not any("runner" in text for text in report["limitations"])


def test_values_bounds_and_constraints_stand_beside_each_trial() -> None:
    spec = a_sweep(objectives=TWO_OBJECTIVES, constraints=(BOUND,))
    report = a_sweep_report(spec, sweep_trials(search_of(spec), 30))
    assert report["metrics"] == [ACCURACY, GAP, f"{GAP}.upper95"]
    for one in report["front"]:
        low, high = one["bounds"][GAP]
        assert low <= one["values"][GAP] <= high <= 0.12
        assert one["excesses"][BOUND] <= 0
        assert ACCURACY not in one["bounds"]
    told = report["constraints"][0]
    assert told["num"] == report["counts"]["succeeded"]
    assert told["num_keeping"] == report["num_keeping"] < told["num"]


def test_the_headline_says_what_became_of_it() -> None:
    spec = a_sweep()
    trials = sweep_trials(search_of(spec), 40)
    found = a_sweep_report(spec, trials)
    value = found["best"]["values"][LOSS]
    assert found["headline"].startswith(f"40 trials: best is trial {found['best']['no']} ({LOSS} {value:.4g}")
    assert "ended because its hours were over" in a_sweep_report(spec, trials, ended_because="hours")["headline"]
    tight = a_sweep(constraints=(IMPOSSIBLE,))
    missed = a_sweep_report(tight, sweep_trials(search_of(tight), 40))
    assert f"none keeps all constraints; nearest is trial {missed['nearest']['no']} (" in missed["headline"]
    assert f"beyond {IMPOSSIBLE}" in missed["headline"]


def failing(_: Mapping[str, Any], random_: random.Random) -> tuple[TrialState, Mapping[str, float], str]:
    return TrialState.FAILED, {}, "out_of_memory" if random_.random() < 0.2 else "ValueError: no such column"


def test_where_all_failed_the_report_says_of_what() -> None:
    spec = a_sweep()
    report = a_sweep_report(spec, sweep_trials(search_of(spec), 20, run=failing))
    assert report["best"] is report["nearest"] is None
    assert report["ranking"] == []
    assert [one["reason"] for one in report["failures"]] == ["ValueError: no such column", "out_of_memory"]
    assert sum(one["num"] for one in report["failures"]) == 20
    assert "20 failed, most often with 'ValueError: no such column'" in report["headline"]


def test_a_sweep_of_one_trial_and_one_of_none_have_reports() -> None:
    spec = a_sweep()
    one = sweep_trials(search_of(spec), 1, seed=3)
    assert a_sweep_report(spec, one)["headline"].startswith("1 trial: best is trial 0")
    nothing = a_sweep_report(spec, [])
    assert nothing["headline"].startswith("no trial was begun")
    assert nothing["time"]["wall_s"] is None
    json.loads(report_bytes(nothing))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.7e308])
def test_values_that_are_no_numbers_are_null_and_never_break_the_report(value: float) -> None:
    spec = a_sweep(constraints=(f"{ACCURACY} >= 0.1",))
    odd = SweepTrial(no=0, state=TrialState.SUCCEEDED, params={"lr": 0.1}, values={LOSS: value, ACCURACY: 0.5})
    odd = replace(odd, excesses={f"{ACCURACY} >= 0.1": -0.4})
    silent = SweepTrial(no=1, state=TrialState.SUCCEEDED, params={"lr": 0.1}, excesses={f"{ACCURACY} >= 0.1": math.inf})
    report = a_sweep_report(spec, [odd, silent])
    listed = json.loads(report_bytes(report))["trials"]
    assert listed[0]["values"][LOSS] == (value if math.isfinite(value) else None)
    assert listed[1]["values"] == {LOSS: None, ACCURACY: None}
    assert listed[1]["excesses"] == {f"{ACCURACY} >= 0.1": None}
    assert report["constraints"][0]["num_known"] == 1
    is_number = math.isfinite(value)
    assert len(report["ranking"]) == is_number
    assert (report["best"] is not None) == is_number
    odd_ones = 1 if is_number else 2
    assert any(text.startswith(f"{odd_ones} trial") and "finite" in text for text in report["limitations"])


def test_the_history_is_what_was_better_than_all_before_it() -> None:
    spec = a_sweep()
    trials = [
        SweepTrial(no=no, state=TrialState.SUCCEEDED, params={}, values={LOSS: value})
        for no, value in enumerate([3.0, 4.0, 2.0, 2.0, 1.0, 5.0])
    ]
    history = a_sweep_report(spec, trials)["objectives"][0]["history"]
    assert history == {"improvements": [[0, 3.0], [2, 2.0], [4, 1.0]], "num": 3, "trials_since": 1}


def test_times_leave_out_what_an_earlier_sweep_has_done() -> None:
    spec = a_sweep()
    own = sweep_trials(search_of(spec), 10)
    alone = a_sweep_report(spec, own)["time"]
    more = [replace(one, no=one.no + 10, origin="inherited") for one in own]
    report = a_sweep_report(spec, [*own, *more])
    assert report["time"] == alone
    assert alone["mean_concurrency"] == pytest.approx(1.7, abs=0.3)
    assert any("10 trials were taken over" in text for text in report["limitations"])


def test_where_the_runner_names_another_best_the_report_says_so() -> None:
    spec = a_sweep()
    report = a_sweep_report(spec, sweep_trials(search_of(spec), 10), best=9_999)
    assert any("runner" in text for text in report["limitations"])


def test_the_same_trials_give_the_same_bytes_in_any_order_and_can_be_signed() -> None:
    spec = a_sweep(objectives=TWO_OBJECTIVES)
    trials = sweep_trials(search_of(spec), 50)
    report = a_sweep_report(spec, trials)
    assert report_bytes(report) == report_bytes(a_sweep_report(spec, trials[::-1]))
    verify(signed(report, b"k" * 32))


def test_of_ten_thousand_trials_a_thousand_are_listed_the_best_among_them() -> None:
    spec = a_sweep(objectives=TWO_OBJECTIVES)
    trials = sweep_trials(search_of(spec), 10_000)
    report = a_sweep_report(spec, trials)
    listed = [one["no"] for one in report["trials"]]
    assert report["num_trials"] == 10_000
    assert len(listed) == MOST_LISTED
    assert listed == sorted(set(listed))
    assert {one["no"] for one in (*report["ranking"], *report["front"])} <= set(listed)
    assert len(report["ranking"]) == MOST_RANKED
    assert len(report_bytes(report)) < 1_500_000


def test_the_table_has_every_trial_and_no_formula() -> None:
    spec = a_sweep(objectives=TWO_OBJECTIVES, constraints=(BOUND,))
    trials = sweep_trials(search_of(spec), 30)
    evil = replace(trials[3], reason='=HYPERLINK("http://x","y")', params={"lr": -0.5, "optimizer": "@SUM(A1)"})
    rows = list(csv.DictReader(io.StringIO(trials_csv(search_of(spec), [*trials[:3], evil, *trials[4:]]).decode())))
    assert [int(row["trial"]) for row in rows] == list(range(30))
    assert rows[3]["reason"] == '\'=HYPERLINK("http://x","y")'
    assert rows[3]["params.optimizer"] == "'@SUM(A1)"
    assert rows[3]["params.lr"] == "-0.5"
    kept = next(row for row in rows if row["keeps"] == "true")
    assert float(kept[f"{GAP}.lower95"]) <= float(kept[GAP]) <= float(kept[f"{GAP}.upper95"])
    assert float(kept[f"beyond {BOUND}"]) <= 0
