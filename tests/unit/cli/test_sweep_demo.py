"""``fairlead demo sweep`` against a small API: what it shows and leaves, without a stack."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlead.cli.local import ready_spec
from fairlead.cli.sweep_demo import SWEEP, run_sweep
from fairlead.client import Client
from fairlead.lifecycle import State
from fairlead.representation import TrialDetail
from fairlead.search.trials import TrialState
from fairlead.spec import ExperimentSpec, from_yaml
from fairlead.testing.api import AT, TOKEN, FakeApi, a_report

Change = Callable[[FakeApi, str], None]


def a_trial(no: int) -> TrialDetail:
    values = {"validation/accuracy": 0.7 + no / 100, "rai/demographic_parity_difference/sex": no / 100}
    params = {"lr": 0.01, "dropout": 0.1, "weight_decay": 0.1, "hidden": [16]}
    return TrialDetail(
        no=no, state=TrialState.SUCCEEDED, params=params, values=values, last_step=20, started_at=AT, ended_at=AT
    )


def succeeds(api: FakeApi, sweep: str) -> None:
    api.sweep(sweep, a_trial(0), a_trial(1), front=(0, 1))
    api.experiments[sweep].report = a_report()
    api.advance(sweep, State.SUCCEEDED)


def fails(api: FakeApi, sweep: str) -> None:
    api.experiments[sweep].lines = ["the data are gone"]
    api.advance(sweep, State.FAILED, reason="too_many_failed: 21 of 40")


def shown(tmp_path: Path, change: Change, *, as_json: bool = False) -> int:
    with FakeApi() as api, Client(api.url, TOKEN) as client:

        def goes_on() -> None:
            with api.changed:
                assert api.changed.wait_for(lambda: "exp0001" in api.experiments, timeout=20)
            change(api, "exp0001")

        thread = threading.Thread(target=goes_on)
        thread.start()
        try:
            return run_sweep(client, ready_spec(SWEEP), tmp_path / "pages", as_json=as_json)
        finally:
            thread.join()


def test_the_demonstration_shows_the_front_and_where_the_page_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(tmp_path, succeeds) == 0
    text = " ".join(capsys.readouterr().out.split())
    page = tmp_path / "pages" / "sweep.html"
    assert page.read_text().startswith("<!doctype html>")
    for part in ("diabetes-sweep succeeded after", "the Pareto front: 2 trials", str(page), "fairlead promote exp0001"):
        assert part in text


def test_with_json_its_last_line_is_the_experiment_and_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(tmp_path, succeeds, as_json=True) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["state"], last["sweep"]["front"]) == ("succeeded", [0, 1])
    assert last["page"] == str((tmp_path / "pages" / "sweep.html").resolve())


def test_a_sweep_that_fails_says_why_and_what_was_printed_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(tmp_path, fails) == 1
    text = capsys.readouterr().out
    assert ("too_many_failed: 21 of 40" in text, "the data are gone" in text) == (True, True)
    assert not (tmp_path / "pages").exists()


def test_the_ready_sweep_looks_at_what_is_measured() -> None:
    spec = from_yaml(ExperimentSpec, ready_spec(SWEEP).read_text(encoding="utf-8"))
    assert spec.search is not None
    assert (spec.search.trials, len(spec.search.objectives), spec.mitigation) == (40, 2, None)
    assert spec.data.split.validation >= 0.3
    assert set(spec.evaluation.groupings) >= {("sex",)}
