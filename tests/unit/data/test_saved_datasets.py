"""Directories that Hugging Face's ``datasets`` has saved."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from fairlead.data import check, open_dataset
from fairlead.spec import DataSpec

ANSWERS = datasets.ClassLabel(names=["no", "maybe", "yes"])
SPLIT = {"train": 1.0, "validation": 0.0, "test": 0.0}


def saved(path: Path, columns: dict[str, Any], **features: Any) -> str:
    given = {name: datasets.Value(kind) if isinstance(kind, str) else kind for name, kind in features.items()}
    datasets.Dataset.from_dict(columns, features=datasets.Features(given)).save_to_disk(path)
    return str(path)


def pictures(num: int, *, size: tuple[int, int] = (5, 4)) -> list[Image.Image]:
    return [Image.fromarray(np.full(size, 10 * row, np.uint8)) for row in range(num)]


def test_values_are_a_table_and_the_only_class_label_is_its_target(tmp_path: Path) -> None:
    columns = {"x": [1, 2, 3], "word": ["a", "b", "a"], "answer": [2, 0, 1]}
    uri = saved(tmp_path / "d", columns, x="int32", word="string", answer=ANSWERS)
    dataset = open_dataset(DataSpec.model_validate({"uri": uri, "sensitive": ["word"], "split": SPLIT}))
    assert (dataset.info.target, dataset.info.classes, dataset.info.kind) == ("answer", ("maybe", "no", "yes"), "table")
    assert dataset.all_labels.tolist() == [2, 1, 0]
    assert [column.name for column in dataset.info.features] == ["x"]


def test_images_with_a_class_label_are_pictures_with_classes(tmp_path: Path) -> None:
    columns = {"image": pictures(3), "answer": [2, 0, 0]}
    uri = saved(tmp_path / "d", columns, image=datasets.Image(), answer=ANSWERS)
    dataset = open_dataset(DataSpec.model_validate({"uri": uri, "split": SPLIT}))
    assert (dataset.info.kind, dataset.info.feature_shape, dataset.info.classes) == ("images", (1, 5, 4), ("no", "yes"))
    assert dataset.features[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert dataset.all_labels.tolist() == [1, 0, 0]


def test_a_part_of_several_is_named_by_its_path(tmp_path: Path) -> None:
    part = datasets.Dataset.from_dict({"x": [1, 2, 3], "y": ["a", "b", "a"]})
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "d")
    (problem,) = check(DataSpec(uri=str(tmp_path / "d"), target="y"))
    assert problem.suggestion == f"name one of its parts: {tmp_path}/d/train, {tmp_path}/d/test"
    assert open_dataset(DataSpec.model_validate({"uri": f"{tmp_path}/d/train", "target": "y", "split": SPLIT}))


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"x": [1, 2], "y": [0, -1]}, {"x": "int8", "y": ANSWERS}, "row 2 of 'y' is -1, which is no class"),
    ({"x": [1, 2], "y": [0, None]}, {"x": "int8", "y": ANSWERS}, "row 2 of the target 'y' is missing"),
    ({"x": [[1], [2]], "y": [0, 1]}, {"x": datasets.List(datasets.Value("int8")), "y": ANSWERS}, "which is not read"),
    ({"x": [1, 2], "y": ["a", "b"]}, {"x": "int8", "y": "string"}, "must name the column"),
    ({"x": [], "y": []}, {"x": "int8", "y": ANSWERS}, "no rows"),
    ({"x": pictures(2), "y": [1, 2]}, {"x": datasets.Image(), "y": "int8"}, "no ClassLabel column"),
    ({"x": [*pictures(1), *pictures(1, size=(4, 4))], "y": [0, 1]}, {"x": datasets.Image(), "y": ANSWERS}, "row 2 of"),
    ({"x": [*pictures(1), None], "y": [0, 1]}, {"x": datasets.Image(), "y": ANSWERS}, "it is missing"),
    ({"x": [{"bytes": b"no", "path": None}], "y": [0]}, {"x": datasets.Image(), "y": ANSWERS}, "row 1 of 'x'"),
]


@pytest.mark.parametrize(("columns", "features", "words"), REFUSED)
def test_what_is_no_table_and_no_pictures_is_refused(
    tmp_path: Path, columns: dict[str, Any], features: dict[str, Any], words: str
) -> None:
    problems = check(DataSpec(uri=saved(tmp_path / "d", columns, **features)))
    assert words in problems[0].message
    assert str(tmp_path) in problems[0].message


def test_a_broken_directory_is_refused(tmp_path: Path) -> None:
    uri = saved(tmp_path / "d", {"x": [1, 2], "y": [0, 1]}, x="int8", y=ANSWERS)
    for path in (tmp_path / "d").glob("*.arrow"):
        path.write_bytes(b"broken")
    assert "cannot be read" in check(DataSpec(uri=uri))[0].message
