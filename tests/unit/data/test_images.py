from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairlead.data import check, open_dataset
from fairlead.spec import DataSpec

SPLIT = {"train": 1.0, "validation": 0.0, "test": 0.0}


def folder_of(root: Path, *, colour: bool = False, size: tuple[int, int] = (4, 6)) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            shade = 10 * number + (100 if name == "dog" else 0)
            mode, value = ("RGB", (shade, 0, 255)) if colour else ("L", shade)
            Image.new(mode, size, value).save(root / name / f"{number}.png")
    return root


def spec_of(root: Path, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"uri": str(root), "split": SPLIT, **fields})


@pytest.mark.parametrize(("colour", "shape"), [(False, (1, 6, 4)), (True, (3, 6, 4))])
def test_a_folder_has_one_class_a_directory(tmp_path: Path, colour: bool, shape: tuple[int, ...]) -> None:
    dataset = open_dataset(spec_of(folder_of(tmp_path / "pets", colour=colour)))
    assert dataset.info.feature_shape == shape
    assert dataset.info.classes == ("cat", "dog")
    assert dataset.all_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.features[:, 0, 0, 0].tolist() == [0, 10, 20, 100, 110, 120]


def test_the_record_id_of_a_picture_is_its_name_wherever_the_folder_lies(tmp_path: Path) -> None:
    first, second = (open_dataset(spec_of(folder_of(tmp_path / name))) for name in ("here", "there"))
    assert first.info.digest == second.info.digest
    (tmp_path / "there" / "dog" / "2.png").rename(tmp_path / "there" / "dog" / "3.png")
    assert open_dataset(spec_of(tmp_path / "there")).info.digest != first.info.digest


def test_metadata_gives_sensitive_attributes_and_missing_ones_are_unknown(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pets")
    (root / "metadata.csv").write_text("file_name,light\ncat/0.png,day\ndog/2.png,night\n")
    dataset = open_dataset(spec_of(root, sensitive=["light"]))
    assert dataset.info.attributes[0].levels == ("day", "night")
    assert dataset.groups(np.arange(6))[:, 0].tolist() == [0, 2, 2, 2, 2, 1]


def _damage(root: Path) -> None:
    (root / "dog" / "1.png").write_bytes(b"\x89PNG but no picture")


def _truncate(root: Path) -> None:
    path = root / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:40])


def _resize(root: Path) -> None:
    Image.new("L", (9, 9)).save(root / "dog" / "1.png")


def _stray(root: Path) -> None:
    Image.new("L", (4, 6)).save(root / "1.png")


def _one_class(root: Path) -> None:
    for path in (root / "dog").iterdir():
        path.unlink()


def _no_images(root: Path) -> None:
    _one_class(root)
    for path in (root / "cat").iterdir():
        path.unlink()


def _stranger(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,light\ncat/77.png,day\n")


def _twice(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,light\ncat/0.png,day\ncat/0.png,day\n")


def _nameless(root: Path) -> None:
    (root / "metadata.csv").write_text("picture,light\ncat/0.png,day\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_damage, "dog/1.png: the image cannot be read"),
        (_truncate, "dog/1.png: the image cannot be read"),
        (_resize, "dog/1.png: 9 × 9 pixels (height × width), the first image has 6 × 4"),
        (_stray, "1.png is not in a class directory"),
        (_one_class, "one class only, 'cat'"),
        (_no_images, "it holds no images"),
        (_stranger, "'cat/77.png' names no file here"),
        (_twice, "'cat/0.png' is listed twice"),
        (_nameless, "no column 'file_name'"),
    ],
)
def test_bad_folders_are_refused_with_the_file(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    root = folder_of(tmp_path / "pets")
    spoil(root)
    assert words in check(spec_of(root))[0].message


def test_every_unreadable_picture_is_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pets")
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    assert len(check(spec_of(root))) == 3


def test_features_of_pictures_cannot_be_chosen(tmp_path: Path) -> None:
    problems = check(spec_of(folder_of(tmp_path / "pets"), features=["class2"], target="class"))
    assert problems[0].pointer == "/data/features/0"
