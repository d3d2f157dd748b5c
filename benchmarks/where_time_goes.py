"""One warm submit taken apart by time stamps, from the user's call to the result; what computes meanwhile; imports.

Nothing is measured inside the platform for this: the stamps are events, the columns of the attempt, files that an
attempt leaves, and the log of Ray Train's controller. ``RUNS``: submits, one worker each; a part is the median of all.
As many more are watched by py-spy.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size, spread
from benchmarks.memory import footprints
from benchmarks.places import RUN_S, fairlead_stack, scratch, start_of, submit, warm_directory, warm_up
from benchmarks.sampled import by_kind, watching
from fairlead import Client
from fairlead.client import Experiment, Stack
from fairlead.embedded.processes import family
from fairlead.errors import Unavailable
from fairlead.lifecycle import State
from fairlead.protocol import BEGUN_FILE, RESULT_FILE
from fairlead.run.warm import status

NAME = "where_time_goes"
RUNS = 9
FIRST_STEP = "first step"
PARTS: Mapping[str, str] = {
    "accepted": "client: code packed and looked up, spec sent, row written",
    "queued": "control plane: admitted",
    "placed": "control plane: placed",
    "leased": "agent: has heard of the offer and leased it",
    "runner begun": "agent and Ray: runner's process forked, actor made, attempt begun",
    "controller up": "runner: Ray Train loaded, controller's process forked, actor made",
    "group asked for": "controller: started",
    "workers created": "controller: placement group, workers' processes forked, actors made",
    "loop launched": "controller: contexts, process group, function handed over",
    "ranks said hello": "workers: function unpickled, first words to the runner",
    FIRST_STEP: "workers: data and workload loaded",
    "last step": "the training itself, three steps",
    "result on disk": "runner: group ended, result written",
    "result claimed": "agent: has seen the result and claimed it",
    "succeeded": "control plane: report, state",
    "client knows": "client: has heard of it",
}
"""What lies between the milestone before and the one of this name."""
IMPORTS: Mapping[str, str] = {
    "client": "import fairlead",
    "command line": "import fairlead.cli.app",
    "runner": "import fairlead.run.runner, fairlead.run.training",
    "worker": "import fairlead.run.worker",
}
_TOP = 6
_IMPORT_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|\s*(\S+)")
_ASKED, _CREATED, _LAUNCHED = (
    "Attempting to start training worker group",
    "worker actors created",
    "Train function launched",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WhereTimeGoes:
    """Seconds, medians; the parts of a start, then two imports."""

    first_step_s: float
    control_plane_s: float
    """From the call until an agent has leased the attempt."""
    runner_s: float
    """Until the runner has begun."""
    train_s: float
    """Until Ray Train has launched the loop on its workers."""
    workload_s: float
    """Until the first line of the loop."""
    to_result_s: float
    """From the first step until the client has the result."""
    import_cli_s: float
    import_runner_s: float


def measure() -> Measurement:
    """The submits, then the imports."""
    runs = size("RUNS", RUNS)
    with scratch() as directory:
        home = directory / "home"
        with fairlead_stack(home) as (stack, client):
            warm_up(client, home)
            logs = stack.description.ray_directory / "r" / "session_latest" / "logs" / "train"
            found = [_taken_apart(client, home, logs) for _ in range(runs)]
            with watching(_to_watch(stack.description, home), directory) as read_stacks:
                for _ in range(runs):
                    submit(client, "watched", {"stamp": str(directory / "watched"), "steps": 3}).result(timeout=RUN_S)
            computed = by_kind(read_stacks(), starts=runs)
        imports = {name: import_times(_import_log(statement)) for name, statement in IMPORTS.items()}
    return conclude(found, imports, computed)


def _to_watch(stack: Stack, home: Path) -> list[int]:
    """API, agent and the fork server, of which everything else of an attempt is a child."""
    warm = status(warm_directory(home))
    assert warm is not None, "the stack is up"
    members = footprints(family(stack.processes, stack.marker))
    return [warm.pid, *(each.pid for each in members if each.name in ("fairlead_api", "fairlead.agent.process"))]


def conclude(
    found: Sequence[Mapping[str, float]],
    imports: Mapping[str, Mapping[str, float]],
    computed: Mapping[str, Mapping[str, float]],
) -> Measurement:
    """Parts and their sums.

    ``found``: seconds of each part, a submit each; ``imports``: seconds by package; ``computed``: milliseconds a submit
    by kind of process and package.
    """

    def between(first: str, last: str) -> float:
        names = [*PARTS]
        inside = names[names.index(first) : names.index(last) + 1]
        return statistics.median(sum(each[name] for name in inside) for each in found)

    result = WhereTimeGoes(
        first_step_s=between("accepted", FIRST_STEP),
        control_plane_s=between("accepted", "leased"),
        runner_s=between("runner begun", "runner begun"),
        train_s=between("controller up", "loop launched"),
        workload_s=between("ranks said hello", FIRST_STEP),
        to_result_s=between("last step", "client knows"),
        import_cli_s=sum(imports["command line"].values()),
        import_runner_s=sum(imports["runner"].values()),
    )
    details = {
        "parts_s": {name: spread([each[name] for each in found]) for name in PARTS},
        "computed_ms": {kind: _largest(packages) for kind, packages in computed.items()},
        "imports_s": {name: _largest(packages) for name, packages in imports.items()},
    }
    return Measurement(result=result, sizes={"runs": len(found), "workers": 1}, details=details)


def parts(milestones: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each part from the times of all milestones, ``called`` first.

    Clocks of one machine agree, but not every stamp is taken at the very moment: a part is never less than nothing.
    """
    times = [milestones["called"], *(milestones[name] for name in PARTS)]
    latest = [max(times[: number + 1]) for number in range(len(times))]
    return {name: after - before for name, (before, after) in zip(PARTS, pairwise(latest), strict=True)}


def import_times(log: str) -> dict[str, float]:
    """Seconds that the modules of each top-level package took themselves, from ``python -X importtime``."""
    seconds: dict[str, float] = {}
    for own, _, name in _IMPORT_LINE.findall(log):
        package = name.partition(".")[0]
        seconds[package] = seconds.get(package, 0.0) + int(own) / 1e6
    return seconds


def _largest(packages: Mapping[str, float]) -> dict[str, float]:
    """The most expensive packages, the others together, and all."""
    names = sorted(packages, key=lambda name: -packages[name])
    shown = {name: round(packages[name], 3) for name in names[:_TOP]}
    others = sum(packages[name] for name in names[_TOP:])
    return {**shown, "others": round(others, 3), "all": round(sum(packages.values()), 3)}


def table(document: Mapping[str, Any]) -> str:
    """The section of the README: parts in order, then imports."""
    lines = ["", "| until | what happens | median s | least | most |", "| --- | --- | --- | --- | --- |"]
    for name, found in document["details"]["parts_s"].items():
        shown = f"**{name}**" if name == FIRST_STEP else name
        times = " | ".join(f"{found[each]:.3f}" for each in ("p50", "min", "max"))
        lines.append(f"| {shown} | {PARTS[name]} | {times} |")
    result = document["result"]
    lines += ["", f"Call to first step: {result['first_step_s']:.2f} s; from there to the result: "]
    lines[-1] += f"{result['to_result_s']:.2f} s. The medians of parts do not add up to the median of sums."
    lines += ["", "| Python in | ms a submit | of which |", "| --- | --- | --- |"]
    for kind, packages in document["details"]["computed_ms"].items():
        largest = ", ".join(f"{each} {value:.0f}" for each, value in packages.items() if each != "all")
        lines.append(f"| {kind} | {packages['all']:.0f} | {largest} |")
    lines += ["", "| import | seconds | of which |", "| --- | --- | --- |"]
    for name, packages in document["details"]["imports_s"].items():
        largest = ", ".join(f"{each} {value:.2f}" for each, value in packages.items() if each != "all")
        lines.append(f"| {name}: `{IMPORTS[name]}` | {packages['all']:.2f} | {largest} |")
    return "\n".join([*lines, ""]) + "\n"


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    rows = [
        Bar(label=name, value=found["p50"], low=found["min"], high=found["max"])
        for name, found in document["details"]["parts_s"].items()
    ]
    (directory / f"{NAME}.svg").write_text(bars("Seconds until each milestone since the one before it", rows))


# ---- one submit -----------------------------------------------------------------------------------------------------


def _taken_apart(client: Client, home: Path, logs: Path) -> dict[str, float]:
    stamp = home / f"stamp-{time.monotonic_ns()}"
    called = time.time()
    experiment = submit(client, "where-time-goes", {"stamp": str(stamp), "steps": 3})
    experiment.result(timeout=RUN_S)
    knows = time.time()
    if (start := start_of(experiment)) != "warm":
        raise Unavailable(f"a start that was to be warm is {start}")
    attempt = home / "storage" / experiment.view.project / experiment.id / "a1"
    return parts(
        {
            "called": called,
            **_of_control_plane(experiment),
            **_of_controller(logs, since=called),
            "runner begun": (attempt / BEGUN_FILE).stat().st_mtime,
            FIRST_STEP: float(stamp.read_text()),
            "last step": Path(f"{stamp}.steps").stat().st_mtime,
            "result on disk": (attempt / RESULT_FILE).stat().st_mtime,
            "client knows": knows,
        }
    )


def _of_control_plane(experiment: Experiment) -> dict[str, float]:
    events = [*experiment.events(follow=False)]
    moves = {event.to_state: event.at.timestamp() for event in events if event.to_state is not None}
    hello_ms = next(event.payload["at_ms"] for event in events if event.kind == "warm_start")
    (attempt,) = experiment.attempts()
    if attempt.leased_at is None or attempt.ended_at is None:
        raise Unavailable(f"attempt 1 of {experiment.id} has not run to its end")
    return {
        "accepted": moves[State.ACCEPTED],
        "queued": moves[State.QUEUED],
        "placed": moves[State.PLACED],
        "leased": attempt.leased_at.timestamp(),
        "ranks said hello": hello_ms / 1000,
        "result claimed": attempt.ended_at.timestamp(),
        "succeeded": moves[State.SUCCEEDED],
    }


def _of_controller(logs: Path, *, since: float) -> dict[str, float]:
    """What Ray Train's own log says of the only controller that began since then."""
    begun = [path for path in logs.glob("ray-train-sys-controller-*.log") if path.stat().st_mtime > since]
    if len(begun) != 1:
        raise Unavailable(f"{len(begun)} controllers of Ray Train have written to their log, not one")
    return controller_times(begun[0].read_text().splitlines())


def controller_times(lines: Iterable[str]) -> dict[str, float]:
    """Milestones from the lines of its log. Raises ``Unavailable`` where Ray no longer writes one of them."""
    entries = [json.loads(line) for line in lines]
    known = {"controller up": "", "group asked for": _ASKED, "workers created": _CREATED, "loop launched": _LAUNCHED}
    found: dict[str, float] = {}
    for name, words in known.items():
        times = [each["asctime"] for each in entries if words in each["message"]]
        if not times:
            raise Unavailable(f"the log of Ray Train's controller says nothing like {words!r}")
        found[name] = datetime.strptime(times[0], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    return found


# ---- imports --------------------------------------------------------------------------------------------------------


def _import_log(statement: str) -> str:
    """Of the second try: the first brings the files into memory and compiles them."""
    for _ in range(2):
        command = [sys.executable, "-X", "importtime", "-c", statement]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ), timeout=RUN_S)
    return done.stderr
