"""Two pages of the catalogue through Fairlead, against the same models and batches as plain scripts under torchrun.

Both run in turn beside the same idle stack, each pair the other way round than the one before; both keep a checkpoint
at the end of every epoch, while the next one's steps go on. Compared is what a step takes; whole epochs, with the
checkpoint and the report at the end, are among the details. The first epoch of a run does not count. ``RUNS``: pairs of
each page, with 1 and 2 workers; ``EPOCHS``: of each run, by default so many that it trains for some seconds; ``TEXT``:
kilobytes that the language model reads, of which 100 are an epoch of one or two seconds.
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
EPOCHS = {"image_cnn": 24, "transformer_lm": 5}
WORKERS = (1, 2)
WAYS = ("fairlead", "torchrun")
SPLIT = {"train": 1.0, "validation": 0.0, "test": 0.0}
TEXT = 100
PAGES = {"image_cnn": "builtin://digits", "transformer_lm": "builtin://python_docs?kilobytes={text}"}
PARAMS: Mapping[str, Mapping[str, Any]] = {"image_cnn": {}, "transformer_lm": {"batch_size": 32}}


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchrunRatio:
    """Steps a second through Fairlead over those under torchrun: medians of pairs, by page and number of workers."""

    image_cnn_1: float
    image_cnn_2: float
    transformer_lm_1: float
    transformer_lm_2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Milliseconds of a step or of an epoch; equal places in both lists are a pair."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def of(self, way: str) -> list[float]:
        """Those of one way."""
        return self.ours if way == "fairlead" else self.theirs

    @property
    def ratios(self) -> list[float]:
        """Above 1: Fairlead was the faster one."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]


def measure() -> Measurement:
    """Pairs of runs on one stack."""
    runs, epochs = size("RUNS", RUNS), {page: size("EPOCHS", EPOCHS[page]) for page in PAGES}
    steps = {(page, workers): Pairs() for page in PAGES for workers in WORKERS}
    whole = {key: Pairs() for key in steps}
    peaks: dict[str, list[float]] = {}
    with scratch() as directory, fairlead_stack(directory / "home") as (_, client):
        for number in range(runs):
            for page, workers in steps:
                for way in WAYS if number % 2 == 0 else reversed(WAYS):
                    stamp = directory / f"{way}-{page}-{workers}-{number}"
                    run(client, way, page, workers, epochs[page] + 1, stamp)
                    measured = json.loads(stamp.read_text())
                    steps[page, workers].of(way).append(1000 * statistics.median(measured["steps_s"][1:]))
                    whole[page, workers].of(way).append(1000 * statistics.median(measured["epochs_s"][1:]))
                    if "peak_bytes" in measured:
                        peaks.setdefault(f"{way}_{page}_{workers}", []).append(measured["peak_bytes"] / 2**30)
    return conclude(steps, whole, {"runs": runs, "epochs": epochs, "kilobytes_of_text": size("TEXT", TEXT)}, peaks)


def run(client: Client, way: str, page: str, workers: int, epochs: int, stamp: Path) -> None:
    """One training. Raises ``Unavailable`` with the last words of a plain one that fails."""
    given = find_manifests()[page].with_defaults({**PARAMS[page], "epochs": epochs})
    data = {"uri": PAGES[page].format(text=size("TEXT", TEXT)), "split": SPLIT}
    params = {"page": page, "given": given, "data": data, "stamp": str(stamp)}
    if way == "fairlead":
        resources = {"workers": workers, "cpus_per_worker": 1}
        spec = {"name": "torchrun-ratio", "workload": "pages:train", "params": params, "data": data}
        client.submit({**spec, "resources": resources}, code=PROGRAMS).result(timeout=RUN_S)
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    command = [*launcher, str(PROGRAMS / "pages.py"), json.dumps(params)]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=RUN_S)
    if done.returncode != 0:
        raise Unavailable(f"the program ended with {done.returncode}: {done.stderr[-2000:]}")


def conclude(
    steps: Mapping[tuple[str, int], Pairs],
    whole: Mapping[tuple[str, int], Pairs],
    sizes: Mapping[str, Any],
    peaks: Mapping[str, Sequence[float]],
) -> Measurement:
    """The ratios, with their spread; on a GPU also the peak memory of both."""
    medians = {f"{page}_{workers}": statistics.median(pairs.ratios) for (page, workers), pairs in steps.items()}
    details: dict[str, Any] = {"peak_gb": {name: spread(values) for name, values in peaks.items()}}
    for what, found in (("step", steps), ("epoch", whole)):
        by_name = {f"{page}_{workers}": pairs for (page, workers), pairs in found.items()}
        details[f"{what}_ratio"] = {name: spread(pairs.ratios) for name, pairs in by_name.items()}
        details[f"fairlead_{what}_ms"] = {name: spread(pairs.ours) for name, pairs in by_name.items()}
        details[f"torchrun_{what}_ms"] = {name: spread(pairs.theirs) for name, pairs in by_name.items()}
    return Measurement(result=TorchrunRatio(**medians), sizes=sizes, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    rows = [
        Bar(label=name.replace("_", " "), value=found["p50"], low=found["min"], high=found["max"])
        for name, found in document["details"]["step_ratio"].items()
    ]
    (directory / f"{NAME}.svg").write_text(bars("Steps a second over those of torchrun: median, least, most", rows))
