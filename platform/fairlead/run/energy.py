"""Has a node's energy measured while a worker group trains: in a process beside the rank that comes first on the node.

That process writes what it sees to ``energy/`` below the attempt's directory. Files survive deaths of ranks, nodes and
attempts, so that a result can say what all attempts have used together. Nothing here may end a training: what cannot be
measured is said in the file instead.
"""

import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.evaluation.energy import NodeEnergy
from fairlead.evaluation.measured import section_bytes
from fairlead.run.storage import write_atomically
from fairlead.spec import EnergySpec

DIRECTORY = "energy"
_READY_S = 60.0
_END_S = 20.0
_LAST_WORDS = 300
MOST_ENTRIES = 4000
"""Of nodes, worker groups and attempts: about a kilobyte each."""
_NOT_INSTALLED = "codecarbon is not installed there: install fairlead[energy] on the nodes"


class NoMeter:
    """Measures nothing: nobody asks, or another rank of the node does."""

    def start(self) -> None:
        """Nothing to start."""

    def wait(self) -> None:
        """Nothing to wait for."""

    def end(self) -> None:
        """Nothing to end."""


class EnergyMeter(NoMeter):
    """One node's meter. ``start`` it early, ``wait`` before what is to be measured, ``end`` it after."""

    def __init__(self, attempt: Path, asked: EnergySpec, entry: NodeEnergy, *, rank: int, has_gpus: bool) -> None:
        self._asked = asked
        self._entry = entry
        self._has_gpus = has_gpus
        self._path = attempt / DIRECTORY / f"g{entry.group}-r{rank}.json"
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start measuring, without waiting for it."""
        if importlib.util.find_spec("codecarbon") is None:
            self._give_up(_NOT_INSTALLED)
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            self._home = tempfile.TemporaryDirectory(prefix="fairlead-energy-", ignore_cleanup_errors=True)
            self._process = self._started(Path(self._home.name))
        except OSError as error:
            self._give_up(f"it could not be started: {error}")

    def _started(self, home: Path) -> subprocess.Popen[bytes]:
        given = {
            "path": str(self._path.absolute()),
            "entry": self._entry.model_dump(mode="json", exclude={"parts", "why_not", "library"}),
            "country": self._asked.country,
            "has_gpus": self._has_gpus,
        }
        own = {"HOME": str(home), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        kept = {name: value for name, value in os.environ.items() if not name.lower().startswith("codecarbon_")}
        with open(home / "stderr", "wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "fairlead.run.energy_meter", json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=home,
                env={**kept, **own},
            )

    def wait(self) -> None:
        """Until it measures, or has failed to."""
        process = self._process
        if process is None:
            return
        assert process.stdout is not None, "a pipe"
        readable, _, _ = select.select([process.stdout], [], [], _READY_S)
        if readable and process.stdout.readline().strip():
            return
        why = "it did not start in time" if not readable else f"it failed: {self._last_words()}"
        self._stop_at_once()
        self._give_up(why)

    def end(self) -> None:
        """Have it write its last figures. What it has written before stays if it does not."""
        process = self._process
        if process is not None:
            assert process.stdin is not None, "a pipe"
            try:
                process.stdin.close()  # its end is the word to end
                process.wait(timeout=_END_S)
            except (OSError, subprocess.TimeoutExpired) as error:
                print(f"fairlead: the energy meter did not end in order: {error}", file=sys.stderr)
            self._stop_at_once()
        if self._home is not None:
            self._home.cleanup()

    def _stop_at_once(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def _last_words(self) -> str:
        assert self._home is not None, "made with the process"
        lines = (Path(self._home.name) / "stderr").read_text(errors="replace").strip().splitlines()
        return lines[-1][-_LAST_WORDS:] if lines else "it said nothing"

    def _give_up(self, why: str) -> None:
        """Leave the reason where the figures would be."""
        print(f"fairlead: energy is not measured on this node: {why}", file=sys.stderr)
        entry = self._entry.amended(why_not=why)
        try:
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, f"{entry.model_dump_json(indent=1)}\n".encode())
        except OSError as error:
            print(f"fairlead: {error}", file=sys.stderr)


def energy_entries(attempt: Path) -> list[Mapping[str, Any]]:
    """What all meters of this attempt and of those before it have written, in the order of attempts and groups.

    ``attempt``: its directory ``a<number>`` beside those of the others. What cannot be read, or is too much for a
    report, has an entry without figures in its place.
    """
    number = _number(attempt)
    directories = sorted((path for path in attempt.parent.glob("a*") if _number(path) <= number), key=_number)
    files = [(each, path) for each in directories for path in sorted((each / DIRECTORY).glob("g*.json"))]
    if len(files) > MOST_ENTRIES:
        return [_without_figures(attempt, f"there are {len(files)} files of it, more than {MOST_ENTRIES}")]
    entries = [_entry_of(each, path) for each, path in files]
    try:
        section_bytes("energy", entries)
    except ValueError as error:
        return [_without_figures(attempt, str(error))]
    return entries


def _number(attempt: Path) -> float:
    """Of an attempt's directory; others come after all."""
    text = attempt.name.removeprefix("a")
    return int(text) if text.isdigit() else float("inf")


def _entry_of(attempt: Path, path: Path) -> Mapping[str, Any]:
    """As the file has it, once it is known to be what a report can show: a meter writes whatever codecarbon says."""
    try:
        entry = NodeEnergy.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:  # pydantic's among them
        return _without_figures(attempt, f"{path.name} cannot be read: {' '.join(str(error).split())}")
    return entry.model_dump(mode="json")


def _without_figures(attempt: Path, why_not: str) -> Mapping[str, Any]:
    entry = NodeEnergy(
        node="unknown", attempt=int(_number(attempt)), group=1, ranks=1, duration_s=0, why_not=why_not[:_LAST_WORDS]
    )
    return entry.model_dump(mode="json")
