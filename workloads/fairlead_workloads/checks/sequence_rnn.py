"""How well ``sequence_rnn`` must foretell, against last year's numbers and an autoregression, and classify."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.data import Dataset, open_dataset
from fairlead.data.builtin import read_builtin
from fairlead.evaluation.quantities import number_estimates, number_grouping
from fairlead.evaluation.regression import MomentState
from fairlead.evaluation.state import CountState
from fairlead_workloads import sequence_rnn

ORDERS = (12, 24, 36, 48)
"""Of the autoregressions; the longest sees what the network sees."""


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Mean absolute scaled errors of the network and of the baselines on the same test windows; accuracy on forms.

    ``seed`` draws the series and the forms as well as the weights.
    """
    uri = f"builtin://cycles?seed={seed}"
    spec = ready_spec("cycles", seed=seed, params={"epochs": 4} if is_short else {}, data={"uri": uri})
    state = train_once(sequence_rnn.train, spec).test
    assert isinstance(state, MomentState), "what is foretold is graded"
    error = float(number_estimates("mean_quality", number_grouping(state)).values[0])
    found = {"error": error, **errors_of_baselines(open_dataset(spec.data))}
    return found if is_short else {**found, "accuracy": accuracy_on_forms(seed)}


def accuracy_on_forms(seed: int) -> float:
    """Of the same page on series that have a class."""
    uri = f"builtin://cylinder_bell_funnel?seed={seed}"
    state = train_once(sequence_rnn.train, ready_spec("cylinder_bell_funnel", seed=seed, data={"uri": uri})).test
    assert isinstance(state, CountState), "forms are classes"
    table = state.counts.sum(axis=0)
    return float(np.trace(table) / table.sum())


def errors_of_baselines(dataset: Dataset) -> Mapping[str, float]:
    """Repeating the last season, and the best on these very test windows of autoregressions of several orders.

    An autoregression with a trend is fitted to each station's months before the end of the train split.
    """
    test, season = dataset.rows("test"), int(dataset.info.details["season"])
    horizon = test.targets["future"].shape[1]
    repeated = np.resize(np.arange(season), horizon) - season
    naive = test.features[:, repeated, 0]
    by_order = [scaled_error(foretold_by(order, dataset, test.records), dataset) for order in ORDERS]
    return {"naive_error": scaled_error(naive, dataset), "autoregressive_error": min(by_order)}


def scaled_error(foretold: NDArray[np.float64], dataset: Dataset) -> float:
    """Mean over the test windows of their mean absolute scaled error. ``foretold``: shape (windows, horizon)."""
    test = dataset.rows("test")
    return float((np.abs(foretold - test.targets["future"]).mean(axis=1) / test.targets["scale"]).mean())


def foretold_by(order: int, dataset: Dataset, records: NDArray[np.int64]) -> NDArray[np.float64]:
    """What statsmodels' autoregressions of ``order``, one a station, foretell, shape (windows, horizon)."""
    from statsmodels.tsa.ar_model import AutoReg

    columns = read_builtin(dataset.info.uri).columns
    num_stations = len(set(columns["station"].tolist()))
    values = columns["value"].reshape(num_stations, -1)
    steps, horizon = dataset.info.feature_shape[0], dataset.targets["future"].shape[1]
    a_station = dataset.info.num_rows // num_stations  # windows go over stations, then over months
    num_known = int((dataset.by_split["train"] % a_station).max()) + steps + horizon
    stations, months = records // a_station, records % a_station + steps
    fitted = [AutoReg(each[:num_known], lags=order, trend="ct").fit().params for each in values]
    level, slope, *weights = np.array(fitted)[stations].T
    past = dataset.features[records, :, 0].astype(np.float64)
    for ahead in range(horizon):
        latest = past[:, -1 : -order - 1 : -1]
        following = level + slope * (months + ahead + 1) + (np.array(weights).T * latest).sum(axis=1)
        past = np.column_stack([past, following])
    return past[:, steps:]


CHECK = Check(
    measure=measure,
    bars=(
        Bar(value="error", require="<= 0.95", baseline="naive_error", compared="ratio"),
        Bar(value="error", require="<= 0.95", baseline="autoregressive_error", compared="ratio"),
        Bar(value="accuracy", require=">= 0.95"),
    ),
    short_bars=(
        Bar(value="error", require="<= 0.60", baseline="naive_error", compared="ratio"),
        Bar(value="error", require="<= 1.0", baseline="autoregressive_error", compared="ratio"),
    ),
    quick={
        "params": {"epochs": 2, "hidden": 8, "batch_size": 128},
        "data": {"uri": "builtin://cycles?stations=2&months=300"},
    },
)
