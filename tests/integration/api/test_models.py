"""Registered models and what MLflow makes of them: through the API by each role, and from the command line."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from click.testing import Result
from typer.testing import CliRunner

from fairlead import Client
from fairlead.cli import app
from fairlead.flags import FlagCode
from fairlead.lifecycle import State
from fairlead.rights import Role
from fairlead.store import Store, experiments, flags, model_versions
from fairlead.store.tables import RegistryFlagRow
from fairlead.testing import FakeClock
from fairlead.testing.people import a_member, a_token
from fairlead.testing.stored import an_experiment

Run = Callable[..., Result]


def register(store: Store, clock: FakeClock, key: str, project: str, version: str, **columns: Any) -> None:
    row = an_experiment(store, key, state=State.SUCCEEDED, project=project)
    told = {"report_sha256": f"sha256:{key}", "report_outcome": "pass", **columns}
    with store.write() as session:
        known: dict[str, Any] = {"name": "risk", "version": version, "alias": "candidate"}
        model_versions.insert(session, row, **known, model_id="m", run_id="r", now=clock.advance(1))
        experiments.set_columns(session, key, **told)


def flag(store: Store, clock: FakeClock, code: FlagCode, name: str, **columns: Any) -> None:
    plain: dict[str, Any] = {"version": "", "alias": "", "message": f"{code} of {name}", "advice": "look"}
    with store.write() as session:
        row = RegistryFlagRow(code=code, name=name, first_seen_at=clock.now(), **{**plain, **columns})
        flags.replace(session, [row], gone=[])
        flags.note_checked(session, versions=3, now=clock.now())


@pytest.fixture
def shop(bench: Any) -> Any:
    store, clock = bench.store, bench.clock
    register(store, clock, "e1", "red", "1")
    gate = {"id": "dp", "outcome": "fail", "override": {"by": "ada"}}
    register(store, clock, "e2", "blue", "2", report_outcome="fail", gates=[gate])
    register(store, clock, "e3", "red", "3")
    flag(store, clock, FlagCode.HASH_MISMATCH, "risk", version="1", project="red", experiment_id="e1")
    flag(store, clock, FlagCode.UNREGISTERED_VERSION, "risk", version="9", project="red")
    flag(store, clock, FlagCode.UNKNOWN_MODEL, "by-hand", project=None)
    return bench


def test_versions_come_newest_first_in_pages_with_what_is_wrong_with_them(shop: Any) -> None:
    first = shop.user.get("/v1/models?limit=2").json()
    assert [(one["version"], one["project"], one["flags"]) for one in first["items"]] == [
        ("3", "red", []),
        ("2", "blue", []),
    ]
    assert (first["items"][1]["report_outcome"], first["items"][1]["overridden"]) == ("fail", ["dp"])
    (last,) = shop.user.get(first["next"]).json()["items"]
    assert (last["version"], last["report_sha256"], last["alias"]) == ("1", "sha256:e1", "candidate")
    assert [(one["code"], one["level"]) for one in last["flags"]] == [("hash_mismatch", "error")]
    assert shop.user.get(first["next"]).json()["next"] is None


@pytest.mark.parametrize(
    ("query", "versions"),
    [
        ("project=eq:red", ["3", "1"]),
        ("project=eq:blue&name=eq:risk", ["2"]),
        ("name=eq:other", []),
        ("name=in:risk,other", ["3", "2", "1"]),
        ("project=eq:red&project=eq:blue", []),
    ],
)
def test_versions_are_filtered(shop: Any, query: str, versions: list[str]) -> None:
    assert [one["version"] for one in shop.user.get(f"/v1/models?{query}").json()["items"]] == versions


def test_a_filter_that_there_is_not_is_refused(shop: Any) -> None:
    assert shop.user.get("/v1/models?state=eq:running").status_code == 422


def test_everybody_sees_the_models_of_his_projects_and_admins_of_everything_those_of_nobody(shop: Any) -> None:
    now, found = shop.clock.now(), {}
    a_member(shop.store, "vera", {"red": Role.VIEWER}, now=now)
    a_member(shop.store, "bob", {"blue": Role.ADMIN}, now=now)
    a_member(shop.store, "eve", {"*": Role.VIEWER}, now=now)
    a_member(shop.store, "nil", {}, now=now)
    for who in ("vera", "bob", "eve", "nil"):
        headers = a_token(shop.store, who, now=now)
        versions = shop.nobody.get("/v1/models", headers=headers).json()["items"]
        told = shop.nobody.get("/v1/models/flags", headers=headers).json()
        found[who] = [one["version"] for one in versions], [one["code"] for one in told["items"]]
        assert told["checked_at"] is not None
    assert found == {
        "vera": (["3", "1"], ["hash_mismatch", "unregistered_version"]),
        "bob": (["2"], []),
        "eve": (["3", "2", "1"], ["hash_mismatch", "unregistered_version"]),
        "nil": ([], []),
    }
    told = shop.user.get("/v1/models/flags").json()["items"]
    assert [(one["code"], one["version"], one["project"]) for one in told] == [
        ("unknown_model", None, None),
        ("hash_mismatch", "1", "red"),
        ("unregistered_version", "9", "red"),
    ]


def test_no_flag_means_nothing_before_anything_was_compared(bench: Any) -> None:
    assert bench.user.get("/v1/models/flags").json() == {"checked_at": None, "items": []}


def test_the_numbers_say_what_differs_and_how_old_that_is(shop: Any) -> None:
    shop.clock.advance(90)
    shown = shop.user.get("/metrics").text
    assert 'fairlead_registry_flags{code="hash_mismatch"} 1.0' in shown
    assert 'fairlead_registry_flags{code="false_claim"} 0.0' in shown
    assert "fairlead_registry_checked_seconds 90.0" in shown


def test_what_was_never_compared_is_as_old_as_the_first_registration(bench: Any) -> None:
    assert "fairlead_registry_checked_seconds 0.0" in bench.user.get("/metrics").text
    register(bench.store, bench.clock, "e1", "red", "1")
    bench.clock.advance(30)
    assert "fairlead_registry_checked_seconds 30.0" in bench.user.get("/metrics").text


@pytest.fixture
def run(small_bench: Any, serve: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("FAIRLEAD_URL", str(serve(small_bench.app)))
    monkeypatch.setenv("FAIRLEAD_TOKEN", str(small_bench.user.headers["authorization"].removeprefix("Bearer ")))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FAIRLEAD_HOME", raising=False)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the server's lines would stand among ours
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    structlog.reset_defaults()


def test_the_command_lists_versions_and_flags_and_its_exit_code_says_whether_to_stop(
    run: Run, small_bench: Any
) -> None:
    store, clock = small_bench.store, small_bench.clock
    empty = run("models")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "No model has been registered" in empty.stderr
    register(store, clock, "e1", "red", "1")
    plain = run("models")
    assert (plain.exit_code, "risk" in plain.stdout) == (0, True)
    assert "has not been compared" in plain.stderr
    flag(store, clock, FlagCode.ALIAS_MOVED, "risk", version="1", alias="candidate", project="red")
    assert run("models").exit_code == 0
    flag(store, clock, FlagCode.REPORT_CHANGED, "risk", version="1", project="red", experiment_id="e1")
    flag(store, clock, FlagCode.UNKNOWN_MODEL, "by-hand", project=None)
    shown = run("models")
    assert shown.exit_code == 3
    assert "error report_changed: report_changed of risk\n  look" in shown.stdout
    assert shown.stdout.index("report_changed:") < shown.stdout.index("alias_moved:"), "the worst first"
    document = json.loads(run("models", "--json").stdout)
    assert [one["version"] for one in document["versions"]] == ["1"]
    assert [one["code"] for one in document["flags"]] == ["report_changed", "alias_moved", "unknown_model"]
    assert document["checked_at"]
    assert "No registered model is of that project and name." in run("models", "--project", "blue").stderr
    other = run("models", "--project", "blue", "--json")
    assert (other.exit_code, json.loads(other.stdout)["flags"]) == (0, [])
    assert [one["code"] for one in json.loads(run("models", "--name", "by-hand", "--json").stdout)["flags"]] == [
        "unknown_model"
    ]


def test_the_client_goes_through_all_pages(run: Run, small_bench: Any) -> None:
    for number in range(1, 4):
        register(small_bench.store, small_bench.clock, f"e{number}", "red", str(number))
    with Client() as client:
        assert [one.version for one in client.models(limit=1)] == ["3", "2", "1"]
        assert list(client.models(project="blue")) == []
        assert client.registry_flags().items == ()
