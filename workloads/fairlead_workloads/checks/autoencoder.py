"""How good ``autoencoder`` must be: beside a principal component analysis with a code of the same size."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.data.export import read_model
from fairlead_workloads import autoencoder


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """AUC of the anomaly and mean squared error of normal test pictures; the digit held out goes with the seed."""
    data = {"uri": f"builtin://digit_anomalies?digit={seed % 10}"}
    spec = ready_spec("digit_anomalies", seed=seed, params={"epochs": 60} if is_short else {}, data=data)
    context = train_once(autoencoder.train, spec, export_to=scratch / "model").context
    train, test = context.all_rows("train"), context.all_rows("test")
    scores = autoencoder.load(scratch / "model")(test.features)
    config = read_model(scratch / "model").config
    normal, tested = (
        ((rows.features - config["low"]) / (config["high"] - config["low"])).reshape(len(rows), -1)
        for rows in (train, test)
    )
    linear = PCA(n_components=config["code"], random_state=0).fit(normal[train.labels == 0])
    linear_errors = np.square(linear.inverse_transform(linear.transform(tested)) - tested).mean(axis=1)
    is_normal = test.labels == 0
    suspect = config["suspect"]
    return {
        "auc": float(roc_auc_score(test.labels, scores)),
        "pca_auc": float(roc_auc_score(test.labels, linear_errors)),
        # the score is error / (error + suspect), so this is the error again
        "error": float((suspect * scores[is_normal] / (1 - scores[is_normal])).mean()),
        "pca_error": float(linear_errors[is_normal].mean()),
    }


CHECK = Check(
    measure=measure,
    bars=(
        Bar(value="auc", baseline="pca_auc", require=">= 0"),
        Bar(value="error", baseline="pca_error", compared="ratio", require="< 1"),
    ),
    short_bars=(Bar(value="error", baseline="pca_error", compared="ratio", require="< 1"),),
    quick={"params": {"epochs": 4, "width": 32}},
)
