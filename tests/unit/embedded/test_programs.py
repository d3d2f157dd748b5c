"""Every part gets explicit loopback addresses, its own settings, and none of another stack's."""

from pathlib import Path

import pytest

from fairlead.embedded.home import Home
from fairlead.embedded.ports import HOST, PortLease
from fairlead.embedded.processes import MARKER
from fairlead.embedded.programs import Layout, Program, programs
from fairlead.run.warm.launcher import DIRECTORY

SHELL = {"PATH": "/bin", "FAIRLEAD_URL": "x", "MLFLOW_TRACKING_URI": "x", "RAY_ADDRESS": "x", "NO_PROXY": "intra"}


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Program]:
    with PortLease(tmp_path / "ports") as lease:
        layout = Layout(
            home=Home(path=tmp_path), ports=lease.take(), ray_directory=Path("/tmp/fl-ray-x"), marker="m", cpus=2
        )
    return {program.name: program for program in programs(layout, SHELL)}


def test_the_agent_waits_for_ray_and_the_api(made: dict[str, Program]) -> None:
    assert {name: program.needs for name, program in made.items()} == {
        "mlflow": (),
        "ray": (),
        "api": (),
        "agent": ("ray", "api"),
    }


def test_the_books_stand_back_for_training(made: dict[str, Program]) -> None:
    assert {name: program.niceness for name, program in made.items()} == {"mlflow": 5, "ray": 0, "api": 5, "agent": 0}
    for name in ("ray", "agent"):  # the agent starts the server that forks workers
        assert made[name].environment["RAY_worker_niceness"] == "0"


def test_settings_of_the_callers_shell_do_not_leak_in(made: dict[str, Program]) -> None:
    for program in made.values():
        assert "x" not in program.environment.values()
        assert program.environment["NO_PROXY"] == f"intra,{HOST},localhost"
        assert program.environment[MARKER] == "m"


def test_no_token_stands_in_a_command_or_in_ray_s_environment(made: dict[str, Program]) -> None:
    assert not [
        name for name in made["ray"].environment if name.startswith("FAIRLEAD_") and name not in (MARKER, DIRECTORY)
    ]
    for program in made.values():
        assert "token" not in " ".join(program.command)


def test_ray_is_told_every_port_and_needs_a_token(made: dict[str, Program]) -> None:
    options = dict(part.removeprefix("--").split("=") for part in made["ray"].command if "=" in part)
    assert options["node-ip-address"] == options["dashboard-host"] == HOST
    assert options["num-cpus"] == "2"
    assert "num-gpus" not in options
    ports = [value for name, value in options.items() if name.endswith("port")]
    assert len(set(ports)) == len(ports) == 10
    for name in ("ray", "agent"):
        environment = made[name].environment
        assert (environment["RAY_AUTH_MODE"], environment["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")
        assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_ray_has_no_dashboard_unless_it_is_asked_for(made: dict[str, Program], tmp_path: Path) -> None:
    assert "--include-dashboard=false" in made["ray"].command
    assert len(made["ray"].ready_ports) == 2
    with PortLease(tmp_path / "ports") as lease:
        ports = lease.take()
        layout = Layout(
            home=Home(path=tmp_path), ports=ports, ray_directory=Path("/x"), marker="m", has_ray_dashboard=True
        )
        ray = {program.name: program for program in programs(layout, SHELL)}["ray"]
    assert "--include-dashboard=true" in ray.command
    assert ports.ray_dashboard in ray.ready_ports


def test_the_api_accepts_exact_hosts_only(made: dict[str, Program]) -> None:
    environment = made["api"].environment
    port = environment["FAIRLEAD_PORT"]
    assert environment["FAIRLEAD_ALLOWED_HOSTS"].split(",") == [
        HOST,
        "localhost",
        f"{HOST}:{port}",
        f"localhost:{port}",
    ]
    assert environment["FAIRLEAD_WITH_CONTROL"] == "1"
