from typing import Any
from urllib.parse import urlsplit

import pytest

from fairlead.control.sweeps import write_sweep
from fairlead.evaluation import build_report, report_bytes
from fairlead.evaluation.signing import signed, verify
from fairlead.secret_key import report_seed
from fairlead.spec import EvaluationSpec
from fairlead.testing.evaluation import a_provenance, example_state
from fairlead.testing.sweeps import LOSS, a_sweep, a_sweep_report, sweep_trials
from fairlead_api.pages import encode_token


@pytest.fixture
def reported(small_bench: Any, spec: dict[str, Any]) -> str:
    """An experiment with a report, as the control loops leave it."""
    experiment_id = small_bench.submit(spec)["id"]
    directory = small_bench.settings.storage / "default" / experiment_id / "report"
    directory.mkdir(parents=True)
    (directory / "report.json").write_text('{"outcome": "pass"}')
    (directory / "report.html").write_text("<!doctype html><title>report</title><script>evil()</script>")
    return str(experiment_id)


def test_a_report_is_json_or_a_page_without_scripts(small_bench: Any, reported: str) -> None:
    path = f"/v1/experiments/{reported}/report"
    assert small_bench.user.get(path).json() == {"outcome": "pass"}
    page = small_bench.user.get(path, headers={"Accept": "text/html,application/json;q=0.9"})
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "sandbox" in policy


def test_a_profile_is_another_layout_of_the_same_report(small_bench: Any, reported: str) -> None:
    report = build_report(example_state(), provenance=a_provenance(), evaluation=EvaluationSpec(groupings="all"))
    directory = small_bench.settings.storage / "default" / reported / "report"
    (directory / "report.json").write_bytes(report_bytes(report))
    path = f"/v1/experiments/{reported}/report"
    answer = small_bench.user.get(path, params={"profile": "four_fifths"})
    assert answer.headers["content-type"].startswith("text/markdown")
    assert "Below four fifths" in answer.text
    answer = small_bench.user.get(path, params={"profile": "cyclonedx"})
    assert answer.headers["content-type"].startswith("application/vnd.cyclonedx+json")
    assert answer.json()["bomFormat"] == "CycloneDX"
    answer = small_bench.user.get(path, params={"profile": "iso"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/profile")
    without = build_report(example_state(), provenance=a_provenance(), evaluation=EvaluationSpec())
    (directory / "report.json").write_bytes(report_bytes(without))
    answer = small_bench.user.get(path, params={"profile": "nyc_ll144"})
    assert (answer.status_code, "compares no groups" in answer.text) == (422, True)


def test_the_server_says_with_which_key_it_signs_reports(small_bench: Any) -> None:
    key = small_bench.user.get("/v1/version").json()["report_key"]
    seed = report_seed(small_bench.settings.secret_key_file.read_bytes())
    report = signed({"outcome": "pass"}, seed)
    assert verify(report, key["public_key"]) == key["key_id"]


def test_there_is_no_report_before_the_evaluation(small_bench: Any, spec: dict[str, Any]) -> None:
    answer = small_bench.user.get(f"/v1/experiments/{small_bench.submit(spec)['id']}/report")
    assert answer.status_code == 404
    assert "accepted" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        ("report", "text/html"),
        ("logs", "text/plain"),
        ("logs?rank=1&tail=5", "text/plain"),
        ("events", "application/json"),
    ],
)
def test_a_link_opens_one_page_without_a_token_until_it_expires(
    small_bench: Any, reported: str, page: str, kind: str
) -> None:
    link = small_bench.user.post("/v1/links", json={"path": f"/v1/experiments/{reported}/{page}"})
    assert link.status_code == 201
    path = "/links/" + link.json()["url"].rpartition("/")[2]
    answer = small_bench.nobody.get(path)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    assert answer.headers["cache-control"] == "no-store"
    small_bench.clock.advance(600)
    assert small_bench.nobody.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/v1/experiments/{id}",
        "/v1/experiments/{id}/cancel",
        "/v1/experiments/{id}/metrics",
        "/v1/experiments/{id}/report?x=1",
        "/v1/experiments/{id}/logs?rank=x",
        "/v1/experiments/../report",
        "//evil.example/v1/experiments/{id}/report",
        "https://evil.example/v1/experiments/{id}/report",
        "/internal/v1/agent/sync",
    ],
)
def test_only_reports_logs_and_events_can_be_linked(small_bench: Any, reported: str, path: str) -> None:
    answer = small_bench.user.post("/v1/links", json={"path": path.format(id=reported)})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/path")


def test_a_link_cannot_be_bent_or_made_from_a_cursor(small_bench: Any, reported: str) -> None:
    path = f"/v1/experiments/{reported}/report"
    token = small_bench.user.post("/v1/links", json={"path": path}).json()["url"].rpartition("/")[2]
    cursor = encode_token(small_bench.app.state.api, "cursor", [2**40, reported, "report", {}])
    for bent in (token[:-1], token[1:], token.swapcase(), cursor, "é", "a" * 999):
        assert small_bench.nobody.get(f"/links/{bent}").status_code == 404


def test_of_a_sweep_the_report_is_what_its_trials_say(small_bench: Any, spec: dict[str, Any]) -> None:
    experiment_id = small_bench.submit(
        {**spec, "search": {"space": {"lr": {"uniform": [0.001, 0.1]}}, "objectives": [{"minimize": LOSS}]}}
    )["id"]
    path = f"/v1/experiments/{experiment_id}/report"
    assert small_bench.user.get(path).status_code == 404
    sweep = a_sweep()
    assert sweep.search is not None
    report = a_sweep_report(sweep, sweep_trials(sweep.search, 40))
    directory = small_bench.settings.storage / "default" / experiment_id / "report"
    write_sweep(directory, sweep.search, report, [])
    assert small_bench.user.get(path).json()["headline"] == report["headline"]
    page = small_bench.user.get(path, headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "Sweep report" in page.text
    link = small_bench.user.post("/v1/links", json={"path": path}).json()
    assert "Sweep report" in small_bench.user.get(urlsplit(link["url"]).path).text
    answer = small_bench.user.get(path, params={"profile": "model_card"})
    assert (answer.status_code, "a sweep has no profiles" in answer.text) == (422, True)
