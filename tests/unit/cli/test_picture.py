"""The live table of a sweep, drawn at several widths, and what it says of pace, failures and constraints."""

import io
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from fairlead.cli.picture import Look, Picture, Sample, Standing, broken, failures_text, is_kept, left_s, per_minute
from fairlead.cli.searching import described, print_search, value_text
from fairlead.lifecycle import Desired, State
from fairlead.representation import ExperimentDetail, SweepView, TrialView
from fairlead.search.trials import TrialState
from fairlead.spec import ExperimentSpec, from_mapping
from fairlead.spec.search import SearchSpec
from fairlead.testing.api import AT

ACCURACY, GAP = "validation/accuracy", "rai/demographic_parity_difference/sex"
SEARCH: dict[str, Any] = {
    "space": {
        "lr": {"log_uniform": [3e-4, 0.1]},
        "dropout": {"uniform": [0, 0.5]},
        "weight_decay": {"log_uniform": [1e-3, 1]},
        "hidden": {"choice": [[16], [32, 32]]},
    },
    "objectives": [{"maximize": ACCURACY}, {"minimize": GAP}],
    "constraints": [f"{GAP}.upper95 <= 0.30"],
    "trials": 40,
}
POINT = {"lr": 0.0123456, "dropout": 0.25, "weight_decay": 0.1, "hidden": [32, 32]}


def a_spec(**search: Any) -> ExperimentSpec:
    document = {"name": "diabetes-sweep", "workload": "tabular_mlp", "search": {**SEARCH, **search}}
    return from_mapping(ExperimentSpec, {**document, "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]}})


def a_trial(no: int, state: str = "succeeded", *, upper: float | None = 0.2, **more: Any) -> TrialView:
    values = {ACCURACY: 0.7 + no / 1000, GAP: 0.05, **({} if upper is None else {f"{GAP}.upper95": upper})}
    given: dict[str, Any] = {"no": no, "state": TrialState(state), "params": POINT, "values": values, "last_step": 20}
    ended_at = None if state == "running" else AT - timedelta(seconds=60 - no)
    return TrialView(**{**given, "started_at": AT - timedelta(seconds=90 - no), "ended_at": ended_at, **more})


def a_look(
    *,
    state: State = State.RUNNING,
    spec: ExperimentSpec | None = None,
    sweep: dict[str, Any] | None = None,
    **more: Any,
) -> Look:
    counts = {"running": 2, "succeeded": 20, "pruned": 2, "failed": 1}
    view = ExperimentDetail(
        id="24662da0074f",
        name="diabetes-sweep",
        project="default",
        workload="tabular_mlp",
        state=state,
        desired=Desired.RUN,
        reason="the runner has begun",
        version=3,
        priority=50,
        spec_hash="0",
        created_at=AT,
        updated_at=AT,
        spec=spec or a_spec(),
        sweep=SweepView(**{"trials": 40, "ended": 23, "counts": counts, "front": tuple(range(10)), **(sweep or {})}),
    )
    parts: dict[str, Any] = {
        "best": tuple(a_trial(no) for no in range(8)),
        "running": (a_trial(30, "running", upper=None), a_trial(31, "running")),
        "ended": (
            a_trial(29, "pruned"),
            a_trial(28, "failed", values={}, reason="oom: killed"),
            a_trial(27, upper=0.4),
        ),
        "failed": (a_trial(28, "failed", reason="oom: killed"),),
        "per_minute": 34.0,
    }
    return Look(view=view, now=AT, **{**parts, **more})


def drawn(what: object, *, width: int, height: int = 40) -> list[str]:
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(what)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [80, 100, 160, 200])
def test_a_sweep_is_one_table_that_fits_the_terminal(width: int) -> None:
    lines = drawn(Picture(look=a_look()), width=width)
    text = " ".join(" ".join(lines).split())
    assert max(len(line) for line in lines) <= width
    for part in (
        "tpe 23 of 40 trials ended, 2 running, 2 pruned, 1 failed; 34 a minute, 30 s left",
        "1 failed: 1 × oom",
    ):
        assert part in text
    assert [line.split()[0] for line in lines if line.startswith(("front", "running", "ended"))] == [
        "front",
        "running",
        "ended",
    ]


def test_a_wide_terminal_has_a_column_for_each_parameter() -> None:
    lines = drawn(Picture(look=a_look()), width=160)
    heading = next(line for line in lines if "weight_decay" in line)
    assert heading.split()[-4:] == ["lr", "dropout", "weight_decay", "hidden"]
    (front,) = [line for line in lines if line.startswith("front")]
    assert front.split()[:9] == ["front", "0", "succeeded", "20", "0.7000", "0.0500", "yes", "1", "min"]
    assert front.split()[9:] == ["0.0123", "0.25", "0.1", "[32,32]"]


def test_a_narrow_terminal_writes_the_parameters_of_the_best_below() -> None:
    lines = drawn(Picture(look=a_look()), width=80)
    assert "0: lr=0.0123 dropout=0.25 weight_decay=0.1 hidden=[32,32]" in lines
    assert not any("30: lr" in line for line in lines)


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("height", [20, 24, 30, 50])
def test_it_is_no_higher_than_the_terminal(height: int, width: int) -> None:
    many = {"running": tuple(a_trial(no, "running") for no in range(100, 112))}
    look = a_look(**many, ended=tuple(a_trial(no) for no in range(50, 62)))
    assert len(drawn(Picture(look=look), width=width, height=height)) <= height


def test_constraints_are_marked_kept_broken_or_not_known_yet() -> None:
    search = a_spec().search
    assert search is not None
    found = [a_trial(0), a_trial(1, upper=0.31), a_trial(2, "running", upper=None), a_trial(3, upper=None)]
    assert [is_kept(search, trial) for trial in found] == [True, False, None, False]


def test_of_a_sweep_without_constraints_nothing_is_marked() -> None:
    lines = drawn(Picture(look=a_look(spec=a_spec(constraints=[]))), width=160)
    assert not any("kept" in line.split() for line in lines)


def test_before_the_first_trial_there_is_no_table() -> None:
    nothing = {"ended": 0, "counts": {}, "front": ()}
    look = a_look(sweep=nothing, best=(), running=(), ended=(), failed=(), per_minute=None)
    lines = drawn(Picture(look=look), width=80)
    assert (len(lines), lines[1]) == (3, "tpe 0 of 40 trials ended, 0 running, 0 pruned, 0 failed")
    assert drawn(Standing(look=look), width=80) == ["no trial has ended with a value yet"]


def test_the_front_says_how_many_more_there_are() -> None:
    lines = drawn(Standing(look=a_look()), width=160)
    assert (lines[0], lines[-1]) == ("the Pareto front: 10 trials", "and 2 more on the front")


def test_where_no_trial_keeps_the_constraints_the_nearest_is_shown_as_such() -> None:
    look = a_look(sweep={"front": (), "nearest": 5}, best=(a_trial(5, upper=0.31),))
    assert drawn(Standing(look=look), width=160)[0] == "no trial keeps all constraints; the nearest is"
    assert any(line.startswith("nearest") for line in drawn(Picture(look=look), width=160))


def test_failures_are_counted_by_reason_the_most_frequent_first() -> None:
    reasons = ["oom: killed", "user_error: a", "user_error: a", "", "other\nlines", "x" * 200]
    failed = tuple(a_trial(no, "failed", reason=reason) for no, reason in enumerate(reasons))
    counts = {"failed": 70}
    text = failures_text(a_look(failed=failed, sweep={"counts": counts}))
    assert "70 failed, the last 6 by:" in text
    assert "2 × user_error: a; 1 × oom: killed" in text
    assert "; 2 other reasons" in text
    assert failures_text(a_look(sweep={"counts": {}})) == ""


def test_words_of_users_are_printed_as_they_are() -> None:
    look = a_look(failed=(a_trial(0, "failed", reason="[red]x[/] [/nothing]"),))
    assert any("[red]x[/] [/nothing]" in line for line in drawn(Picture(look=look), width=160))


# ---- pace -----------------------------------------------------------------------------------------------------------


def test_pace_is_what_was_seen_of_late() -> None:
    samples = [Sample(at_s=float(at), ended=at // 2) for at in range(0, 600, 10)]
    assert per_minute(samples, ()) == pytest.approx(30)
    stalled = [*samples, Sample(at_s=1000.0, ended=samples[-1].ended)]
    assert per_minute(stalled, ()) is None


def test_at_first_pace_is_that_of_the_last_few_that_ended() -> None:
    ended = tuple(a_trial(no) for no in (1, 3, 5))
    assert per_minute([Sample(at_s=0.0, ended=3)], ended) == pytest.approx(30)
    assert per_minute([Sample(at_s=0.0, ended=1)], ended[:1]) is None


def test_what_has_ended_has_no_time_left() -> None:
    assert left_s(a_look()) == pytest.approx(30)
    assert left_s(a_look(state=State.SUCCEEDED)) is None
    assert left_s(a_look(per_minute=None)) is None


# ---- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        (GAP, 60, [GAP]),
        (GAP, 15, ["rai/", "demographic_", "parity_", "difference/sex"]),
        ("abcdefgh", 3, ["abcdefgh"]),
    ],
)
def test_a_long_name_of_a_metric_is_broken_behind_its_separators(name: str, width: int, lines: list[str]) -> None:
    assert broken(name, width).split("\n") == lines


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000123456, "0.000123"), (3, "3"), (True, "true"), (None, "null"), ([32, 0.5], "[32,0.5]"), ("sgd", "sgd")],
)
def test_values_of_parameters_are_short(value: Any, text: str) -> None:
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({}, "40 trials, as many at a time as there is room for; tpe; no trial is stopped early"),
        (
            {"concurrency": 2, "hours": 1.5, "algorithm": "random"},
            "at most 2 at a time; random; no trial is stopped early; at most 1.5 h",
        ),
        (
            {"early_stopping": {"asha": {"max_resource": 20}}},
            "stopped early by ASHA: the best of every 3 go on, from step 1 to 20",
        ),
        ({"early_stopping": {"median": {}}}, "stopped early where worse than the median, after 5 steps"),
        (
            {"early_stopping": {"pbt": {"interval": 4}}},
            "every 4 steps good ones are continued in the place of bad ones",
        ),
        ({"plateau": {"trials": 9}}, "until 9 trials have not made it better"),
        ({"inherit": "abc"}, "after what sweep abc found"),
    ],
)
def test_how_a_space_is_searched_is_said_in_a_line(search: dict[str, Any], words: str) -> None:
    one = SearchSpec.model_validate({**SEARCH, "objectives": SEARCH["objectives"][:1], **search})
    assert words in described(one)


def test_every_kind_of_range_is_said_in_words() -> None:
    space = {
        "opt": {"choice": ["sgd", "adam"]},
        "momentum": {"uniform": [0, 1], "step": 0.25, "when": {"opt": ["sgd"]}},
        "size": {"log_int": [16, 1024]},
        "seed": {"choice": list(range(9))},
    }
    console = Console(width=160, record=True, file=io.StringIO())
    print_search(console, a_spec(space=space))
    text = " ".join(console.export_text().split())
    for part in (
        "one of sgd, adam",
        "momentum 0 1 evenly, in steps of 0.25; only where opt is sgd",
        "16 1024 whole numbers, by ratio",
    ):
        assert part in text
    assert "one of 0, 1, 2, 3, 4, 5, 3 more" in text
