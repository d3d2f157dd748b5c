"""The commands about tokens, projects, members and the audit, against the real API."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from click.testing import Result
from typer.testing import CliRunner

from fairlead import Client
from fairlead.cli import app
from fairlead.errors import Conflict, NotFound, Unauthorized
from fairlead.representation import TokenRequest
from fairlead.rights import Role

Run = Callable[..., Result]


@pytest.fixture
def address(small_bench: Any, serve: Any) -> str:
    return str(serve(small_bench.app))


@pytest.fixture
def token(small_bench: Any) -> str:
    return str(small_bench.user.headers["authorization"].removeprefix("Bearer "))


@pytest.fixture
def run(address: str, token: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("FAIRLEAD_URL", address)
    monkeypatch.setenv("FAIRLEAD_TOKEN", token)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FAIRLEAD_HOME", raising=False)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the server's lines would stand among ours
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    structlog.reset_defaults()


def test_a_project_its_members_and_a_token_are_made_and_taken_back_from_the_command_line(
    run: Run, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "user: admin of all projects" in run("whoami").stdout
    assert run("projects", "create", "vision").exit_code == 0
    shown = run("projects", "members", "vision", "--set", "ed=editor", "--set", "vera=viewer", "--json")
    assert [(one["member"], one["role"]) for one in json.loads(shown.stdout)] == [("ed", "editor"), ("vera", "viewer")]
    made = run("tokens", "create", "--for", "ed", "--project", "vision", "--label", "ci", "--days", "30")
    assert (made.exit_code, "shown this once" in made.stderr) == (0, True)
    monkeypatch.setenv("FAIRLEAD_TOKEN", made.stdout.strip())
    who = json.loads(run("whoami", "--json").stdout)
    assert (who["name"], who["projects"]) == ("ed", {"vision": "editor"})
    assert "vision" in run("projects", "list").stdout
    refused = run("audit")
    assert (refused.exit_code, "this token may not do this" in refused.stderr) == (1, True)
    assert run("tokens", "revoke", who["token_id"]).stdout == f"{who['token_id']}: revoked\n"
    late = run("whoami")
    assert (late.exit_code, "expired or revoked" in late.stderr) == (4, True)


def test_the_commands_show_what_there_is(run: Run) -> None:
    made = json.loads(run("tokens", "create", "--json").stdout)
    listed = run("tokens", "list").stdout
    assert made["id"] in listed
    assert "admin at most" in listed
    assert made["token"] not in listed
    lines = run("audit", "--json").stdout.splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["createToken"]
    table = run("audit", "--actor", "user").stdout
    assert f"token/{made['id']}" in table
    assert run("projects", "members").stdout.split("\n")[1].startswith("user")
    agent = json.loads(run("tokens", "create", "--cluster", "gpu", "--for", "agent-gpu", "--json").stdout)
    assert (agent["kind"], agent["cluster"]) == ("agent", "gpu")


@pytest.mark.parametrize("change", ["ed", "ed=", "=viewer", "ed=owner"])
def test_a_role_that_is_none_is_refused_before_anything_is_asked(run: Run, change: str) -> None:
    refused = run("projects", "members", "default", "--set", change)
    assert refused.exit_code == 2
    assert "one of viewer, editor, admin" in " ".join(refused.stderr.replace("│", " ").split())


def test_the_sdk_says_who_may_do_what(small_bench: Any, address: str, token: str) -> None:
    with Client(address, token) as client:
        access = client.access
        access.create_project("vision")
        access.set_member("vision", "ed", Role.EDITOR)
        assert [(one.member, one.role) for one in access.members("vision")] == [("ed", Role.EDITOR)]
        made = access.create_token(TokenRequest(name="ed", project="vision"), key="k")
        with pytest.raises(Conflict, match=made.id):
            access.create_token(TokenRequest(name="ed", project="vision"), key="k")
        assert access.token(made.id).label == ""
        assert made.id in {view.id for view in access.tokens()}
        with Client(address, made.token) as ed:
            assert [view.name for view in ed.access.projects()] == ["vision"]
            with pytest.raises(NotFound):
                ed.access.create_project("other")
            access.remove_member("vision", "ed")
            assert ed.access.projects() == ()
            access.revoke_token(made.id)
            with pytest.raises(Unauthorized):
                ed.whoami()
        assert [row.action for row in access.audit(limit=2)][:2] == ["revokeToken", "removeMember"]
