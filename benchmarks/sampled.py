"""Where Python's time goes in a stack's processes, by py-spy, which looks from outside a hundred times a second.

Only moments count in which a thread holds the interpreter's lock: waiting is not work. Threads of C++ (Ray's core) and
of torch are not seen. Looking stops a process for a moment, so nothing is timed while somebody looks.
"""

import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fairlead.errors import Unavailable

RATE = 100
"""Looks a second."""
_KINDS: Mapping[str, str] = {
    "fairlead/run/runner.py": "runner",
    "v2/_internal/execution/controller": "Ray Train's controller",
    "fairlead/run/worker.py": "worker",
    "fairlead_api/": "API and loops",
    "fairlead/agent/": "agent",
    "fairlead/run/warm/": "fork server",
}
"""A process is of the first kind here whose file any of its stacks has."""
_PROCESS = re.compile(r'process (\d+):"')
_FRAME = re.compile(r"\(([^()]*):\d+\)$")
_STARTED_WITHIN_S = 30


@contextmanager
def watching(pids: Iterable[int], directory: Path) -> Iterator[Callable[[], str]]:
    """Look at processes and all they fork; the function given gives the stacks, once the context is left."""
    command = Path(sys.executable).with_name("py-spy")
    if not command.exists():
        raise Unavailable("py-spy is not installed; it comes with ray[default]")
    outputs = {pid: directory / f"stacks-{pid}.txt" for pid in pids}
    started = [_start(command, pid, path) for pid, path in outputs.items()]
    try:
        yield lambda: "".join(path.read_text() for path in outputs.values())
    finally:
        for process in started:
            process.send_signal(signal.SIGINT)
        for process in started:
            process.communicate(timeout=_STARTED_WITHIN_S)


def _start(command: Path, pid: int, output: Path) -> "subprocess.Popen[str]":
    options = ["--subprocesses", "--gil", "--rate", str(RATE), "--duration", "3600", "--format", "raw"]
    process = subprocess.Popen(
        [command, "record", *options, "--pid", str(pid), "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    while line and "Press Control-C" not in line and "Sampling process" not in line:
        line = process.stdout.readline()
    if not line:
        raise Unavailable(f"py-spy may not look at process {pid}: it needs to be root, or ptrace to be allowed")
    return process


def by_kind(stacks: str, *, starts: int) -> dict[str, dict[str, float]]:
    """Milliseconds a start of each kind of process, by the package of the innermost frame.

    ``stacks``: lines of frames, outermost first and separated by semicolons, and a count (py-spy's ``raw``). The time
    of the fork server's children belongs to them, not to it.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    files: dict[str, set[str]] = defaultdict(set)
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        process, found = _innermost(frames.split(";"))
        if found:
            counts[process][package_of(found[-1])] += int(count)
            files[process].update(found)
    spent: dict[str, Counter[str]] = defaultdict(Counter)
    for process, packages in counts.items():
        spent[_kind(files[process])].update(packages)
    unit = 1000 / RATE / starts
    return {kind: {name: n * unit for name, n in spent[kind].most_common()} for kind in sorted(spent)}


def _innermost(frames: Iterable[str]) -> tuple[str, list[str]]:
    """The last process that a line names, and the files of its frames."""
    process = ""
    found: list[str] = []
    for frame in frames:
        if (begun := _PROCESS.match(frame)) is not None:
            process, found = begun[1], []
        elif (place := _FRAME.search(frame)) is not None:
            found.append(place[1])
    return process, found


def _kind(files: Iterable[str]) -> str:
    seen = [*files]
    return next((kind for part, kind in _KINDS.items() if any(part in file for file in seen)), "others")


def package_of(file: str) -> str:
    """``ray/train/v2/api.py`` belongs to ``ray``; a file without a directory to Python itself."""
    first = file.removeprefix("<").split("/")[0]
    return first if "/" in file and first not in ("asyncio", "importlib", "concurrent", "json") else "python"
