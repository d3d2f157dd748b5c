"""What a launcher asks for, and whether a forked process would be the same as a newly executed one.

Only what can be taken on after a fork is accepted: arguments, environment, working directory, descriptors. Settings
that an interpreter reads while it starts or imports must be those of the server, else the answer is a refusal and the
launcher goes the cold way.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairlead.run.warm.child import MALLOC_PARAMETERS
from fairlead.run.warm.launcher import COLD, DIRECTORY, SWITCH, SWITCHED_OFF, VERSION

MAX_BODY = 4 * 2**20
"""Bytes of a request: arguments and environment of a process."""
_FIXED_AT_START = ("LD_", "LC_", "LANG", "PYTHON", "MALLOC_", "GLIBC_", "TORCH_", "ATEN_")
"""Read by the C library, the interpreter or torch before the first line of a program."""
_TAKEN_ON_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONBREAKPOINT", "TORCH_PROCESS_GROUP_", *MALLOC_PARAMETERS)
_READ_BY_RAY_LATE = ("RAY_TRAIN_", "RAY_CLIENT_MODE", "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC")
"""Looked up when used; all other ``RAY_*`` are read once, when Ray is imported."""
TRIAL_PROGRAM = str(Path(__file__).parent.parent / "sweep" / "program.py")
"""Besides Ray's own workers: the process of one rank of a trial, which does not know Ray."""
_NO_JOB = "ffffffff"
"""Of workers that Ray starts before anybody needs them: a server of their own would cost more than it saves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a launcher inherited from Ray."""

    executable: str
    cwd: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """No: the launcher must start its program itself."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Yes: a worker's program and what it starts with, setting-up already done."""

    program: str
    argv: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str]
    job: str
    """Names the server of the second level: one for each Ray job and each set of values that Ray reads on import."""

    def to_json(self) -> str:
        """For the way from the root to the server of the job."""
        return json.dumps(
            {"program": self.program, "argv": self.argv, "cwd": self.cwd, "environment": dict(self.environment)}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the server itself is: a request must match it."""

    directory: str
    executable: str
    ray_directory: Path
    launchers: tuple[str, ...]
    """Command lines that stand for this server where Ray asks for an executable."""
    environment: Mapping[str, str]


def parse_head(line: bytes) -> tuple[str, int] | Refused:
    """The verb of a message and the length of its body."""
    words = line.split()
    if len(words) != 3 or words[0] != VERSION:
        return Refused(why="the launcher is of another version than the warm server")
    if not words[2].isdigit() or int(words[2]) > MAX_BODY:
        return Refused(why="the request is too long")
    return words[1].decode(errors="replace"), int(words[2])


def parse_body(body: bytes) -> Request | Refused:
    """The launcher's words. It joins them with NUL, which no argument and no variable can contain."""
    fields = [field.decode("utf-8", "surrogateescape") for field in body.split(b"\0")]
    if len(fields) < 3 or not fields[2].isdigit() or len(fields) < 3 + int(fields[2]):
        return Refused(why="the request cannot be read")
    num_arguments = int(fields[2])
    pairs = (field.partition("=") for field in fields[3 + num_arguments :])
    return Request(
        executable=fields[0],
        cwd=fields[1],
        argv=tuple(fields[3 : 3 + num_arguments]),
        environment={name: value for name, _, value in pairs if name},
    )


def plan(request: Request, server: Surroundings) -> Start | Refused:
    """What to fork for a request."""
    if request.executable != server.executable:
        return Refused(why=f"another interpreter than the warm server's ({server.executable})")
    workers = server.ray_directory / "_private" / "workers"
    argv, environment = request.argv, dict(request.environment)
    if argv and argv[0] == str(workers / "setup_worker.py"):
        prepared = _set_up(argv, environment, server)
        if isinstance(prepared, Refused):
            return prepared
        argv, environment = prepared
    if not argv or argv[0] not in (str(workers / "default_worker.py"), TRIAL_PROGRAM):
        return Refused(why="not a worker of the Ray that the warm server has imported")
    environment = {name: value for name, value in environment.items() if name != COLD}
    return _checked(argv, request.cwd, environment, server)


def _checked(argv: tuple[str, ...], cwd: str, environment: dict[str, str], server: Surroundings) -> Start | Refused:
    if environment.get(SWITCH) == "0":
        return Refused(why=SWITCHED_OFF)
    if environment.get(DIRECTORY, server.directory) != server.directory:
        return Refused(why="its runtime environment names another warm server")
    if environment.get("RAY_JOB_ID", _NO_JOB) == _NO_JOB:
        return Refused(why="a worker of no job")
    if differing := _differing(environment, server.environment):
        return Refused(why=f"{differing} differs from the warm server's")
    return Start(program=argv[0], argv=argv, cwd=cwd, environment=environment, job=_job(environment))


def _set_up(
    argv: tuple[str, ...], environment: dict[str, str], server: Surroundings
) -> tuple[tuple[str, ...], dict[str, str]] | Refused:
    """Do what ``setup_worker.py`` does, as far as that is to set variables and to go on with the same interpreter."""
    context, language, rest = "{}", "PYTHON", []
    for argument in argv[1:]:
        name, _, value = argument.partition("=")
        if name == "--serialized-runtime-env-context":
            context = value
        elif name == "--language":
            language = value
        else:
            rest.append(argument)
    try:
        wanted = json.loads(context)
    except ValueError:
        return Refused(why="the runtime environment cannot be read")
    variables = wanted.get("env_vars") or {}
    executable = wanted.get("py_executable") or server.executable
    if language != "PYTHON" or wanted.get("command_prefix") or wanted.get("override_worker_entrypoint"):
        return Refused(why="its runtime environment needs more than variables")
    if executable not in (server.executable, shlex.quote(server.executable), *server.launchers):
        return Refused(why="its runtime environment has an interpreter of its own")
    if any("$" in value for value in variables.values()):
        return Refused(why="its runtime environment refers to other variables")
    return tuple(rest), environment | variables


def _differing(environment: Mapping[str, str], own: Mapping[str, str]) -> str | None:
    """A variable that is fixed when an interpreter starts and has another value here and there."""
    fixed = (name for name in sorted({*environment, *own}) if name.startswith(_FIXED_AT_START))
    counted = (name for name in fixed if not name.startswith(_TAKEN_ON_LATER))
    return next((name for name in counted if environment.get(name) != own.get(name)), None)


def _job(environment: Mapping[str, str]) -> str:
    read_on_import = sorted(
        f"{name}={value}"
        for name, value in environment.items()
        if name.startswith("RAY_") and not name.startswith(_READ_BY_RAY_LATE)
    )
    return f"{environment['RAY_JOB_ID']}-{hashlib.sha256(chr(0).join(read_on_import).encode()).hexdigest()[:12]}"
