import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairlead.errors import BadInput, NotFound
from fairlead.serving import Model, _load_pyfunc

TWO, THREE = ("no", "yes"), ("a", "b", "c")


def model(answer: Any, *, classes: tuple[str, ...] = TWO, threshold: float = 0.5) -> Model:
    return Model(lambda rows: answer, classes=classes, threshold=threshold)


@pytest.mark.parametrize(
    ("answer", "classes", "threshold", "predicted"),
    [
        ([[0.6, 0.4], [0.2, 0.8]], TWO, 0.5, ["no", "yes"]),
        ([[0.6, 0.4], [0.2, 0.8]], TWO, 0.4, ["yes", "yes"]),
        ([[0.5, 0.5]], TWO, 0.5, ["yes"]),
        ([0.4, 0.8], TWO, 0.5, ["no", "yes"]),
        ([[0.1, 0.7, 0.2], [0.4, 0.3, 0.3]], THREE, 0.9, ["b", "a"]),
        (np.array([2, 0]), THREE, 0.5, ["c", "a"]),
        (np.array(["b", "a"]), THREE, 0.5, ["b", "a"]),
        (np.empty((0, 2)), TWO, 0.5, []),
    ],
)
def test_classes_are_named(answer: Any, classes: tuple[str, ...], threshold: float, predicted: list[str]) -> None:
    frame = model(answer, classes=classes, threshold=threshold).predict(np.zeros((len(predicted), 1)))
    assert list(frame["prediction"]) == predicted


def test_probabilities_keep_the_index_of_the_rows() -> None:
    frame = model([0.25, 0.75]).predict(pd.DataFrame({"x": [1, 2]}, index=[4, 8]))
    assert list(frame.index) == [4, 8]
    assert list(frame.columns) == ["prediction", "probability_no", "probability_yes"]
    assert frame.loc[8, "probability_yes"] == 0.75


@pytest.mark.parametrize("answer", [[[0.1, 0.2, 0.7]], 0.5, [[[0.5]]]])
def test_answers_of_another_shape_are_refused(answer: Any) -> None:
    with pytest.raises(BadInput, match="shape"):
        model(answer).predict(np.zeros((1, 1)))


def test_one_float_does_not_say_which_of_three() -> None:
    with pytest.raises(BadInput, match="3 classes"):
        model([0.5], classes=THREE).predict(np.zeros((1, 1)))


GROUP_THRESHOLDS = {
    "by": ["sex", "old"],
    "thresholds": [{"key": ["f", "1"], "threshold": 0.3}, {"key": ["m", "1"], "threshold": 0.7}],
}


def test_each_row_is_decided_by_its_groups_threshold_and_others_by_the_common_one() -> None:
    served = Model(lambda rows: [0.4] * len(rows), classes=TWO, threshold=0.4, group_thresholds=GROUP_THRESHOLDS)
    rows = pd.DataFrame({"sex": ["f", "m", "f", None], "old": [1.0, 1.0, 0.0, np.nan]})
    assert list(served.predict(rows)["prediction"]) == ["yes", "no", "yes", "yes"]
    assert list(served.predict(rows.astype({"old": object}))["prediction"]) == ["yes", "no", "yes", "yes"]


@pytest.mark.parametrize("rows", [pd.DataFrame({"sex": ["f"]}), np.zeros((1, 2))])
def test_a_model_that_decides_by_group_must_be_told_the_group(rows: Any) -> None:
    served = Model(lambda rows: [0.4] * len(rows), classes=TWO, threshold=0.4, group_thresholds=GROUP_THRESHOLDS)
    with pytest.raises(BadInput, match="the columns sex, old"):
        served.predict(rows)


@pytest.fixture
def an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes a module that is importable during the test and a model.json that names it."""

    def write(name: str, source: str | None, **document: Any) -> Path:
        if source is not None:
            (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "model.json").write_text(json.dumps({"workload": f"{name}:train", "classes": TWO, **document}))
        return tmp_path

    yield write
    for name in [name for name in sys.modules if name.startswith("served_")]:
        del sys.modules[name]


def test_the_module_named_in_the_export_is_loaded(an_export: Callable[..., Path]) -> None:
    source = "def load(directory):\n    return lambda rows: [0.55 * (directory / 'model.json').is_file()] * len(rows)"
    path = an_export("served_well", source, module="served_well", workload="nick_name", threshold=0.6)
    assert list(_load_pyfunc(str(path)).predict([[1], [2]])["prediction"]) == ["no", "no"]


@pytest.mark.parametrize(
    ("module", "source", "error", "match"),
    [
        ("served_without", "x = 1", BadInput, r"has no load\(directory\)"),
        ("served_nowhere", None, NotFound, "register the experiment with its code"),
        ("served_lacking", "import no_such_library", ModuleNotFoundError, "no_such_library"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    an_export: Callable[..., Path], module: str, source: str | None, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        _load_pyfunc(str(an_export(module, source)))


def test_a_directory_without_an_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"model\.json is missing"):
        _load_pyfunc(str(tmp_path))


def test_a_model_without_classes_predicts_numbers_texts_or_whatever_its_workload_makes() -> None:
    frame = model(np.array([1.5, 2.0]), classes=()).predict(pd.DataFrame({"x": [1, 2]}, index=[4, 8]))
    assert frame["prediction"].to_dict() == {4: 1.5, 8: 2.0}
    assert model(np.array(["a"]), classes=()).predict(np.zeros((1, 1)))["prediction"].tolist() == ["a"]
    masks = np.zeros((2, 3, 3), dtype=np.int64)
    assert model(masks, classes=()).predict(np.zeros((2, 1))) is masks
