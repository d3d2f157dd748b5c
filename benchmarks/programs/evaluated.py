"""The built-in ``tabular_mlp`` as it is, with a clock at the places where it asks the platform for something.

``stamp`` (a path): each rank writes beside it how long its epochs took, its forward pass over the test split, and
``context.evaluate`` with the encoding of its counts. All other ``params`` are the workload's own.
"""

import json
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from fairlead_workloads import tabular_mlp


class Clocked:
    """A context that keeps when it was asked what; everything else is the platform's."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.epochs_ended: list[float] = []
        self.forward_s = self.counting_s = self.encoding_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def should_stop(self) -> bool:
        """Asked at the end of each epoch."""
        answer: bool = self._context.should_stop()
        self.epochs_ended.append(time.perf_counter())
        return answer

    def evaluate(self, split: str, **given: Any) -> None:
        """Asked once, when the forward pass over the split is done."""
        began = time.perf_counter()
        self._context.evaluate(split, **given)
        counted = time.perf_counter()
        self._context.states[split].to_bytes()  # as the rank does when it hands over its counts
        self.forward_s, self.counting_s = began - self.epochs_ended[-1], counted - began
        self.encoding_s = time.perf_counter() - counted


def train(given: Mapping[str, Any], context: Any) -> None:
    """Train, evaluate, and leave the durations."""
    params = dict(given)
    stamp = params.pop("stamp")
    clocked = Clocked(context)
    tabular_mlp.train(params, clocked)  # type: ignore[arg-type]  # it answers like a context
    ends = clocked.epochs_ended
    rows = context.dataset.num_by_split
    durations = {
        "epochs_s": [after - before for before, after in pairwise(ends)],
        "forward_s": clocked.forward_s,
        "counting_s": clocked.counting_s,
        "encoding_s": clocked.encoding_s,
        "train_rows": rows["train"],
        "test_rows": rows["test"],
    }
    Path(f"{stamp}.rank-{context.rank}").write_text(json.dumps(durations))
