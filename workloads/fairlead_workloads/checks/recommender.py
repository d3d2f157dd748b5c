"""How much better than popularity ``recommender`` must rank made-up users' items."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.data import open_dataset
from fairlead.spec import ExperimentSpec
from fairlead_workloads import recommender


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Recall at ten of both methods on the test split, and that of the most popular items."""
    found = {}
    for method in ("two_tower",) if is_short else ("two_tower", "matrix_factorisation"):
        params = {"method": method, **({"epochs": 8} if is_short else {})}
        spec = ready_spec("recommendations", seed=seed, params=params)
        found[f"{method}_recall"] = train_once(recommender.train, spec).last["test/recall_at_10"]
    return {**found, "popularity_recall": recall_of_popularity(spec)}


def recall_of_popularity(spec: ExperimentSpec) -> float:
    """Recall at ten where every user is shown what was clicked most often in the train split."""
    data = open_dataset(spec.data)
    train, test = data.rows("train"), data.rows("test")
    clicks = np.bincount(train.features[:, 1], weights=train.labels, minlength=len(data.info.details["items"]))
    shares = []
    for user in np.unique(test.features[test.labels == 1, 0]):
        own = test.features[:, 0] == user
        first = np.argsort(-clicks[test.features[own, 1]], kind="stable")[:10]
        shares.append(test.labels[own][first].sum() / test.labels[own].sum())
    return float(np.mean(shares))


CHECK = Check(
    measure=measure,
    bars=tuple(
        Bar(value=f"{method}_recall", baseline="popularity_recall", compared="ratio", require=">= 1.5")
        for method in ("two_tower", "matrix_factorisation")
    ),
    short_bars=(Bar(value="two_tower_recall", baseline="popularity_recall", compared="ratio", require=">= 1.2"),),
    quick={"params": {"epochs": 2, "factors": 8}, "data": {"uri": "builtin://interactions?users=100&items=60"}},
)
