"""Two pages of the catalogue through Fairlead, against the same models and batches as plain scripts under torchrun.

Both run in turn beside the same idle stack, each pair the other way round than the one before; both keep a checkpoint
at the end of every epoch. The first epoch of a run does not count. ``RUNS``: pairs of each page, with 1 and 2 workers;
``EPOCHS``: of each run.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size, spread
from benchmarks.places import PROGRAMS, RUN_S, fairlead_stack, plain_environment, scratch
from fairlead import Client
from fairlead.data import find_manifests
from fairlead.errors import Unavailable

NAME = "torchrun_ratio"
RUNS = 5
EPOCHS = 4
WORKERS = (1, 2)
SPLIT = {"train": 1.0, "validation": 0.0, "test": 0.0}
PAGES: Mapping[str, Mapping[str, Any]] = {
    "image_cnn": {"uri": "builtin://digits", "split": SPLIT},
    "transformer_lm": {"uri": "builtin://python_docs?kilobytes=100", "split": SPLIT},
}
PARAMS: Mapping[str, Mapping[str, Any]] = {"image_cnn": {}, "transformer_lm": {"batch_size": 32}}


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchrunRatio:
    """Epochs a second through Fairlead over those under torchrun: medians of pairs, by page and number of workers."""

    image_cnn_1: float
    image_cnn_2: float
    transformer_lm_1: float
    transformer_lm_2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Seconds of an epoch; equal places in both lists are a pair."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Above 1: Fairlead was the faster one."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]


def measure() -> Measurement:
    """Pairs of runs on one stack."""
    runs, epochs = size("RUNS", RUNS), size("EPOCHS", EPOCHS)
    found = {(page, workers): Pairs() for page in PAGES for workers in WORKERS}
    peaks: dict[str, list[float]] = {}
    with scratch() as directory, fairlead_stack(directory / "home") as (_, client):
        for number in range(runs):
            for (page, workers), pairs in found.items():
                turns = [("fairlead", pairs.ours), ("torchrun", pairs.theirs)]
                for way, seconds in turns if number % 2 == 0 else reversed(turns):
                    stamp = directory / f"{way}-{page}-{workers}-{number}"
                    run(client, way, page, workers, epochs + 1, stamp)
                    measured = json.loads(stamp.read_text())
                    seconds.append(statistics.median(measured["epochs_s"][1:]))
                    if "peak_bytes" in measured:
                        peaks.setdefault(f"{way}_{page}_{workers}", []).append(measured["peak_bytes"] / 2**30)
    return conclude(found, {"runs": runs, "epochs": epochs}, peaks)


def run(client: Client, way: str, page: str, workers: int, epochs: int, stamp: Path) -> None:
    """One training. Raises ``Unavailable`` with the last words of a plain one that fails."""
    given = find_manifests()[page].with_defaults({**PARAMS[page], "epochs": epochs})
    params = {"page": page, "given": given, "data": PAGES[page], "stamp": str(stamp)}
    if way == "fairlead":
        resources = {"workers": workers, "cpus_per_worker": 1}
        spec = {"name": "torchrun-ratio", "workload": "pages:train", "params": params, "data": PAGES[page]}
        client.submit({**spec, "resources": resources}, code=PROGRAMS).result(timeout=RUN_S)
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    command = [*launcher, str(PROGRAMS / "pages.py"), json.dumps(params)]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=RUN_S)
    if done.returncode != 0:
        raise Unavailable(f"the program ended with {done.returncode}: {done.stderr[-2000:]}")


def conclude(
    found: Mapping[tuple[str, int], Pairs], sizes: Mapping[str, Any], peaks: Mapping[str, Sequence[float]]
) -> Measurement:
    """The ratios, with their spread; on a GPU also the peak memory of both."""
    medians = {f"{page}_{workers}": statistics.median(pairs.ratios) for (page, workers), pairs in found.items()}
    details = {
        "ratio": {f"{page}_{workers}": spread(pairs.ratios) for (page, workers), pairs in found.items()},
        "fairlead_epoch_s": {f"{page}_{workers}": spread(pairs.ours) for (page, workers), pairs in found.items()},
        "torchrun_epoch_s": {f"{page}_{workers}": spread(pairs.theirs) for (page, workers), pairs in found.items()},
        "peak_gb": {name: spread(values) for name, values in peaks.items()},
    }
    return Measurement(result=TorchrunRatio(**medians), sizes=sizes, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    rows = [
        Bar(label=name.replace("_", " "), value=found["p50"], low=found["min"], high=found["max"])
        for name, found in document["details"]["ratio"].items()
    ]
    (directory / f"{NAME}.svg").write_text(bars("Epochs a second over those of torchrun: median, least, most", rows))
