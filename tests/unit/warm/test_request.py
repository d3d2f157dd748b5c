"""Which requests are granted: those after which a forked process is like an executed one."""

import json
from pathlib import Path

import pytest

from fairlead.run.warm.request import Refused, Request, Start, Surroundings, parse_body, parse_head, plan

RAY = Path("/site-packages/ray")
WORKERS = RAY / "_private" / "workers"
SERVER = Surroundings(
    directory="/run/warm",
    executable="/venv/bin/python",
    ray_directory=RAY,
    launchers=("/venv/bin/python -IS /launcher.py", "/run/warm/python"),
    environment={"HOME": "/home", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
)
GIVEN = {"LANG": "C.UTF-8", "RAY_JOB_ID": "01000000", "RAY_RAYLET_PID": "7"}


def asked(*argv: str, executable: str = "/venv/bin/python", without: str = "", **variables: str) -> Request:
    environment = {name: value for name, value in (GIVEN | variables).items() if name != without}
    return Request(executable=executable, cwd="/", argv=argv, environment=environment)


def worker(*, without: str = "", executable: str = "/venv/bin/python", **variables: str) -> Request:
    return asked(str(WORKERS / "default_worker.py"), "--a=b", without=without, executable=executable, **variables)


def set_up(*flags: str, **context: object) -> Request:
    return asked(
        str(WORKERS / "setup_worker.py"),
        *flags,
        str(WORKERS / "default_worker.py"),
        "--a=b",
        "--language=PYTHON",
        f"--serialized-runtime-env-context={json.dumps(context)}",
    )


def test_a_worker_is_granted_with_what_it_brings() -> None:
    found = plan(worker(MINE="1"), SERVER)
    assert isinstance(found, Start)
    assert found.argv == (str(WORKERS / "default_worker.py"), "--a=b")
    assert found.environment["MINE"] == "1"


def test_setting_up_is_done_on_the_way() -> None:
    found = plan(set_up(env_vars={"MINE": "2"}, py_executable="/run/warm/python"), SERVER)
    assert isinstance(found, Start)
    assert found.argv == (str(WORKERS / "default_worker.py"), "--a=b")
    assert found.environment["MINE"] == "2"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (worker(executable="/usr/bin/python3"), "another interpreter"),
        (worker(without="RAY_JOB_ID"), "a worker of no job"),
        (worker(RAY_JOB_ID="ffffffff"), "a worker of no job"),
        (worker(LANG="de_DE.UTF-8"), "LANG differs"),
        (worker(LD_PRELOAD="/lib/x.so"), "LD_PRELOAD differs"),
        (worker(PYTHONHASHSEED="0"), "PYTHONHASHSEED differs"),
        (worker(TORCH_LOGS="+all"), "TORCH_LOGS differs"),
        (worker(MALLOC_PERTURB_="1"), "MALLOC_PERTURB_ differs"),
        (worker(FAIRLEAD_WARM_START="0"), "switches warm starts off"),
        (worker(FAIRLEAD_WARM_DIRECTORY="/run/other"), "names another warm server"),
        (asked("/other/ray/_private/workers/default_worker.py"), "not a worker of the Ray"),
        (asked(), "not a worker of the Ray"),
        (set_up("-S"), "not a worker of the Ray"),
        (set_up(command_prefix=["nice"]), "needs more than variables"),
        (set_up(override_worker_entrypoint="x"), "needs more than variables"),
        (set_up(py_executable="/own/bin/python"), "an interpreter of its own"),
        (set_up(env_vars={"PATH": "/mine:${PATH}"}), "refers to other variables"),
        (set_up(env_vars={"FAIRLEAD_WARM_START": "0"}), "switches warm starts off"),
    ],
)
def test_what_a_fork_cannot_take_on_is_refused(request_: Request, why: str) -> None:
    found = plan(request_, SERVER)
    assert isinstance(found, Refused)
    assert why in found.why


@pytest.mark.parametrize(
    ("variables", "is_same"),
    [
        ({"MINE": "1"}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "1000000"}, True),
        ({"RAY_TRAIN_METRICS_ENABLED": "0"}, True),
        ({"RAY_JOB_ID": "02000000"}, False),
        ({"RAY_RAYLET_PID": "8"}, False),
        ({"RAY_memory_usage_threshold": "0.5"}, False),
    ],
)
def test_each_job_and_each_setting_that_ray_reads_on_import_has_a_server_of_its_own(
    variables: dict[str, str], is_same: bool
) -> None:
    plain, other = plan(worker(), SERVER), plan(worker(**variables), SERVER)
    assert isinstance(plain, Start)
    assert isinstance(other, Start)
    assert (plain.job == other.job) is is_same


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"FLWARM1 start 12", ("start", 12)),
        (b"FLWARM0 start 12", Refused(why="the launcher is of another version than the warm server")),
        (b"GET / HTTP/1.1", Refused(why="the launcher is of another version than the warm server")),
        (b"FLWARM1 start 99999999", Refused(why="the request is too long")),
        (b"FLWARM1 start x", Refused(why="the request is too long")),
    ],
)
def test_heads_of_messages(line: bytes, expected: object) -> None:
    assert parse_head(line) == expected


@pytest.mark.parametrize("body", [b"", b"a\0b", b"a\0b\0x", b"a\0b\x009\0only"])
def test_bodies_that_make_no_sense_are_refused(body: bytes) -> None:
    assert isinstance(parse_body(body), Refused)


def test_bodies_keep_every_byte_of_a_variable() -> None:
    found = parse_body(b"/python\0/\x001\0program\0A=b=c\0B=\xff")
    assert isinstance(found, Request)
    assert found.environment == {"A": "b=c", "B": "\udcff"}
