"""Predictions from a registered model: what ``mlflow.pyfunc.load_model`` calls.

Here, on the user's side, the workload's code is imported and its ``load(directory)`` called; the platform never does.

``predict`` answers a DataFrame of one row an input row, with the input's index where it has one: column ``prediction``
holds the class name; ``probability_<class>`` holds each class's probability, if the workload gives any. What ``load``
returns may answer, in shape (n, classes), probabilities; in shape (n,), integers as class numbers, class names, or, for
two classes, floats as the probability of class 1. With two classes, class 1 is predicted from the threshold up that
the model was evaluated with; from its group's threshold up, where ``model.json`` has thresholds of groups: then the
input must be a DataFrame with the columns that make the groups, and a group that has none gets the common threshold.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairlead.errors import BadInput, NotFound
from fairlead.workload import Predictor

DOCUMENT = "model.json"
PREDICTION = "prediction"
DEFAULT_THRESHOLD = 0.5


def probability_column(label: str) -> str:
    """The name of the column that holds the probability of class ``label``."""
    return f"probability_{label}"


class Model:
    """A loaded model, as ``mlflow.pyfunc`` wants it."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        classes: tuple[str, ...],
        threshold: float,
        group_thresholds: Mapping[str, Any] | None = None,
    ) -> None:
        self.classes = classes
        self.threshold = threshold
        self._by: tuple[str, ...] = tuple(group_thresholds["by"]) if group_thresholds else ()
        entries = group_thresholds["thresholds"] if group_thresholds else ()
        self._threshold_of = {tuple(entry["key"]): float(entry["threshold"]) for entry in entries}
        self._predictor = predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Class names and, if the workload gives them, probabilities: shape (rows, 1 + classes). No ``params`` yet.

        Of a model without classes: a number or a text a row in a column ``prediction``, or the workload's array.
        """
        answer = np.asarray(self._predictor(model_input))
        if not self.classes:
            return self._without_classes(model_input, answer)
        if answer.ndim not in (1, 2) or (answer.ndim == 2 and answer.shape[1] != len(self.classes)):
            expected = f"(rows,) or (rows, {len(self.classes)})"
            raise BadInput(f"the workload's predictor answered an array of shape {answer.shape}, not {expected}")
        index = model_input.index if isinstance(model_input, pd.DataFrame) else None
        return pd.DataFrame(self._columns(answer, self._thresholds(model_input, len(answer))), index=index)

    def _without_classes(self, model_input: Any, answer: NDArray[Any]) -> Any:
        if answer.ndim != 1:
            return answer
        index = model_input.index if isinstance(model_input, pd.DataFrame) else None
        is_number = answer.dtype.kind in "fiub"
        return pd.DataFrame({PREDICTION: answer if is_number else answer.astype(str)}, index=index)

    def _thresholds(self, model_input: Any, rows: int) -> NDArray[np.float64]:
        """The threshold of each row, shape (rows,)."""
        if not self._by:
            return np.full(rows, self.threshold)
        if not isinstance(model_input, pd.DataFrame) or not set(self._by) <= set(model_input.columns):
            raise BadInput(f"this model decides by group: give a DataFrame with the columns {', '.join(self._by)}")
        keys = zip(*([_level(value) for value in model_input[name].tolist()] for name in self._by), strict=True)
        return np.array([self._threshold_of.get(key, self.threshold) for key in keys], dtype=np.float64)

    def _columns(self, answer: NDArray[Any], thresholds: NDArray[np.float64]) -> dict[str, Any]:
        if answer.ndim == 1 and answer.dtype.kind not in "fiub":
            return {PREDICTION: answer.astype(str)}
        names = np.array(self.classes, dtype=object)
        if answer.ndim == 1 and answer.dtype.kind in "iub":
            return {PREDICTION: names[answer.astype(np.int64)]}
        chances = self._chances(answer.astype(np.float64))
        by_class = {probability_column(label): chances[:, place] for place, label in enumerate(self.classes)}
        return {PREDICTION: names[self._chosen(chances, thresholds)], **by_class}

    def _chances(self, answer: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape (rows, classes)."""
        if answer.ndim == 2:
            return answer
        if len(self.classes) != 2:
            raise BadInput(f"one float a row says nothing about {len(self.classes)} classes; answer (rows, classes)")
        return np.column_stack([1 - answer, answer])

    def _chosen(self, chances: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
        if len(self.classes) == 2:
            return (chances[:, 1] >= thresholds).astype(np.int64)
        chosen: NDArray[np.int64] = np.argmax(chances, axis=1)
        return chosen


def _level(value: Any) -> str:
    """A value as the data layer names its level: whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _load_pyfunc(path: str) -> Model:
    """Load the export in directory ``path``. Raises ``NotFound`` or ``BadInput`` saying what is missing."""
    document = _read(Path(path) / DOCUMENT)
    module = _import(document.get("module") or str(document["workload"]).partition(":")[0])
    load = getattr(module, "load", None)
    if not callable(load):
        where = module.__name__
        raise BadInput(f"{where} has no load(directory), so its models cannot predict; add one that returns a function")
    classes = tuple(str(label) for label in document["classes"])
    return Model(
        load(Path(path)),
        classes=classes,
        threshold=float(document.get("threshold", DEFAULT_THRESHOLD)),
        group_thresholds=document.get("config", {}).get("group_thresholds"),
    )


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise NotFound(f"{path} is missing: this directory is no model that Fairlead exported")
    document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        hint = "register the experiment with its code, or put the module on the import path"
        raise NotFound(f"the workload's module {name!r} is not here; {hint}") from error
