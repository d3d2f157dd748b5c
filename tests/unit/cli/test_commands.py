"""The command line against a small API: what is printed where, and which exit code scripts get."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fairlead.cli import app
from fairlead.evaluation import build_report, report_bytes
from fairlead.evaluation.signing import public_key, signed
from fairlead.lifecycle import Observation, State
from fairlead.representation import AttemptView, ClusterView, NodeView, ReportKeyView
from fairlead.spec import EvaluationSpec
from fairlead.testing.api import AT, TOKEN, FakeApi
from fairlead.testing.evaluation import a_provenance, example_state

SPEC: dict[str, Any] = {
    "name": "risk",
    "workload": "tabular_mlp",
    "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]},
}
Run = Callable[..., Result]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "spec.yaml").write_text(json.dumps(SPEC))
    return str(tmp_path / "spec.yaml")


@pytest.fixture
def run(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FAIRLEAD_URL", api.url)
    monkeypatch.setenv("FAIRLEAD_TOKEN", TOKEN)
    monkeypatch.delenv("FAIRLEAD_HOME", raising=False)

    def invoke(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=text)

    return invoke


def test_submit_prints_the_id_and_how_to_go_on(run: Run, spec: str) -> None:
    result = run("submit", spec)
    assert (result.exit_code, result.stdout) == (0, "exp0001 queued: admitted\n")
    assert "fairlead watch exp0001" in result.stderr


def test_submit_quietly_prints_the_id_only(run: Run, spec: str) -> None:
    assert run("submit", "-q", spec).stdout == "exp0001\n"


def test_submit_reads_standard_input(run: Run, api: FakeApi) -> None:
    result = run(
        "submit", "-", "--json", text="name: piped\nworkload: tabular_mlp\ndata: {uri: 'builtin://diabetes'}\n"
    )
    assert (result.exit_code, json.loads(result.stdout)["name"], result.stderr) == (0, "piped", "")


def test_a_key_submits_once(run: Run, spec: str, api: FakeApi) -> None:
    assert {run("submit", "-q", "--key", "k", spec).stdout for _ in range(2)} == {"exp0001\n"}
    assert len(api.experiments) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nworkloda: y\n", "did you mean 'workload'"),
        ("name: x\nworkload: y\ndata: {uri: a, split: {train: 0.9}}\n", "/data/split"),
        ("a: [", "this is not YAML"),
        ("a: &b 1\nc: *b\n", "aliases"),
    ],
)
@pytest.mark.parametrize("command", ["submit", "plan"])
def test_a_bad_spec_names_the_field_and_exits_2(run: Run, command: str, text: str, message: str) -> None:
    result = run(command, "-", text=text)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_with_json_an_error_is_json_on_standard_error(run: Run) -> None:
    result = run("submit", "-", "--json", text="name: x\nworkloda: y\n")
    errors = json.loads(result.stderr)["errors"]
    assert (result.exit_code, result.stdout) == (2, "")
    assert {"/workloda", "/workload"} == {error["pointer"] for error in errors}


def test_a_missing_spec_file_exits_2(run: Run) -> None:
    assert (run("submit", "nowhere.yaml").exit_code, run("submit").exit_code) == (2, 2)


@pytest.mark.parametrize(("gate", "code"), [("pass", 0), ("fail", 3), ("inconclusive", 3)])
def test_watching_ends_with_the_gates_verdict(run: Run, spec: str, api: FakeApi, gate: str, code: int) -> None:
    identity = run("submit", "-q", spec).stdout.strip()
    thread = threading.Thread(target=api.succeed, args=(identity,), kwargs={"gate": gate})
    thread.start()
    result = run("watch", identity)
    thread.join()
    assert result.exit_code == code
    assert "succeeded" in result.stdout
    assert ("registered risk version 1" in result.stdout) is (gate == "pass")


@pytest.mark.parametrize(("state", "code"), [(State.FAILED, 1), (State.CANCELLED, 1), (State.HELD, 1)])
def test_watching_another_end_exits_1_with_the_reason(
    run: Run, spec: str, api: FakeApi, state: State, code: int
) -> None:
    identity = run("submit", "-q", spec).stdout.strip()
    api.advance(identity, state, reason="the disk is full")
    result = run("watch", identity)
    assert result.exit_code == code
    assert f"{identity} {state}: the disk is full" in result.stdout
    assert f"fairlead logs {identity}" in result.stderr


def test_submit_can_watch_at_once_in_json_lines(run: Run, spec: str, api: FakeApi) -> None:
    def succeed_when_there() -> None:
        with api.changed:
            api.changed.wait_for(lambda: api.experiments, timeout=20)
        api.succeed("exp0001")

    thread = threading.Thread(target=succeed_when_there)
    thread.start()
    result = run("submit", "--watch", "--json", spec)
    thread.join()
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["to_state"] for line in lines[:-1]] == ["queued", "placed", "running", "evaluating", "succeeded"]
    assert (result.exit_code, lines[-1]["registration"]["version"]) == (0, "1")


def test_a_plan_says_whether_it_fits(run: Run, spec: str, api: FakeApi) -> None:
    assert "valid, fits now: cluster local has 2 CPUs" in run("plan", spec).stdout
    large = run("plan", "-", text=json.dumps({**SPEC, "resources": {"workers": 8}}))
    assert (large.exit_code, "would wait: needs 8 CPUs" in large.stdout) == (0, True)
    assert json.loads(run("plan", "--json", spec).stdout)["is_valid"] is True
    assert api.experiments == {}


def test_a_list_filters_and_ends_at_its_limit(run: Run, spec: str, api: FakeApi) -> None:
    for _ in range(3):
        run("submit", spec)
    api.succeed("exp0002")
    assert [view["id"] for view in json.loads(run("list", "--json", "-n", "2").stdout)] == ["exp0001", "exp0002"]
    assert [view["id"] for view in json.loads(run("list", "--json", "--state", "succeeded").stdout)] == ["exp0002"]
    assert "exp0003" in run("list").stdout


def test_an_empty_list_says_what_to_do(run: Run) -> None:
    result = run("list")
    assert (result.stdout, "fairlead submit" in result.stderr) == ("", True)


def test_show_tells_state_gates_and_version(run: Run, spec: str, api: FakeApi) -> None:
    run("submit", spec)
    api.succeed("exp0001")
    text = run("show", "exp0001", "--events").stdout
    for expected in ("succeeded", "test/auc", "dp-sex", "pass", "registered risk version 1", "running → evaluating"):
        assert expected in text
    assert json.loads(run("show", "exp0001", "--json").stdout)["state"] == "succeeded"


def test_cancel_tells_how_it_stands(run: Run, spec: str) -> None:
    run("submit", spec)
    assert run("cancel", "exp0001").stdout == "exp0001: asked to cancel, now cancelled\n"


def test_what_has_ended_cannot_be_cancelled(run: Run, spec: str, api: FakeApi) -> None:
    run("submit", spec)
    api.succeed("exp0001")
    result = run("cancel", "exp0001")
    assert (result.exit_code, "is succeeded" in result.stderr) == (1, True)


def test_logs_are_printed_as_they_are(run: Run, spec: str, api: FakeApi) -> None:
    run("submit", spec)
    api.experiments["exp0001"].lines = ["one", "[red]two[/]", "three"]
    api.succeed("exp0001")
    assert run("logs", "exp0001", "-n", "2").stdout == "[red]two[/]\nthree\n"
    assert run("logs", "exp0001", "-f").stdout == "one\n[red]two[/]\nthree\n"
    assert json.loads(run("logs", "exp0001", "--json", "-n", "1").stdout) == {"line": "three"}


def test_the_report_is_a_table_a_document_a_page_or_a_link(run: Run, spec: str, api: FakeApi, tmp_path: Path) -> None:
    run("submit", spec)
    api.succeed("exp0001")
    text = run("report", "exp0001").stdout
    for expected in ("outcome pass", "By sex", "0.3700 0.27 to 0.47", "demographic_parity_difference", "dp-sex"):
        assert expected in text
    assert json.loads(run("report", "exp0001", "--json").stdout)["schema"] == "rai-report/1"
    page = tmp_path / "page.html"
    assert run("report", "exp0001", "--html", str(page)).stdout.strip() == str(page)
    assert page.read_text().startswith("<!doctype html>")
    assert run("report", "exp0001", "--link").stdout.startswith(api.url)
    assert run("report", "exp0001", "--profile", "four_fifths").stdout == "# four_fifths\n"
    wrong = run("report", "exp0001", "--profile", "iso")
    assert (wrong.exit_code, "there are four_fifths, nyc_ll144" in " ".join(wrong.stderr.split())) == (2, True)


def a_report_file(path: Path, *, seed: bytes) -> Path:
    evaluation = EvaluationSpec(groupings="all")
    report = build_report(example_state(), provenance=a_provenance(), evaluation=evaluation)
    path.write_bytes(report_bytes(signed(report, seed)))
    return path


def test_a_report_in_a_file_is_shown_like_one_on_a_server(run: Run, tmp_path: Path) -> None:
    path = a_report_file(tmp_path / "report.json", seed=bytes(32))
    assert "By sex" in run("report", str(path)).stdout
    assert json.loads(run("report", str(path), "--json").stdout)["schema"] == "rai-report/1"
    assert "Below four fifths" in run("report", str(path), "--profile", "four_fifths").stdout
    page = tmp_path / "page.html"
    assert run("report", str(path), "--html", str(page)).exit_code == 0
    assert "fairlead verify report.json" in page.read_text()
    assert "a file has no address" in run("report", str(path), "--link").stderr
    assert "cannot be read" in run("report", str(tmp_path / "none.json")).stderr
    (tmp_path / "other.json").write_text("{}")
    assert "is no report" in run("report", str(tmp_path / "other.json")).stderr


def test_verify_says_by_whom_a_report_is_signed_and_whether_it_is_unchanged(
    run: Run, api: FakeApi, tmp_path: Path
) -> None:
    path = a_report_file(tmp_path / "report.json", seed=bytes(32))
    key = public_key(bytes(32))
    answer = run("verify", str(path), "--key", key["public_key"])
    assert (answer.exit_code, f"signed by the key given (key {key['key_id']})" in answer.stdout) == (0, True)
    assert json.loads(run("verify", str(path), "--key", key["public_key"], "--json").stdout)["is_valid"]
    other = run("verify", str(path), "--key", public_key(bytes(range(32)))["public_key"])
    assert (other.exit_code, "signed with another key" in other.stderr) == (2, True)
    api.report_key = ReportKeyView(**key)
    assert f"signed by the server at {api.url}" in " ".join(run("verify", str(path)).stdout.split())
    api.report_key = None
    assert "give the key with --key" in run("verify", str(path)).stderr
    path.write_text(path.read_text().replace('"n": 2000', '"n": 2001'))
    changed = run("verify", str(path), "--key", key["public_key"])
    assert (changed.exit_code, "changed afterwards" in changed.stderr) == (2, True)


def test_open_writes_a_private_file_and_says_when_there_is_no_browser(
    run: Run, spec: str, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    run("submit", spec)
    api.succeed("exp0001")
    result = run("report", "exp0001", "--open")
    path = Path(result.stdout.strip())
    assert (opened, path.parent.stat().st_mode & 0o777) == ([path.as_uri()], 0o700)
    assert "no browser was found" in result.stderr
    path.unlink()
    path.parent.rmdir()


def test_an_experiment_without_a_report_says_so(run: Run, spec: str) -> None:
    run("submit", spec)
    result = run("report", "exp0001")
    assert (result.exit_code, "no report yet" in result.stderr) == (1, True)


@pytest.mark.parametrize("command", ["show", "watch", "logs", "cancel", "report"])
def test_an_unknown_id_exits_1_with_advice(run: Run, command: str) -> None:
    result = run(command, "exp9999")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "fairlead list" in result.stderr


def test_workloads_are_listed_and_shown(run: Run) -> None:
    assert "tabular_mlp" in run("workloads").stdout
    assert json.loads(run("workloads", "--json").stdout)[0]["name"] == "tabular_mlp"
    shown = run("workloads", "show", "tabular_mlp").stdout
    assert ("epochs" in shown, "from 1" in shown, "passes over the rows" in shown) == (True, True, True)


def test_the_schema_is_json_schema(run: Run) -> None:
    assert json.loads(run("schema").stdout)["$schema"].startswith("https://json-schema.org")


def test_versions_of_both_ends_are_told(run: Run) -> None:
    assert json.loads(run("version", "--json").stdout)["server"]["protocol"] == 1
    assert run("--version").stdout == "0.1.0\n"


def test_without_an_api_the_exit_code_is_4_and_the_way_to_one_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("FAIRLEAD_URL", "FAIRLEAD_TOKEN", "FAIRLEAD_HOME"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(app, ["--home", str(tmp_path), "list"])
    assert (result.exit_code, "start one with 'fairlead up" in result.stderr) == (4, True)


def test_the_fairness_demonstration_takes_no_other_spec(run: Run, spec: str) -> None:
    result = run("demo", "fairness", "--spec", spec)
    assert (result.exit_code, "has specs of its own" in result.stderr) == (2, True)
    assert run("demo", "magic").exit_code == 2


def test_a_refused_token_exits_4(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_TOKEN", "fl_other")
    result = run("list")
    assert (result.exit_code, "FAIRLEAD_TOKEN" in result.stderr) == (4, True)


def test_every_command_explains_itself(run: Run) -> None:
    looking = ["watch", "logs", "list", "show", "report", "workloads", "schema", "version"]
    commands = ["up", "demo", "submit", "plan", "cancel", *looking]
    assert "Exit codes" in run("--help").stdout
    assert [run(command, "--help").exit_code for command in commands] == [0] * len(commands)


# ---- what operators decide ------------------------------------------------------------------------------------------


def test_an_experiment_is_paused_resumed_and_released(run: Run, spec: str, api: FakeApi) -> None:
    identity = run("submit", "-q", spec).stdout.strip()
    assert run("pause", identity).stdout == f"{identity}: asked to pause, now paused\n"
    assert run("resume", identity).stdout == f"{identity}: asked to resume, now queued\n"
    refused = run("release", identity)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "queued" in refused.stderr
    api.advance(identity, State.HELD, reason="poison: three deaths")
    released = run("release", identity, "--json")
    assert (released.exit_code, json.loads(released.stdout)["state"]) == (0, "queued")


def test_an_attempt_is_declared_lost_with_a_reason(run: Run, spec: str, api: FakeApi) -> None:
    identity = run("submit", "-q", spec).stdout.strip()
    here = ("declare-lost", identity, "--attempt", "1", "--reason", "the machine was sold")
    assert run(*here).exit_code == 1, "there is no such attempt"
    attempt = AttemptView(attempt_no=1, cluster="local", observation=Observation.PRESENT, created_at=AT)
    api.advance(identity, State.RUNNING, attempts=(attempt,))
    refused = run(*here)
    assert (refused.exit_code, "at work" in refused.stderr) == (1, True)
    assert "attempt 1 on cluster local is declared lost" in run(*here, "--force").stdout
    assert json.loads(run(*here, "--force", "--json").stdout)["declared_lost_by"] == "local"
    assert run("declare-lost", identity, "--attempt", "1").exit_code == 2, "a reason is needed"


def test_clusters_are_listed_with_why_one_gets_no_work(run: Run, api: FakeApi) -> None:
    far = {"why": "suspect: three were lost", "nodes": 3, "nodes_excluded": 1}
    api.clusters["far"] = ClusterView(name="far", state="suspect", is_agent_fresh=False, **far)
    shown = run("clusters").stdout
    assert all(
        text in shown for text in ("local", "active", "answers", "far", "silent", "3, 1 excluded", "three were lost")
    )
    assert [one["name"] for one in json.loads(run("clusters", "--json").stdout)] == ["local", "far"]


def test_a_cluster_is_drained_opened_and_given_up(run: Run, api: FakeApi) -> None:
    assert run("cluster", "drain", "local").stdout == "local: now draining\n"
    assert json.loads(run("cluster", "activate", "local", "--json").stdout)["state"] == "active"
    api.clusters["local"] = api.clusters["local"].model_copy(update={"open_attempts": 2})
    refused = run("cluster", "retire", "local", "--reason", "sold")
    assert (refused.exit_code, "2 open attempts" in refused.stderr) == (1, True)
    assert "now retired" in run("cluster", "retire", "local", "--reason", "sold", "--force").stdout
    assert run("cluster", "drain", "nowhere").exit_code == 1


def test_a_cluster_gets_labels_and_loses_them(run: Run) -> None:
    assert run("cluster", "label", "local", "gpu=h100", "zone=a").stdout == "local: gpu=h100, zone=a\n"
    assert "gpu=h100" in run("clusters").stdout
    assert json.loads(run("cluster", "label", "local", "gpu=", "--json").stdout)["labels"] == {"zone": "a"}
    assert run("cluster", "label", "local", "zone=").stdout == "local: no labels\n"
    assert run("cluster", "label", "local", "gpu").exit_code == 2
    assert run("cluster", "label", "nowhere", "gpu=h100").exit_code == 1


# ---- nodes ----------------------------------------------------------------------------------------------------------


def with_nodes(api: FakeApi) -> None:
    api.clusters["far"] = ClusterView(name="far", state="active", is_agent_fresh=True)
    for cluster, node_id in (("local", "aa11" * 14), ("local", "ab22" * 14), ("far", "aa33" * 14)):
        api.nodes.append(NodeView(cluster=cluster, node_id=node_id, is_alive=True, cpus=4, gpus=1))


def test_nodes_are_listed_of_one_cluster_or_of_all(run: Run, api: FakeApi) -> None:
    assert run("nodes").stderr == "No agent has told of a node.\n"
    with_nodes(api)
    api.nodes[1] = api.nodes[1].model_copy(update={"is_excluded": True, "why": "it burns", "excluded_at": AT})
    shown = run("nodes").stdout
    assert all(text in shown for text in ("aa11aa11aa11", "ab22ab22ab22", "far", "in use", "excluded", "it burns"))
    assert "aa33" not in run("nodes", "--cluster", "local").stdout
    assert len(json.loads(run("nodes", "--json").stdout)) == 3
    assert run("nodes", "--cluster", "nowhere").exit_code == 1


def test_a_node_is_excluded_and_readmitted_by_the_beginning_of_its_id(run: Run, api: FakeApi) -> None:
    with_nodes(api)
    result = run("nodes", "exclude", "ab", "--why", "it burns")
    assert result.stdout == "ab22ab22ab22 of local: now excluded: it burns\n"
    assert [node.is_excluded for node in api.nodes] == [False, True, False]
    assert json.loads(api.requests[-1].body) == {"reason": "it burns"}
    assert run("nodes", "readmit", "ab22" * 14).stdout == "ab22ab22ab22 of local: now in use\n"
    assert run("nodes", "exclude", "aa", "--why", "which?", "--cluster", "far").exit_code == 0
    assert [node.is_excluded for node in api.nodes] == [False, False, True]
    several = run("nodes", "readmit", "aa")
    assert (several.exit_code, "ids of 2 nodes begin with 'aa'" in several.stderr) == (1, True)
    for unknown in ("ac", ""):
        assert run("nodes", "readmit", unknown).exit_code == 1
    assert run("nodes", "exclude", "ab").exit_code == 2, "a reason is needed"


# ---- the queue ------------------------------------------------------------------------------------------------------


def test_the_queue_is_a_table_with_places_reasons_and_estimates(run: Run) -> None:
    result = run("queue")
    assert result.exit_code == 0
    for part in ("1", "exp0001", "risk", "2 CPUs, 1 GPUs", "5 min", "in 10 min", "resources_in_use: needs 2 CPUs"):
        assert part in result.stdout
    assert "2 wait in all" in result.stderr
    assert run("queue", "--project", "empty").stderr == "Nobody waits.\n"
    assert json.loads(run("queue", "--json").stdout)["items"][0]["position"] == 1


def test_why_says_who_is_ahead_the_nearest_first(run: Run, spec: str) -> None:
    run("submit", spec)
    result = run("why", "exp0001")
    assert result.stdout.splitlines() == [
        "exp0001: queued: behind_others: exp0000 is ahead",
        "place 3 of 9, behind exp0000, exp0002",
        "might start: – (too far off to tell)",
    ]
    assert json.loads(run("why", "exp0001", "--json").stdout)["code"] == "behind_others"


def test_a_quota_is_shown_and_a_bad_limit_is_refused_before_it_is_sent(run: Run, api: FakeApi) -> None:
    result = run("projects", "quota", "default")
    assert "weight 2; recent use 1.5 CPU hours" in result.stdout
    assert json.loads(run("projects", "quota", "default", "--json").stdout)["gpus"] == 8
    assert run("projects", "quota", "default", "--set", "gpus=4", "--set", "cpus=").exit_code == 0
    assert json.loads(api.requests[-1].body) == {"gpus": 4.0, "cpus": None}
    for bad in ("gpu=4", "gpus", "gpus=many"):
        assert run("projects", "quota", "default", "--set", bad).exit_code == 2


# ---- evaluations ----------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluation(tmp_path: Path) -> str:
    (tmp_path / "evaluate.yaml").write_text("{name: credit, columns: {target: y}, evaluation: {groupings: [[sex]]}}")
    return str(tmp_path / "evaluate.yaml")


def test_an_evaluation_on_a_cluster_prints_the_id_and_how_to_go_on(run: Run, api: FakeApi, evaluation: str) -> None:
    arguments = ("evaluate", "s3://b/p.parquet", "--spec", evaluation, "--on-cluster")
    result = run(*arguments, "--workers", "3", "--project", "bank")
    assert (result.exit_code, result.stdout) == (0, "exp0001 queued: admitted\n")
    assert "fairlead watch exp0001" in result.stderr
    (request,) = api.sent("POST", "/v1/evaluations")
    sent = json.loads(request.body)
    assert (sent["uri"], sent["project"], sent["resources"]["workers"]) == ("s3://b/p.parquet", "bank", 3)
    assert {run(*arguments, "-q", "--key", "k").stdout for _ in range(2)} == {"exp0002\n"}
    assert json.loads(run(*arguments, "--json").stdout)["workload"] == "evaluation"


def test_a_path_is_sent_whole(
    run: Run, api: FakeApi, evaluation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "p.csv", "--spec", evaluation, "--on-cluster").exit_code == 0
    (request,) = api.sent("POST", "/v1/evaluations")
    assert json.loads(request.body)["uri"] == str(tmp_path / "p.csv")


@pytest.mark.parametrize(("gate", "code"), [("pass", 0), ("fail", 3), ("inconclusive", 3)])
def test_an_evaluation_that_is_followed_ends_as_submit_does(
    run: Run, api: FakeApi, evaluation: str, gate: str, code: int
) -> None:
    ends = threading.Thread(target=_end_when_there, args=(api, gate))
    ends.start()
    result = run("evaluate", "s3://b/p.csv", "--spec", evaluation, "--on-cluster", "--watch", "--json")
    ends.join()
    last = json.loads(result.stdout.splitlines()[-1])
    assert (result.exit_code, last["state"], last["report_outcome"]) == (code, "succeeded", gate), result.output


def _end_when_there(api: FakeApi, gate: str) -> None:
    with api.changed:
        assert api.changed.wait_for(lambda: "exp0001" in api.experiments, timeout=20)
    api.succeed("exp0001", gate=gate)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["p.csv", "q.csv", "--on-cluster"], "one file, directory or address"),
        (["p.csv", "--on-cluster", "-o", "there"], "--output is for an evaluation here"),
        (["p.csv", "--workers", "2"], "--workers needs --on-cluster"),
        (["p.csv", "--watch"], "--watch needs --on-cluster"),
    ],
)
def test_options_of_the_other_place_are_refused(
    run: Run, api: FakeApi, evaluation: str, arguments: list[str], named: str
) -> None:
    result = run("evaluate", *arguments, "--spec", evaluation)
    assert (result.exit_code, named in " ".join(result.stderr.split())) == (2, True), result.output
    assert not api.requests
