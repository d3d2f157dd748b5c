"""What evaluating for groups adds to a distributed run, as a share of the time an epoch takes for as many rows.

The built-in ``tabular_mlp`` on ``builtin://lending`` with two real workers. What is added: ``context.evaluate`` and the
encoding of the counts on the slowest rank, and what the runner then does with all of them: reading, merging, checking
and writing. The forward pass over the test split is no addition: whoever wants to know an accuracy needs it too.
``RUNS``: of each; ``EPOCHS``: of a run, the first of which does not count; ``WIDTH``: of both hidden layers.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size, spread
from benchmarks.places import PROGRAMS, RUN_S, fairlead_stack, scratch
from fairlead.evaluation import CountState
from fairlead.protocol import STATE_FILE

NAME = "evaluation_share"
RUNS = 5
EPOCHS = 5
WIDTH = 512
WORKERS = 2
BY = ("sex", "age_band")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationShare:
    """The median over runs."""

    share_of_epoch: float
    """Seconds added over those that an epoch takes for as many rows as the test split has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Seconds of one run, each of its slowest rank."""

    epoch_s: float
    """The median of its epochs, over all rows of the train split."""
    forward_s: float
    counting_s: float
    """``context.evaluate`` and the encoding of the counts."""
    merging_s: float
    """In the runner."""
    train_rows: int
    test_rows: int

    @property
    def added_s(self) -> float:
        """What evaluating for groups costs beside the forward pass."""
        return self.counting_s + self.merging_s

    @property
    def share(self) -> float:
        """Of the time that an epoch takes for as many rows as are evaluated."""
        return self.added_s / (self.epoch_s * self.test_rows / self.train_rows)


def measure() -> Measurement:
    """Runs one after the other on one stack."""
    runs, epochs, width = size("RUNS", RUNS), size("EPOCHS", EPOCHS), size("WIDTH", WIDTH)
    found = []
    with scratch() as directory, fairlead_stack(directory / "home") as (_, client):
        for number in range(runs):
            stamp = directory / f"run-{number}"
            experiment = client.submit(spec(stamp, epochs=epochs, width=width), code=PROGRAMS)
            experiment.result(timeout=RUN_S)
            ranks = [json.loads(Path(f"{stamp}.rank-{rank}").read_text()) for rank in range(WORKERS)]
            (state,) = (directory / "home").rglob(f"{experiment.id}/a1/{STATE_FILE}")
            found.append(slowest(ranks, merging_s=merged_in(state.read_bytes(), directory / "merged")))
    return conclude(found, {"runs": runs, "epochs": epochs, "width": width, "workers": WORKERS})


def spec(stamp: Path, *, epochs: int, width: int) -> dict[str, Any]:
    """The experiment."""
    return {
        "name": "evaluation-share",
        "workload": "evaluated:train",
        "params": {"epochs": epochs + 1, "hidden": [width, width], "batch_size": 256, "stamp": str(stamp)},
        "data": {"uri": "builtin://lending", "sensitive": list(BY)},
        "evaluation": {"groupings": [list(BY)]},
        "resources": {"workers": WORKERS},
    }


def slowest(ranks: Sequence[Mapping[str, Any]], *, merging_s: float) -> Run:
    """A run by what its ranks have left; for each thing the rank that took longest, since the others wait for it."""
    return Run(
        epoch_s=max(statistics.median(rank["epochs_s"]) for rank in ranks),
        forward_s=max(rank["forward_s"] for rank in ranks),
        counting_s=max(rank["counting_s"] + rank["encoding_s"] for rank in ranks),
        merging_s=merging_s,
        train_rows=ranks[0]["train_rows"],
        test_rows=ranks[0]["test_rows"],
    )


def merged_in(content: bytes, path: Path) -> float:
    """Seconds that a runner needs for the counts of all ranks; those of a rank are as large as the sum."""
    began = time.perf_counter()
    state = reduce(CountState.merge, [CountState.from_bytes(content) for _ in range(WORKERS)])
    state.check_complete(expected_n=state.n, expected_sum=state.record_sum, expected_xor=state.record_xor)
    path.write_bytes(state.to_bytes())
    return time.perf_counter() - began


def conclude(found: Sequence[Run], sizes: Mapping[str, Any]) -> Measurement:
    """The share, and what it is made of."""
    details = {
        "share": spread([run.share for run in found]),
        "share_of_whole_epoch": spread([run.added_s / run.epoch_s for run in found]),
        "share_of_forward": spread([run.added_s / run.forward_s for run in found]),
        "epoch_s": spread([run.epoch_s for run in found]),
        "forward_s": spread([run.forward_s for run in found]),
        "counting_ms": spread([1000 * run.counting_s for run in found]),
        "merging_ms": spread([1000 * run.merging_s for run in found]),
        "rows": {"train": found[0].train_rows, "test": found[0].test_rows},
    }
    result = EvaluationShare(share_of_epoch=round(statistics.median(run.share for run in found), 6))
    return Measurement(result=result, sizes=sizes, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    titles = {"share": "of an epoch of as many rows", "share_of_whole_epoch": "of a whole epoch"}
    rows = [
        Bar(label=title, value=100 * found["p50"], low=100 * found["min"], high=100 * found["max"])
        for name, title in titles.items()
        for found in [document["details"][name]]
    ]
    (directory / f"{NAME}.svg").write_text(bars("What evaluating for groups adds, per cent: median, least, most", rows))
