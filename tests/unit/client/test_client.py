"""The SDK against a small API on a real socket."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from fairlead import Client, Experiment, bundle
from fairlead.client import ExperimentCancelled, ExperimentFailed
from fairlead.client.transport import TRIES, Transport, server_events
from fairlead.errors import BadBundle, BadInput, BadSpec, Conflict, KeyReused, NotFound, Unauthorized, Unavailable
from fairlead.lifecycle import State
from fairlead.representation import TrialDetail
from fairlead.search.trials import TrialState
from fairlead.testing.api import FakeApi
from fairlead.testing.releases import saying_more

SPEC: dict[str, Any] = {
    "name": "risk",
    "workload": "tabular_mlp",
    "params": {"epochs": 2},
    "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]},
}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


@pytest.fixture
def client(api: FakeApi) -> Iterator[Client]:
    with Client(api.url, api.token) as client:
        client.transport._sleep = lambda _seconds: None
        yield client


def later(act: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=act, args=arguments)
    thread.start()
    return thread


def test_a_submitted_experiment_is_queued(client: Client) -> None:
    experiment = client.submit(SPEC)
    assert (experiment.state, experiment.view.name, experiment.done()) == (State.QUEUED, "risk", False)
    assert experiment.spec.params == {"epochs": 2}


def test_a_result_arrives_when_the_experiment_has_succeeded(api: FakeApi, client: Client) -> None:
    experiment = client.submit(SPEC)
    thread = later(api.succeed, experiment.id)
    result = experiment.result(timeout=20)
    thread.join()
    assert (result.state, result.metrics["test/auc"]) == (State.SUCCEEDED, 0.9)
    assert result.registration is not None
    assert (result.registration.is_registered, result.gates[0].outcome) == (True, "pass")


@pytest.mark.parametrize(
    ("state", "error"),
    [(State.FAILED, ExperimentFailed), (State.HELD, ExperimentFailed), (State.CANCELLED, ExperimentCancelled)],
)
def test_another_end_raises_with_the_reason(
    api: FakeApi, client: Client, state: State, error: type[ExperimentFailed]
) -> None:
    experiment = client.submit(SPEC)
    api.advance(experiment.id, state, reason="column 'age' is missing")
    with pytest.raises(error, match="column 'age' is missing") as caught:
        experiment.result(timeout=20)
    assert caught.value.experiment_id == experiment.id
    assert isinstance(caught.value, CancelledError) is (state is State.CANCELLED)


def test_waiting_can_end_before_the_experiment(client: Client) -> None:
    experiment = client.submit(SPEC)
    with pytest.raises(TimeoutError, match="has not ended yet"):
        experiment.result(timeout=0.3)


def test_cancel_cancels_once_and_again(client: Client) -> None:
    experiment = client.submit(SPEC)
    assert [experiment.cancel().state for _ in range(2)] == [State.CANCELLED, State.CANCELLED]


def test_what_has_succeeded_cannot_be_cancelled(api: FakeApi, client: Client) -> None:
    experiment = client.submit(SPEC)
    api.succeed(experiment.id)
    with pytest.raises(Conflict, match="is succeeded"):
        experiment.cancel()


def test_events_come_once_each_through_broken_streams(api: FakeApi, client: Client) -> None:
    experiment = client.submit(SPEC)
    api.stream_cuts = 3
    api.succeed(experiment.id)
    assert [event.seq for event in experiment.events()] == [1, 2, 3, 4, 5]
    assert [event.seq for event in experiment.events(after=3)] == [4, 5]
    assert [event.seq for event in experiment.events(after=3, follow=False)] == [4, 5]


def test_logs_are_lines_plain_or_live(api: FakeApi, client: Client) -> None:
    experiment = client.submit(SPEC)
    api.experiments[experiment.id].lines = ["one", "two", "three"]
    api.succeed(experiment.id)
    assert list(experiment.logs(tail=2)) == ["two", "three"]
    assert list(experiment.logs(follow=True)) == ["one", "two", "three"]


def test_the_report_comes_as_a_document_and_as_a_page(api: FakeApi, client: Client) -> None:
    experiment = client.submit(SPEC)
    with pytest.raises(NotFound, match="no report yet"):
        experiment.report()
    api.succeed(experiment.id)
    assert experiment.report()["schema"] == "rai-report/1"
    assert experiment.report_html().startswith("<!doctype html>")
    assert experiment.link().url.startswith(f"{api.url}/v1/experiments/{experiment.id}/report")


def test_the_same_key_gives_the_same_experiment(client: Client) -> None:
    first, second = (client.submit(SPEC, key="k") for _ in range(2))
    assert first.id == second.id
    with pytest.raises(KeyReused):
        client.submit({**SPEC, "name": "other"}, key="k")


@pytest.mark.parametrize("is_file", [True, False])
def test_an_evaluation_is_an_experiment(api: FakeApi, client: Client, tmp_path: Path, is_file: bool) -> None:
    (tmp_path / "p.csv").write_text("label,score\n")
    content = {"name": "scores", "uri": "p.csv" if is_file else "s3://b/p.csv", "columns": {"target": "y"}}
    (tmp_path / "evaluate.yaml").write_text(json.dumps(content))
    experiment = client.evaluate(tmp_path / "evaluate.yaml" if is_file else content)
    (request,) = api.sent("POST", "/v1/evaluations")
    where = str(tmp_path / "p.csv") if is_file else "s3://b/p.csv"
    assert json.loads(request.body)["uri"] == where
    assert (experiment.view.workload, experiment.spec.data.uri) == ("evaluation", where)
    assert experiment.spec.of_predictions.columns.target == "y"
    assert not experiment.spec.of_predictions.columns.is_named("prediction")


def test_an_evaluation_that_would_train_is_refused_before_anything_is_sent(api: FakeApi, client: Client) -> None:
    with pytest.raises(BadSpec, match=r"/params: params has no place in an evaluation: nothing is trained"):
        client.evaluate({"uri": "s3://b/p.csv", "params": {"epochs": 1}})
    assert not api.requests


def test_a_refused_try_is_repeated_with_the_same_key(api: FakeApi, client: Client) -> None:
    api.failures = [503, 503]
    client.submit(SPEC)
    keys = [request.headers["Idempotency-Key"] for request in api.sent("POST", "/v1/experiments")]
    assert (len(keys), len(set(keys)), len(api.experiments)) == (3, 1, 1)


def test_tries_end(api: FakeApi, client: Client) -> None:
    api.failures = [503] * 50
    with pytest.raises(Unavailable, match="told to fail"):
        client.submit(SPEC)
    assert len(api.requests) == TRIES


def test_an_address_that_nobody_answers_is_named() -> None:
    transport = Transport("http://127.0.0.1:1", None, sleep=lambda _seconds: None)
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1 does not answer"):
        transport.request("GET", "/v1/version")


def test_a_wrong_token_is_refused_with_the_request_id(api: FakeApi) -> None:
    with pytest.raises(Unauthorized) as caught, Client(api.url, "fl_wrong") as client:
        client.version()
    assert caught.value.__notes__ == ["request req-1"]


def test_problems_of_the_server_reach_the_caller(api: FakeApi, client: Client) -> None:
    with pytest.raises(BadInput) as caught:
        client.transport.request(
            "POST", "/v1/experiments", headers={"Idempotency-Key": "k"}, document={**SPEC, "wrkers": 1}
        )
    assert "/wrkers" in [problem.pointer for problem in caught.value.problems]


def test_a_misspelt_key_is_refused_before_anything_is_sent(api: FakeApi, client: Client) -> None:
    with pytest.raises(BadSpec, match="did you mean 'resources'"):
        client.submit({**SPEC, "resorces": {}})
    assert api.requests == []


def test_code_is_uploaded_once_and_named_by_content(api: FakeApi, client: Client, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.py").write_text("def train(params, context): ...\n")
    (tmp_path / "spec.yaml").write_text(json.dumps({**SPEC, "workload": "train:train", "code": "mine"}))
    experiments = [client.submit(tmp_path / "spec.yaml") for _ in range(2)]
    sha256 = bundle.pack(tmp_path / "mine").sha256
    assert [experiment.spec.code for experiment in experiments] == [f"sha256:{sha256}"] * 2
    assert len(api.sent("POST", "/v1/code-bundles")) == 1


def test_code_with_a_link_is_not_uploaded(api: FakeApi, client: Client, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(BadBundle, match="link is a symbolic link"):
        client.submit({**SPEC, "workload": "train:train"}, code=tmp_path)
    assert api.experiments == {}


def test_a_lock_is_uploaded_once_and_named_by_content(api: FakeApi, client: Client, tmp_path: Path) -> None:
    lock = f"einops==0.8.1 --hash=sha256:{'a' * 64}\n"
    (tmp_path / "requirements.lock").write_text(lock)
    (tmp_path / "spec.yaml").write_text(json.dumps({**SPEC, "environment": {"requirements": "requirements.lock"}}))
    environments = [client.submit(tmp_path / "spec.yaml").spec.environment for _ in range(2)]
    sha256 = bundle.pack_file("requirements.lock", lock.encode()).sha256
    assert [each and each.requirements for each in environments] == [f"sha256:{sha256}"] * 2
    assert bundle.only_file(api.bundles[sha256]) == lock.encode()
    assert len(api.sent("POST", "/v1/code-bundles")) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("einops\n", "requirements.lock, line 1: einops is not pinned to one version"),
        (None, "requirements.lock cannot be read: No such file or directory; make it with `uv pip compile"),
    ],
)
def test_a_lock_that_pins_nothing_is_not_uploaded(
    api: FakeApi, client: Client, tmp_path: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "requirements.lock").write_text(content)
    with pytest.raises(BadSpec, match=words) as caught:
        client.plan({**SPEC, "environment": {"requirements": str(tmp_path / "requirements.lock")}})
    assert [problem.pointer for problem in caught.value.problems] == ["/environment/requirements"]
    assert api.requests == []


def test_data_beside_the_spec_gets_an_absolute_path(client: Client, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    (tmp_path / "spec.yaml").write_text(json.dumps({**SPEC, "data": {"uri": "rows.csv"}}))
    assert client.submit(tmp_path / "spec.yaml").spec.data.uri == str(tmp_path / "rows.csv")


@pytest.mark.parametrize("text", ["a: [", "a: &x 1\nb: *x", "[1, 2]", "name: x"])
def test_a_spec_file_that_is_none_is_refused(client: Client, tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(BadSpec):
        client.submit(tmp_path / "spec.yaml")


def test_a_spec_file_that_is_not_there_is_named(client: Client) -> None:
    with pytest.raises(BadSpec, match=r"nowhere\.yaml cannot be read: No such file"):
        client.submit("nowhere.yaml")


def test_a_plan_queues_nothing(api: FakeApi, client: Client) -> None:
    plan = client.plan({**SPEC, "resources": {"workers": 8}})
    assert (plan.is_valid, plan.fits, plan.why) == (True, False, "needs 8 CPUs, the largest cluster has 2")
    assert api.experiments == {}


def test_a_list_goes_on_over_all_pages(client: Client) -> None:
    for number in range(5):
        client.submit({**SPEC, "name": f"e{number}"})
    assert [experiment.view.name for experiment in client.list(limit=2)] == ["e0", "e1", "e2", "e3", "e4"]
    assert list(client.list(state="running")) == []


def test_the_next_page_is_asked_of_the_same_server_whatever_it_says(api: FakeApi, client: Client) -> None:
    from fairlead.client.experiment import _below

    assert _below("https://elsewhere.example/v1/experiments?cursor=2") == "/v1/experiments?cursor=2"


def test_workloads_version_and_bearer_are_told(client: Client) -> None:
    assert [workload.name for workload in client.workloads()] == ["tabular_mlp"]
    assert client.workload("tabular_mlp").manifest.parameters["epochs"].default == 20
    assert (client.version().version, client.whoami().name) == ("0.1.0", "local")


def test_an_experiment_by_its_id(client: Client) -> None:
    experiment = client.submit(SPEC)
    assert isinstance(client.get(experiment.id), Experiment)
    with pytest.raises(NotFound):
        client.get("exp9999")


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("id: 1\ndata: a\n\n", [("message", "1", "a")]),
        (": ping\n\nevent: end\ndata: {}\n\n", [("end", "", "{}")]),
        ("event: end\n\n", [("end", "", "")]),
        ("data: a\ndata:b\nretry: 5\n\n", [("message", "", "a\nb")]),
        ("data: cut off\n", []),
    ],
)
def test_a_stream_is_read_message_by_message(text: str, events: list[tuple[str, str, str]]) -> None:
    assert [(event.name, event.id, event.data) for event in server_events(iter(text.splitlines()))] == events


def test_a_page_of_another_kind_is_still_an_error() -> None:
    from fairlead.client.errors import error_of

    error = error_of(httpx.Response(502, text="<html>bad gateway</html>"))
    assert (type(error), str(error)) == (Unavailable, "the server answered 502")


def test_a_released_experiment_has_moved_when_the_call_returns(api: FakeApi, client: Client) -> None:
    experiment = client.submit(SPEC)
    with pytest.raises(Conflict):
        experiment.release()
    api.advance(experiment.id, State.HELD, reason="poison")
    with pytest.raises(ExperimentFailed, match=f"fairlead release {experiment.id}"):
        experiment.result(timeout=5)
    assert experiment.release().state is State.QUEUED


def test_clusters_can_be_emptied_opened_and_given_up(api: FakeApi, client: Client) -> None:
    assert [cluster.name for cluster in client.clusters()] == ["local"]
    assert client.drain("local").state == "draining"
    assert client.activate("local").state == "active"
    assert client.retire("local", reason="sold").state == "retired"
    with pytest.raises(NotFound):
        client.drain("nowhere")


def test_what_a_newer_server_says_more_is_left_out(api: FakeApi, client: Client) -> None:
    api.translate = partial(saying_more, also=("spec", "manifest"))
    experiment = client.submit(SPEC)
    api.succeed(experiment.id)
    assert experiment.result(timeout=20).state is State.SUCCEEDED
    assert [event.seq for event in experiment.events()] == [1, 2, 3, 4, 5]
    assert (client.get(experiment.id).spec, len(list(client.list()))) == (experiment.spec, 1)
    assert client.plan(SPEC).is_valid
    assert (client.workloads()[0].name, client.clusters()[0].name) == ("tabular_mlp", "local")


def test_a_word_that_only_a_newer_release_knows_is_an_error_that_says_so(api: FakeApi, client: Client) -> None:
    api.translate = lambda content: content | {"state": "dreaming"}
    with pytest.raises(BadInput, match=r"/state.*install the release of the server"):
        client.submit(SPEC)


SWEEP: dict[str, Any] = {
    **SPEC,
    "data": {"uri": "builtin://diabetes"},
    "search": {"space": {"lr": {"uniform": [0.1, 1.0]}}, "objectives": [{"minimize": "loss"}], "trials": 9},
}


def trials_of(count: int) -> list[TrialDetail]:
    states = (TrialState.SUCCEEDED, TrialState.RUNNING)
    return [TrialDetail(no=no, state=states[no % 2], values={"loss": 1.0 / (no + 1)}) for no in range(count)]


def test_trials_come_page_after_page_in_the_order_asked_for(api: FakeApi, client: Client) -> None:
    sweep = client.submit(SWEEP)
    api.sweep(sweep.id, *trials_of(7), best=6)
    assert [one.no for one in sweep.trials(limit=2)] == list(range(7))
    assert [one.no for one in sweep.trials(sort="value", state="succeeded", limit=2)] == [6, 4, 2, 0]
    assert sweep.trial(3).values == {"loss": 0.25}
    stands = sweep.refresh().view.sweep
    assert stands is not None
    assert (stands.trials, stands.ended, stands.best) == (9, 4, 6)


def test_a_sweep_is_amended_while_it_runs_by_one_change_at_a_time(api: FakeApi, client: Client) -> None:
    sweep = client.submit(SWEEP)
    assert sweep.amend(add_trials=5).kind == "add_trials"
    assert sweep.amend(enqueue={"lr": 0.5}).no == 2
    (first, _) = api.sent("POST", f"/v1/experiments/{sweep.id}/amendments")
    assert json.loads(first.body) == {"add_trials": 5}
    assert first.headers["Idempotency-Key"]
    assert sweep.finish().id == sweep.id
    for change in ({}, {"add_trials": 1, "priority": 2}, {"more": 1}):
        with pytest.raises(BadSpec):
            sweep.amend(**change)


def test_what_comes_of_a_sweep_is_an_experiment_that_names_it(api: FakeApi, client: Client) -> None:
    sweep = client.submit(SWEEP)
    api.sweep(sweep.id, *trials_of(3), best=2)
    with pytest.raises(Conflict):
        sweep.promote()
    api.succeed(sweep.id)
    promoted = sweep.promote(trial=2, take=True, name="winner")
    assert (promoted.view.derived_from, promoted.view.name) == (sweep.id, "winner")
    assert promoted.spec.start_from is not None
    assert promoted.spec.start_from.trial == 2
    longer = sweep.extend(20)
    assert longer.spec.search is not None
    assert (longer.spec.search.trials, longer.spec.search.inherit) == (20, sweep.id)


def test_the_log_of_one_trial_is_asked_for_by_its_number(api: FakeApi, client: Client) -> None:
    sweep = client.submit(SWEEP)
    api.experiments[sweep.id].lines = ["hello"]
    assert list(sweep.logs(trial=4)) == ["hello"]
    assert "trial=4" in api.requests[-1].path
