"""Sweeps on the command line, against a small API: what is printed, what is asked for, and what scripts get."""

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fairlead.cli import app
from fairlead.cli.sweeps import read_point, sparkline
from fairlead.errors import BadInput
from fairlead.lifecycle import State
from fairlead.representation import MetricPointView, TrialDetail
from fairlead.search.trials import TrialState
from fairlead.testing.api import AT, TOKEN, FakeApi

GAP = "rai/demographic_parity_difference/sex"
SWEEP: dict[str, Any] = {
    "name": "risk",
    "workload": "tabular_mlp",
    "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]},
    "search": {
        "space": {"lr": {"log_uniform": [1e-3, 0.1]}, "hidden": {"choice": [[8], [16]]}},
        "objectives": [{"maximize": "validation/accuracy"}],
        "constraints": [f"{GAP} <= 0.1"],
        "trials": 4,
    },
}
Run = Callable[..., Result]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


@pytest.fixture
def run(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FAIRLEAD_URL", api.url)
    monkeypatch.setenv("FAIRLEAD_TOKEN", TOKEN)
    monkeypatch.delenv("FAIRLEAD_HOME", raising=False)

    def invoke(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=text)

    return invoke


@pytest.fixture
def sweep(run: Run) -> str:
    """A sweep's id."""
    return run("submit", "-q", "-", text=json.dumps(SWEEP)).stdout.strip()


def a_trial(no: int, state: str = "succeeded", *, accuracy: float = 0.7, gap: float = 0.05, **more: Any) -> TrialDetail:
    """A trial that began and ended ``no`` seconds after the others."""
    is_running = state == "running"
    values = {} if state == "failed" else {"validation/accuracy": accuracy, GAP: gap}
    given: dict[str, Any] = {
        "no": no,
        "state": TrialState(state),
        "params": {"lr": 0.01 * (no + 1), "hidden": [16]},
        "values": values,
        "last_step": 3,
        "attempt_no": 1,
        "started_at": AT + timedelta(seconds=no),
        "ended_at": None if is_running else AT + timedelta(seconds=no + 2),
    }
    return TrialDetail(**{**given, **more})


def four_trials(api: FakeApi, sweep: str) -> None:
    api.sweep(
        sweep,
        a_trial(0, accuracy=0.71),
        a_trial(1, accuracy=0.83, gap=0.3),
        a_trial(2, "failed", reason="user_error: ZeroDivisionError: division by zero", detail="Traceback\n[x] 1/0"),
        a_trial(3, accuracy=0.75),
        best=3,
        value=0.75,
    )


def await_follower(api: FakeApi, sweep: str) -> None:
    with api.changed:
        while not api.sent("GET", f"/v1/experiments/{sweep}/events"):
            api.changed.wait(timeout=0.05)


def words(text: str) -> str:
    return " ".join(text.split())


# ---- before it runs -------------------------------------------------------------------------------------------------


def test_a_plan_of_a_sweep_says_what_is_searched(run: Run) -> None:
    shown = words(run("plan", "-", text=json.dumps(SWEEP)).stdout)
    for part in ("4 trials, as many at a time as there is room for", "tpe", "no trial is stopped early"):
        assert part in shown
    for part in (
        "maximize validation/accuracy",
        f"only where {GAP} <= 0.1",
        "lr 0.001 0.1 by ratio",
        "one of [8], [16]",
    ):
        assert part in shown


def test_submit_says_so_beside_the_answer(run: Run) -> None:
    result = run("submit", "-", text=json.dumps(SWEEP))
    assert result.stdout == "exp0001 queued: admitted\n"
    assert "lr 0.001 0.1 by ratio" in words(result.stderr)


# ---- how it stands --------------------------------------------------------------------------------------------------


def test_a_list_shows_trials_and_the_best_value_instead_of_steps(run: Run, api: FakeApi, sweep: str) -> None:
    four_trials(api, sweep)
    assert "4/4 trials, best 0.7500" in run("list").stdout


def test_a_list_shows_no_verdict_where_there_are_no_gates(run: Run, api: FakeApi) -> None:
    run("submit", "-", text=json.dumps({**SWEEP, "search": None}))
    api.advance("exp0001", State.SUCCEEDED, report_outcome="pass")
    assert "pass" not in run("list").stdout


def test_show_tells_counts_the_best_and_what_failed(run: Run, api: FakeApi, sweep: str) -> None:
    four_trials(api, sweep)
    shown = words(run("show", sweep).stdout)
    for part in (
        "4 of 4 trials ended",
        "1 failed: 1 × user_error: ZeroDivisionError",
        "the best trial",
        "3 succeeded 3",
    ):
        assert part in shown
    assert json.loads(run("show", sweep, "--json").stdout)["sweep"]["best"] == 3


# ---- following ------------------------------------------------------------------------------------------------------


def test_watching_a_sweep_prints_a_line_a_trial_and_ends_with_the_best(run: Run, api: FakeApi, sweep: str) -> None:
    def goes_on() -> None:
        await_follower(api, sweep)
        four_trials(api, sweep)
        api.advance(sweep, State.SUCCEEDED, reason="4 trials")

    thread = threading.Thread(target=goes_on)
    thread.start()
    result = run("watch", sweep)
    thread.join()
    lines = words(result.stdout)
    assert result.exit_code == 0, result.output
    told = [line.split()[1] for line in result.stdout.splitlines() if re.match(r"trial \d", line)]
    assert told == ["0", "1", "2", "3"]
    assert "trial 1 succeeded validation/accuracy 0.8300 breaks a constraint lr=0.02 hidden=[16]" in lines
    assert "trial 2 failed user_error: ZeroDivisionError: division by zero" in lines
    assert "the best trial" in lines
    assert f"fairlead promote {sweep}" in result.stderr


def test_a_sweep_of_which_no_trial_keeps_the_constraints_exits_3_with_the_nearest(
    run: Run, api: FakeApi, sweep: str
) -> None:
    api.sweep(sweep, a_trial(0, gap=0.3), a_trial(1, gap=0.2), nearest=1)
    api.advance(sweep, State.SUCCEEDED, reason="no trial keeps all constraints; the nearest is 1")
    result = run("watch", sweep)
    assert (result.exit_code, "the nearest is" in result.stdout) == (3, True)
    assert "promote" not in result.stderr


def test_many_trials_at_once_are_one_line(run: Run, api: FakeApi, sweep: str) -> None:
    def goes_on() -> None:
        await_follower(api, sweep)
        api.sweep(sweep, *(a_trial(no) for no in range(300)), best=0)
        api.advance(sweep, State.SUCCEEDED)

    thread = threading.Thread(target=goes_on)
    thread.start()
    lines = run("watch", sweep).stdout.splitlines()
    thread.join()
    assert [line for line in lines if re.match(r"trial +\d", line)] == []
    assert any("300 of 4 trials ended" in line and "(trial 0)" in line for line in lines)
    asked = [request.path for request in api.requests if "/trials" in request.path]
    assert len(asked) < 10, asked


def test_trials_that_end_while_others_are_told_of_are_each_told_once(run: Run, api: FakeApi, sweep: str) -> None:
    def goes_on() -> None:
        await_follower(api, sweep)
        for no in range(4):
            api.sweep(sweep, a_trial(no), best=0)
            api.advance(sweep, State.RUNNING, reason=f"step {no}")
        api.advance(sweep, State.SUCCEEDED)

    thread = threading.Thread(target=goes_on)
    thread.start()
    lines = run("watch", sweep).stdout.splitlines()
    thread.join()
    assert [line.split()[1] for line in lines if re.match(r"trial \d", line)] == ["0", "1", "2", "3"]


# ---- trials ---------------------------------------------------------------------------------------------------------


def test_trials_are_listed_the_best_first(run: Run, api: FakeApi, sweep: str) -> None:
    four_trials(api, sweep)
    assert [one["no"] for one in json.loads(run("trials", sweep, "--json").stdout)] == [1, 3, 0, 2]
    assert [one["no"] for one in json.loads(run("trials", sweep, "--json", "--sort", "no").stdout)] == [0, 1, 2, 3]
    assert [one["no"] for one in json.loads(run("trials", sweep, "--json", "--state", "failed").stdout)] == [2]
    limited = run("trials", sweep, "-n", "1")
    assert ("0.8300" in limited.stdout, "1 of 4" in limited.stderr) == (True, True)
    assert run("trials", sweep, "--state", "tired").exit_code == 2


def test_all_trials_come_page_after_page(run: Run, api: FakeApi, sweep: str) -> None:
    api.sweep(sweep, *(a_trial(no) for no in range(1203)))
    assert len(json.loads(run("trials", sweep, "--all", "--json").stdout)) == 1203
    assert len(api.sent("GET", f"/v1/experiments/{sweep}/trials")) == 3


def test_trials_are_written_as_a_table_for_other_programs(run: Run, api: FakeApi, sweep: str, tmp_path: Path) -> None:
    four_trials(api, sweep)
    path = tmp_path / "trials.csv"
    assert "4 trials written" in run("trials", sweep, "--csv", str(path), "--sort", "no").stdout
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [row["params.hidden"] for row in rows] == ["[16]"] * 4
    assert [row["validation/accuracy"] for row in rows] == ["0.71", "0.83", "", "0.75"]
    here = csv.DictReader(io.StringIO(run("trials", sweep, "--csv", "-").stdout))
    assert [row["no"] for row in here] == ["1", "3", "0", "2"]
    assert "cannot be written" in run("trials", sweep, "--csv", str(tmp_path / "none" / "x.csv")).stderr


def test_a_sweep_without_trials_says_where_to_look(run: Run, sweep: str) -> None:
    result = run("trials", sweep)
    assert (result.stdout, f"fairlead show {sweep}" in result.stderr) == ("", True)


def test_one_trial_is_shown_with_all_that_is_known(run: Run, api: FakeApi, sweep: str) -> None:
    curve = tuple(MetricPointView(step=step, at_ms=0, value=value) for step, value in enumerate((0.5, 0.6, 0.7)))
    api.sweep(
        sweep,
        a_trial(
            0,
            gap=0.2,
            curves={"validation/accuracy": curve},
            metrics={"train/loss": 0.4, GAP: 0.2, f"{GAP}.lower95": 0.1, f"{GAP}.upper95": 0.3},
            links={"mlflow": "http://m"},
        ),
    )
    result = run("trial", sweep, "0")
    shown = words(result.stdout)
    for part in (
        "trial 0",
        "succeeded",
        "lr 0.01",
        "hidden [16]",
        "▁▅█ 0.5000 0.7000",
        "train/loss 0.4000",
        "http://m",
    ):
        assert part in shown, part
    assert f"{GAP} 0.2000 <= 0.1 no" in shown
    assert f"{GAP} 0.2000 0.10 to 0.30" in shown
    assert "upper95" not in shown
    assert f"fairlead logs {sweep} --trial 0" in result.stderr
    assert json.loads(run("trial", sweep, "0", "--json").stdout)["params"] == {"lr": 0.01, "hidden": [16]}


def test_a_failed_trial_shows_its_reason_and_its_last_words(run: Run, api: FakeApi, sweep: str) -> None:
    four_trials(api, sweep)
    shown = run("trial", sweep, "2").stdout
    assert ("ZeroDivisionError" in shown, "[x] 1/0" in shown) == (True, True)
    assert run("trial", sweep, "9").exit_code == 1


def test_the_log_of_a_trial_is_asked_for_by_its_number(run: Run, api: FakeApi, sweep: str) -> None:
    api.experiments[sweep].lines = ["one"]
    assert run("logs", sweep, "--trial", "3").stdout == "one\n"
    assert "trial=3" in api.requests[-1].path


@pytest.mark.parametrize("command", [("trials",), ("amend", "--add-trials", "3"), ("finish",), ("promote",)])
def test_what_is_no_sweep_has_no_trials(run: Run, command: tuple[str, ...]) -> None:
    run("submit", "-", text=json.dumps({**SWEEP, "search": None}))
    result = run(command[0], "exp0001", *command[1:])
    assert (result.exit_code, "is no sweep" in result.stderr) == (2, True)


# ---- amendments -----------------------------------------------------------------------------------------------------


def test_each_amendment_is_told_under_its_number(run: Run, api: FakeApi, sweep: str) -> None:
    result = run("amend", sweep, "--add-trials", "6", "--stop-trial", "0", "--enqueue", "lr=1e-3,hidden=[16]")
    assert result.stdout.splitlines() == [
        f"{sweep}: amendment 1: 6 more trials",
        f"{sweep}: amendment 2: trial 0 is to stop",
        f"{sweep}: amendment 3: next: lr=0.001, hidden=[16]",
    ]
    assert json.loads(api.requests[-1].body)["enqueue"] == {"lr": 0.001, "hidden": [16]}
    assert json.loads(run("amend", sweep, "--priority", "80", "--json").stdout)["no"] == 4
    assert "3 03:04:05 local enqueue lr=0.001 hidden=[16]" in re.sub(
        r"\d\d:0", "03:0", words(run("show", sweep).stdout)
    )


def test_an_amendment_of_nothing_says_what_there_is(run: Run, sweep: str) -> None:
    result = run("amend", sweep)
    assert (result.exit_code, "--add-trials" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("lr=0.01,hidden=[16]", {"lr": 0.01, "hidden": [16]}),
        ("lr=1e-3, hidden=[32,32]", {"lr": 0.001, "hidden": [32, 32]}),
        ("{lr: 0.01, hidden: [16]}", {"lr": 0.01, "hidden": [16]}),
        ('{"lr": 0.01}', {"lr": 0.01}),
        ("name='a, b=c',flag=true", {"name": "a, b=c", "flag": True}),
        ("optimizer=sgd", {"optimizer": "sgd"}),
    ],
)
def test_a_point_is_read_as_people_type_it(text: str, point: dict[str, Any]) -> None:
    assert read_point(text) == point


@pytest.mark.parametrize("text", ["", "lr", "3", "[1]", "lr=[1", "{1: 2}"])
def test_what_is_no_point_is_refused_before_anything_is_sent(text: str) -> None:
    with pytest.raises(BadInput):
        read_point(text)


def test_a_sweep_is_asked_to_finish(run: Run, api: FakeApi, sweep: str) -> None:
    api.sweep(sweep, a_trial(0, "running"))
    assert run("finish", sweep).stdout == f"{sweep}: asked to finish; no trial is begun any more, 1 still run\n"
    api.advance(sweep, State.SUCCEEDED)
    assert run("finish", sweep).exit_code == 1


# ---- what comes after -----------------------------------------------------------------------------------------------


def test_a_promoted_trial_is_an_experiment_of_its_own(run: Run, api: FakeApi, sweep: str) -> None:
    four_trials(api, sweep)
    api.advance(sweep, State.SUCCEEDED)
    result = run("promote", sweep, "--trial", "3", "--name", "chosen")
    assert result.stdout == "exp0002 queued: admitted\n"
    assert "trial 3 is taken as it is; it has no gates" in words(result.stderr)
    assert (api.experiments["exp0002"].view.name, api.experiments["exp0002"].view.derived_from) == ("chosen", sweep)
    assert "derived from: exp0001" in run("show", "exp0002").stdout
    again = run("promote", sweep, "--retrain")
    assert "the best trial is trained again" in words(again.stderr)
    assert json.loads(api.sent("POST", f"/v1/experiments/{sweep}/promote")[-1].body)["take"] is False


def test_an_ended_sweep_is_extended_and_followed(run: Run, api: FakeApi, sweep: str) -> None:
    def goes_on() -> None:
        with api.changed:
            assert api.changed.wait_for(lambda: "exp0002" in api.experiments, timeout=20)
        api.sweep("exp0002", a_trial(0), best=0)
        api.advance("exp0002", State.SUCCEEDED)

    api.advance(sweep, State.SUCCEEDED)
    thread = threading.Thread(target=goes_on)
    thread.start()
    result = run("extend", sweep, "--trials", "7", "--watch")
    thread.join()
    assert (result.exit_code, "the best trial" in result.stdout) == (0, True), result.output
    search = api.experiments["exp0002"].view.spec.search
    assert search is not None
    assert (search.trials, search.inherit) == (7, sweep)
    assert run("extend", sweep).exit_code == 2, "how many more is needed"


# ---- a curve in one line --------------------------------------------------------------------------------------------


def curve_of(*values: float | None) -> list[MetricPointView]:
    return [MetricPointView(step=step, at_ms=0, value=value) for step, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "line"),
    [((), ""), ((1.0,), "▁"), ((0.0, 1.0), "▁█"), ((0.0, None, 1.0), "▁ █"), ((None,), ""), ((2.0, 2.0), "▁▁")],
)
def test_a_curve_is_drawn_between_its_lowest_and_highest_value(values: tuple[float | None, ...], line: str) -> None:
    assert sparkline(curve_of(*values)) == line


def test_a_long_curve_keeps_its_first_and_last_value() -> None:
    drawn = sparkline(curve_of(*range(1000)))
    assert (len(drawn), drawn[0], drawn[-1]) == (40, "▁", "█")
