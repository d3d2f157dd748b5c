"""docker-compose.yml against the compose specification, against the programs it starts, and against our own rules."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from pydantic_settings import BaseSettings

from fairlead.settings import AgentSettings, ControlSettings, LogSettings
from fairlead.store.tokens import hash_token
from fairlead.tracking.server import server_environment

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKER = ROOT / "infra" / "docker"
SERVICES = ("postgres", "migrate", "mlflow", "api", "control", "ray-head", "ray-worker")
OURS = tuple(name for name in SERVICES if name != "postgres")
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?+])((?:[^{}])*))?\}")
SECRET_NAMES = re.compile(r"PASSWORD|SECRET_KEY$|TOKEN$|TOKENS$")


def interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    """``value`` with ``${NAME:-default}`` and ``${NAME:?message}`` filled in as compose does. Raises ``KeyError``."""
    if isinstance(value, Mapping):
        return {key: interpolated(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, environment) for inner in value]
    return VARIABLE.sub(lambda match: filled(match, environment), value) if isinstance(value, str) else value


def filled(match: re.Match[str], environment: Mapping[str, str]) -> str:
    name, operator, rest = match.groups()
    given = environment.get(name, "")
    if operator == ":-":
        return given or rest
    if operator == ":?" and not given:
        raise KeyError(f"{name}: {rest}")
    return given


@cache
def made() -> dict[str, str]:
    """The variables that make_env.py makes, written by the program itself."""
    ran = subprocess.run(
        [sys.executable, "-c", "import make_env; print(make_env.content()[0])"],
        cwd=DOCKER,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r"^(\w+)='(.*)'$", ran.stdout, re.MULTILINE))


@cache
def compose() -> dict[str, Any]:
    """The file as compose sees it: anchors and variables resolved."""
    document: dict[str, Any] = interpolated(yaml.safe_load(TEXT), made())
    return document


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


# ---- the specification --------------------------------------------------------------------------------------------


def test_the_file_follows_the_compose_specification() -> None:
    document = {key: value for key, value in compose().items() if not key.startswith("x-")}
    assert sorted(PyCompose.from_yaml(yaml.safe_dump(document)).service_names()) == sorted(SERVICES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"services": {"a": {"imagee": "x"}}},
        {"services": {"a": {"image": "x", "restart": "sometimes"}}},
        {"services": {"a": {"image": "x", "healthcheck": {"tests": ["CMD", "x"]}}}},
    ],
)
def test_the_check_itself_sees_faults(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"services\.a"):
        PyCompose.from_yaml(yaml.safe_dump(wrong))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_only_what_the_file_defines(name: str) -> None:
    document, one = compose(), service(name)
    assert set(one["networks"]) <= set(document["networks"])
    assert set(one.get("secrets", [])) <= set(document["secrets"])
    sources = {volume.split(":")[0] for volume in one.get("volumes", [])}
    assert {source for source in sources if not source.startswith(".")} <= set(document["volumes"])
    assert all((ROOT / source).exists() for source in sources if source.startswith("."))
    for needed, how in one.get("depends_on", {}).items():
        is_one_shot = service(needed)["restart"] == "no"
        healthy = ("service_healthy", "service_started")
        assert how["condition"] in (("service_completed_successfully",) if is_one_shot else healthy)


def test_everything_defined_is_used_and_no_service_waits_for_itself() -> None:
    document = compose()
    for kind in ("networks", "secrets"):
        assert {entry for one in document["services"].values() for entry in one.get(kind, [])} == set(document[kind])
    order: list[str] = []
    while left := [name for name in SERVICES if name not in order]:
        ready = [name for name in left if set(service(name).get("depends_on", {})) <= set(order)]
        assert ready, f"{left} wait for each other"
        order += ready


# ---- our rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_and_started_again(name: str) -> None:
    one = service(name)
    if name == "migrate":
        assert (one["restart"], one["healthcheck"]) == ("no", {"disable": True})
        return
    assert one["restart"] == "unless-stopped"
    assert one["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(one["healthcheck"])


def test_nothing_is_published_but_the_api_on_loopback() -> None:
    assert {name: service(name)["ports"] for name in SERVICES if "ports" in service(name)} == {
        "api": ["127.0.0.1:8170:8170"]
    }
    assert not [name for name in SERVICES if service(name).get("network_mode") == "host"]


def test_only_the_api_and_control_reach_outside_and_workloads_see_neither_database_nor_mlflow() -> None:
    document = compose()
    open_ = {name for name, options in document["networks"].items() if not (options or {}).get("internal")}
    assert {name for name in SERVICES if set(service(name)["networks"]) & open_} == {"api", "control"}
    reachable = {name for name in SERVICES if "cluster" in service(name)["networks"]}
    assert reachable == {"api", "ray-head", "ray-worker"}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_privileges(name: str) -> None:
    one = service(name)
    assert one["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in one["security_opt"]
    assert "privileged" not in one
    assert "user" not in one, "the image says who"


def test_no_secret_stands_in_the_file_and_none_has_a_default() -> None:
    for match in VARIABLE.finditer(TEXT):
        name, operator, _ = match.groups()
        assert operator == ":?" or not SECRET_NAMES.search(name), f"{name} must have no default"
    raw = yaml.safe_load(TEXT)
    for one in raw["services"].values():
        for name, value in (one.get("environment") or {}).items():
            if SECRET_NAMES.search(name):
                assert VARIABLE.fullmatch(value), f"{name} is written out"
    assert all(set(source) == {"environment"} for source in raw["secrets"].values())
    assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", TEXT), "a password in an address"


@pytest.mark.parametrize("name", ["FAIRLEAD_DATABASE_PASSWORD", "MLFLOW_DATABASE_PASSWORD", "POSTGRES_PASSWORD"])
def test_compose_refuses_to_start_without_a_secret_and_says_what_to_do(name: str) -> None:
    without = {key: value for key, value in made().items() if key != name}
    with pytest.raises(KeyError, match=rf"{name}: make the secrets with infra/docker/make_env.py"):
        interpolated(yaml.safe_load(TEXT), without)


def test_every_secret_of_the_file_is_made() -> None:
    needed = {match[1] for match in VARIABLE.finditer(TEXT) if match[2] == ":?"}
    needed |= {source["environment"] for source in compose()["secrets"].values()}
    assert needed == set(made())


def test_ray_nodes_have_no_secret_in_their_environment() -> None:
    for name in ("ray-head", "ray-worker"):
        assert not set(texts(service(name)["environment"])) & set(made().values())


# ---- the programs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_there(name: str) -> None:
    command = service(name)["command"]
    if command[:2] == ["python", "-m"]:
        assert find_spec(f"{command[2]}.__main__"), f"python -m {command[2]} does not exist"
    else:
        (script,) = command
        assert (DOCKER / script).stat().st_mode & 0o111
        assert f"infra/docker/{script}" in (DOCKER / "Dockerfile").read_text()


@pytest.mark.parametrize("script", sorted(path.name for path in DOCKER.glob("*.sh")))
def test_scripts_are_bash(script: str) -> None:
    checked = subprocess.run(["bash", "-n", str(DOCKER / script)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(("script", "extra"), [("ray-head.sh", ["--head"]), ("ray-worker.sh", ["--address"])])
def test_ray_knows_the_options_it_is_given(script: str, extra: list[str]) -> None:
    known = re.findall(r"^\s+(--[a-z-]+)", start_help(), re.MULTILINE)
    assert known
    given = re.findall(r"(?<=\s)(--[a-z-]+)", (DOCKER / script).read_text())
    assert set(extra) <= set(given) <= set(known)


@cache
def start_help() -> str:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--help"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("name", ["api", "control"])
def test_the_control_plane_gets_settings_it_knows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = service(name)["environment"]
    ours = {key for key in environment if key.startswith("FAIRLEAD_")}
    assert ours <= known_to(ControlSettings, LogSettings)
    for key in ours:
        monkeypatch.setenv(key, environment[key])
    settings = ControlSettings()
    assert settings.database_url.startswith("postgresql+psycopg://fairlead@postgres/")
    assert settings.secret_key_file == Path("/run/secrets/secret_key")
    if name == "api":
        assert settings.host == "0.0.0.0"  # inside its container; published on loopback
        assert {"127.0.0.1:8170", "api:8170"} <= set(settings.allowed_hosts)


def known_to(*kinds: type[BaseSettings]) -> set[str]:
    return {f"FAIRLEAD_{field.upper()}" for kind in kinds for field in kind.model_fields}


def test_the_agent_gets_settings_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = service("ray-head")["environment"]
    for key in environment:
        monkeypatch.setenv(key, environment[key])
    monkeypatch.setenv("FAIRLEAD_RAY_ADDRESS", "10.0.0.2:6379")  # ray-head.sh fills it in
    settings = AgentSettings()
    assert settings.control_url == "http://api:8170"
    ours = {key for key in environment if key.startswith("FAIRLEAD_")} | {"FAIRLEAD_RAY_ADDRESS"}
    assert ours <= known_to(AgentSettings, LogSettings)
    assert settings.cluster == json.loads(made()["FAIRLEAD_TOKENS"])["tokens"][1]["cluster"]
    shared = [{volume.split(":")[1] for volume in service(name)["volumes"]} for name in ("ray-head", "ray-worker")]
    assert {str(settings.storage), str(settings.cache)} <= shared[0] & shared[1]


def test_mlflow_gets_the_environment_that_its_starter_makes() -> None:
    store = "postgresql+psycopg://mlflow@postgres/mlflow"
    expected = server_environment(
        {},
        store=store,
        artifacts="/srv/mlflow-artifacts",
        host="0.0.0.0",
        port=5000,
        allowed_hosts=("mlflow", "mlflow:5000"),
    )
    environment = dict(service("mlflow")["environment"])
    assert environment.pop("PGPASSWORD") == made()["MLFLOW_DATABASE_PASSWORD"]
    assert environment == expected


def test_secrets_are_made_once_for_the_owner_alone_and_the_server_knows_only_hashes(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    command = [sys.executable, str(DOCKER / "make_env.py"), "--file", str(path)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert path.stat().st_mode & 0o777 == 0o600
    values = dict(re.findall(r"^(\w+)='(.*)'$", path.read_text(), re.MULTILINE))
    entries = json.loads(values["FAIRLEAD_TOKENS"])["tokens"]
    user = first.stdout.split()[-1]
    assert user not in path.read_text()
    assert [entry["sha256"] for entry in entries] == [hash_token(user), hash_token(values["FAIRLEAD_AGENT_TOKEN"])]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "Remove it" in again.stderr


# ---- the images ---------------------------------------------------------------------------------------------------


def stages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        if match := re.match(r"FROM \S+ AS (\S+)", line):
            found[match[1]] = []
        elif found:
            found[list(found)[-1]].append(line)
    return found


@pytest.mark.parametrize("name", OURS)
def test_every_image_is_a_stage_that_ends_as_an_ordinary_user(name: str) -> None:
    lines = stages()[service(name)["build"]["target"]]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1:] == ["10001:10001"]


def test_images_are_pinned_and_hold_no_secret() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert all("--constraint constraints.txt" in line for line in text.splitlines() if "pip install" in line)
    assert not [line for line in text.splitlines() if re.match(r"(ARG|ENV)\b.*(PASSWORD|TOKEN|SECRET)", line)]
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*", "nothing is copied unless it is named"
    assert ":latest" not in TEXT


def test_whatever_the_images_copy_is_there_and_let_through() -> None:
    copied = [
        source
        for line in (DOCKER / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY") and "--from" not in line
        for source in [word for word in line.split()[1:-1] if not word.startswith("--")]
    ]
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), f"the images copy {source}, which is not there"
        assert source in allowed
