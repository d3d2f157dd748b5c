"""What a classifier reaches on rows that it does not learn from, counted by all ranks together."""

from collections.abc import Callable, Mapping

import numpy as np

from fairlead.data.torch import sum_over_ranks
from fairlead.workload import Context


def validate_classes(context: Context, probabilities: Callable[[np.ndarray], np.ndarray]) -> Mapping[str, float]:
    """Mean cross-entropy and accuracy over the whole validation split, each rank doing its shard. Collective.

    ``probabilities``: from features of n rows to those of the classes, shape (n, classes). Empty without such a split.
    """
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    rows = context.shard("validation")
    scores = probabilities(rows.features)
    loss = -np.log(np.clip(scores[np.arange(len(rows)), rows.labels], 1e-12, 1)).sum()
    hits = (scores.argmax(axis=1) == rows.labels).sum()
    total_loss, total_hits = sum_over_ranks(float(loss), float(hits))
    return {"validation/loss": total_loss / num_rows, "validation/accuracy": total_hits / num_rows}
