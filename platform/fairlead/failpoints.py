"""Named places between two side effects, where a test lets a process die, sleep or fail. Nothing outside of tests.

``FAIRLEAD_FAILPOINTS=dispatch.placed:kill,agent.leased:sleep=5,record.logged:raise`` arms them, each once a process.
With ``FAIRLEAD_FAILPOINTS_DIRECTORY`` the files in there arm them: named after a failpoint, its action inside. The
first process that passes takes the file, renaming it to ``<name>.taken``, and acts; what is started again lives on.
Both are read once, when the process starts: without them no later change of the environment arms anything.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

NAMES: Mapping[str, str] = {
    "api.inserting": "the experiment is inserted, its stored answer is not; nothing is committed",
    "api.inserted": "the experiment is committed, its user has no answer",
    "api.attached": "the agent's new epoch is committed, the agent does not know it",
    "api.leased": "the lease is committed, the agent has no launch document",
    "api.took_batch": "a batch is committed, the agent does not know",
    "api.claimed": "the result is committed, the agent does not know",
    "dispatch.placing": "the experiment is placed, its attempt is missing; nothing is committed",
    "dispatch.placed": "an attempt is on offer, the other placements of the tick are not made",
    "settle.ended": "the attempt has its outcome, its experiment has not moved",
    "settle.moving": "the experiment has moved, the attempt is not marked; nothing is committed",
    "evaluate.half_report": "the report is there as JSON, not as a page",
    "evaluate.reported": "the report is on the storage, the experiment is still being evaluated",
    "sweep.begun": "a trial's beginning is in the spool, its process is not there",
    "sweep.ended": "a trial's end is in the spool, nothing follows from it yet",
    "sweep.half_report": "the table of a sweep's trials is there, its page and its JSON are not",
    "record.run_made": "MLflow has the run, our row does not know it",
    "record.logged": "MLflow has the points, their batches are not marked",
    "record.children_made": "MLflow has the runs of some trials, their rows are not marked",
    "record.finished": "MLflow's run has ended, our row does not know it",
    "outbox.announcing": "an event is inserted, its messages for webhooks are not; nothing is committed",
    "deliver.claimed": "messages are locked, none is sent",
    "deliver.sent": "a receiver has answered, nothing is written down",
    "deliver.marking": "a message is marked, its try is not kept; nothing is committed",
    "agent.attached": "the server knows the new agent, which has adopted nothing yet",
    "agent.leased": "the attempt is leased, its runner is not launched",
    "agent.launched": "the runner has begun, nobody was told",
    "agent.started": "the server knows that the runner has begun",
    "agent.shipping": "records are read from the spool, not yet sent",
    "agent.shipped": "a batch was sent, the agent's own offset is the old one",
    "agent.committing": "a checkpoint is complete, its commit is not sent",
    "agent.committed": "a checkpoint is committed, the agent has not noted it",
    "agent.claiming": "the result is on the storage, its claim is not sent",
    "agent.claimed": "the result is claimed, leftovers are not removed",
    "runner.beginning": "the attempt's directory is there, nobody has begun",
    "runner.begun": "the file BEGUN is there, and nothing else",
    "runner.manifest": "a checkpoint has its manifest, not its final name",
    "runner.checkpoint": "a checkpoint has its final name, the worker has no answer",
    "runner.ended_group": "the workers are gone, there is no result",
    "runner.concluded": "the result is known and not written",
    "runner.result": "the result is written, nobody was told",
    "storage.renaming": "a file is complete under its temporary name",
}
"""Every name there is, with what is done and what is not when it is passed. A test holds this against the code."""

VARIABLE = "FAIRLEAD_FAILPOINTS"
DIRECTORY_VARIABLE = "FAIRLEAD_FAILPOINTS_DIRECTORY"


class FailpointError(Exception):
    """What an armed failpoint raises: an error that nobody expected."""


def failpoint(name: str) -> None:
    """Pass a named place. Does nothing unless the process was started with failpoints."""
    if _armed and (act := _armed.pop(name, None)) is not None:
        act()
    if _directory is not None and (act := _taken(_directory, name)) is not None:
        act()


def parse(text: str) -> dict[str, Callable[[], None]]:
    """What a value of the variable arms. Raises ``ValueError`` for unknown names and actions."""
    return {name: _action(name, action) for name, _, action in (one.partition(":") for one in text.split(",") if one)}


def _action(name: str, action: str) -> Callable[[], None]:
    if name not in NAMES:
        raise ValueError(f"there is no failpoint {name!r}")
    kind, _, argument = action.strip().partition("=")
    actions: dict[str, Callable[[], None]] = {
        "kill": _kill,
        "raise": partial(_raise, name),
        "sleep": partial(time.sleep, float(argument or 5)),
    }
    if kind not in actions:
        raise ValueError(f"a failpoint can {', '.join(actions)}, not {kind!r}")
    return actions[kind]


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(name: str) -> None:
    raise FailpointError(f"failpoint {name}: {NAMES[name]}")


def _taken(directory: Path, name: str) -> Callable[[], None] | None:
    """The action in the directory's file of that name, for the one process that gets it."""
    taken = directory / f"{name}.taken"
    try:
        (directory / name).rename(taken)
    except FileNotFoundError:
        return None
    return _action(name, taken.read_text())


_armed = parse(os.environ.get(VARIABLE, ""))
_directory = Path(os.environ[DIRECTORY_VARIABLE]) if os.environ.get(DIRECTORY_VARIABLE) else None
