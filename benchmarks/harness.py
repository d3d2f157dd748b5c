"""What every benchmark shares: sizes from the environment, summaries of repeated runs, and results that say where.

A *result* is a frozen dataclass with the few numbers that are promised; *details* are all others. Both are kept in
``results/<name>.json`` together with the machine, the versions, the commit and the load when the run began.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PACKAGES = ("fairlead", "ray", "torch", "mlflow", "numpy", "sqlalchemy", "fastapi")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one benchmark found. ``result``: a dataclass of numbers; ``sizes``: how much was run."""

    result: Any
    sizes: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)


def size(name: str, default: int) -> int:
    """A size that the environment may set, such as ``RUNS=5``. Raises ``ValueError`` unless it is at least 1."""
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {text!r}")
    return int(text)


def sizes(name: str, default: Sequence[int]) -> list[int]:
    """Several sizes, smallest first, that the environment may set, such as ``QUEUED=1,10``. Raises ``ValueError``."""
    words = os.environ.get(name, "").strip().split(",")
    if words == [""]:
        return sorted(default)
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise ValueError(f"{name} must be whole numbers of at least 1 with commas between, not {os.environ[name]!r}")
    return sorted({int(word) for word in words})


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of ``values`` do not exceed: one that was really measured."""
    if not values:
        raise ValueError("no value has been measured")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile, extremes and number of repeated runs, to a thousandth."""
    found = {
        "p50": statistics.median(values),
        "p95": quantile(values, 0.95),
        "min": min(values),
        "max": max(values),
    }
    return {name: round(value, 3) for name, value in found.items()} | {"runs": len(values)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Where and on what a benchmark ran."""

    date: str
    cores: int
    memory_gb: float
    cpu: str
    kernel: str
    python: str
    versions: Mapping[str, str]
    commit: str
    """Ends in ``+`` where files had changed since."""
    load_average: tuple[float, float, float]


def surroundings() -> Surroundings:
    """As they are now."""
    one, five, fifteen = os.getloadavg()
    return Surroundings(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        cpu=_cpu_model(),
        kernel=platform.release(),
        python=platform.python_version(),
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        commit=_commit(),
        load_average=(round(one, 2), round(five, 2), round(fifteen, 2)),
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", "platform", "api") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE.parent, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Jiffies of all cores since the machine began: what was stolen by the host, and all."""

    stolen: int
    total: int


def processor_time() -> ProcessorTime:
    """As it stands now."""
    fields = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ProcessorTime(stolen=fields[7], total=sum(fields))


def stolen_share(since: ProcessorTime) -> float:
    """Share (0 to 1) of the processor time that the host took for others since then."""
    now = processor_time()
    return round((now.stolen - since.stolen) / max(1, now.total - since.total), 4)


def keep(name: str, measurement: Measurement, place: Surroundings, *, stolen: float, directory: Path = RESULTS) -> Path:
    """Write the result's file and return its path."""
    document = {
        "name": name,
        "result": as_plain(measurement.result),
        "sizes": dict(measurement.sizes),
        "surroundings": {**dataclasses.asdict(place), "processor_time_stolen": stolen},
        "details": dict(measurement.details),
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def as_plain(result: Any) -> dict[str, float | int]:
    """The fields of a result, fractions to four digits. Raises ``ValueError`` for a number that is not finite."""
    plain = {name: round(value, 4) if isinstance(value, float) else value for name, value in _fields(result)}
    if odd := [name for name, value in plain.items() if not math.isfinite(value)]:
        raise ValueError(f"not measured: {', '.join(odd)}")
    return plain


def _fields(result: Any) -> list[tuple[str, Any]]:
    return [(each.name, getattr(result, each.name)) for each in dataclasses.fields(result)]
