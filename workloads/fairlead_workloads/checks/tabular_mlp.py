"""How good ``tabular_mlp`` must be: as good as linear models on small tables, where little else can be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.spec import ExperimentSpec
from fairlead_workloads import tabular_mlp

CANCER: Mapping[str, Any] = {"uri": "builtin://breast_cancer", "target": None, "features": None, "sensitive": []}
NUMBER: Mapping[str, Any] = {"target": "progression", "predict": "number", "sensitive": []}
FRAUD: Mapping[str, Any] = {"uri": "builtin://fraud", "target": None, "features": None, "sensitive": []}
NO_GROUPS: Mapping[str, Any] = {"evaluation": {}, "gates": ()}


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """AUC of ours and of logistic regression on two tables, R2 of ours and of ridge, precision on rare cases."""
    found: dict[str, float] = {}
    spec = ready_spec("diabetes_risk", seed=seed)
    found["diabetes_auc"], found["diabetes_linear_auc"] = areas(spec, scratch / "diabetes")
    if is_short:
        return found
    found["cancer_auc"], found["cancer_linear_auc"] = areas(changed(spec, CANCER), scratch / "cancer")
    found["r2"], found["ridge_r2"] = fits(changed(spec, NUMBER), scratch / "number")
    fraud = changed(spec, FRAUD, epochs=10, hidden=[32], weight_decay=0.01, imbalance="weights", batch_size=256)
    found["fraud_precision"], found["fraud_linear_precision"] = precisions(fraud, scratch / "fraud")
    return found


def changed(spec: ExperimentSpec, data: Mapping[str, Any], **params: Any) -> ExperimentSpec:
    """The spec with other data and parameters, and nobody to compare."""
    return spec.amended(**NO_GROUPS, data={**spec.data.model_dump(), **data}, params={**spec.params, **params})


def areas(spec: ExperimentSpec, directory: Path) -> tuple[float, float]:
    """Exact test AUC of our model and of logistic regression, trained on the same rows."""
    ours, theirs, labels = scores_of(spec, directory)
    return float(roc_auc_score(labels, ours)), float(roc_auc_score(labels, theirs))


def precisions(spec: ExperimentSpec, directory: Path) -> tuple[float, float]:
    """Average precision of both: what of the rows that look worst are cases."""
    ours, theirs, labels = scores_of(spec, directory)
    return float(average_precision_score(labels, ours)), float(average_precision_score(labels, theirs))


def scores_of(spec: ExperimentSpec, directory: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of ours and of logistic regression on the test rows, and their labels."""
    context = train_once(tabular_mlp.train, spec, export_to=directory).context
    test, train = context.all_rows("test"), context.all_rows("train")
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train.features, train.labels)
    ours = tabular_mlp.load(directory)(test.features)[:, 1]
    return ours, linear.predict_proba(test.features)[:, 1], test.labels


def fits(spec: ExperimentSpec, directory: Path) -> tuple[float, float]:
    """R2 of our model and of ridge regression on the test rows."""
    context = train_once(tabular_mlp.train, spec, export_to=directory).context
    test, train = context.all_rows("test"), context.all_rows("train")
    ridge = make_pipeline(StandardScaler(), Ridge()).fit(train.features, train.labels)
    ours, theirs = tabular_mlp.load(directory)(test.features), ridge.predict(test.features)
    return float(r2_score(test.labels, ours)), float(r2_score(test.labels, theirs))


CHECK = Check(
    measure=measure,
    bars=(
        Bar(value="diabetes_auc", baseline="diabetes_linear_auc", require=">= -0.01"),
        Bar(value="cancer_auc", baseline="cancer_linear_auc", require=">= -0.01"),
        Bar(value="r2", baseline="ridge_r2", require=">= -0.02"),
        Bar(value="fraud_precision", baseline="fraud_linear_precision", require="> 0"),
    ),
    short_bars=(Bar(value="diabetes_auc", baseline="diabetes_linear_auc", require=">= -0.03"),),
    quick={"params": {"epochs": 4, "dropout": 0.0}},
)
