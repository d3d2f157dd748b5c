"""Scenes: made-up ones hold what their docstring says, folders in COCO's format are read, and flaws are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as runs

from fairlead.data import check, open_dataset
from fairlead.data.builtin.scenes import digit_scenes
from fairlead.data.scenes import box_of
from fairlead.errors import BadData
from fairlead.spec import DataSpec

SPLIT = {"train": 1.0, "validation": 0.0, "test": 0.0}
WIDTH, HEIGHT = 12, 8


def a_document() -> dict[str, Any]:
    """Two pictures; the first with a cat's rectangle and a dog's triangle, the second empty."""
    image = {"width": WIDTH, "height": HEIGHT, "license": 1}
    square, triangle = [[1, 2, 5, 2, 5, 6, 1, 6]], [[6, 0, 12, 0, 12, 6]]
    return {
        "images": [
            {"id": 8, "file_name": "b.png", "light": "night", **image},
            {"id": 7, "file_name": "a.png", "light": "day", "metres": 2.5, **image},
        ],
        "categories": [{"id": 30, "name": "dog"}, {"id": 20, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 20, "bbox": [1, 2, 4, 4], "segmentation": square},
            {"id": 2, "image_id": 7, "category_id": 30, "bbox": [6, 0, 6, 6], "segmentation": triangle},
        ],
    }


def folder_of(root: Path, document: Any, *, pictures: str = "images") -> Path:
    (root / pictures).mkdir(parents=True)
    for shade, name in enumerate(("a.png", "b.png")):
        Image.new("L", (WIDTH, HEIGHT), shade).save(root / pictures / name)
    (root / "annotations.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return root


def spec_of(uri: object, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"uri": str(uri), "split": SPLIT, **fields})


def test_a_coco_folder_gives_pictures_boxes_masks_and_attributes(tmp_path: Path) -> None:
    dataset = open_dataset(spec_of(folder_of(tmp_path / "pets", a_document()), sensitive=["light", "objects"]))
    rows = dataset.rows("train")
    assert (dataset.info.kind, dataset.info.classes, dataset.info.details) == (
        "scenes",
        (),
        {"classes": ["cat", "dog"]},
    )
    assert dataset.info.feature_shape == (1, HEIGHT, WIDTH)
    assert rows.features[:, 0, 0, 0].tolist() == [0, 1]
    assert rows.targets["boxes"][0].tolist() == [[1, 2, 5, 6, 0], [6, 0, 12, 6, 1]]
    assert rows.targets["boxes"][1].shape == (0, 5)
    mask = rows.targets["mask"]
    assert (mask.dtype, mask.shape) == (np.int64, (2, HEIGHT, WIDTH))
    assert (mask[0] == 1).sum() == 16
    assert (mask[0, 2:6, 1:5] == 1).all()
    assert 15 <= (mask[0] == 2).sum() <= 21, "half of 36 pixels, give or take its long side"
    assert not mask[1].any()
    assert [attribute.levels for attribute in dataset.info.attributes] == [("day", "night"), ("0", "2")]


@pytest.mark.parametrize("is_packed", [True, False])
def test_runs_are_read_as_pycocotools_writes_them(tmp_path: Path, is_packed: bool) -> None:
    """An L of five pixels, as packed runs and as plain ones, down the columns."""
    inside = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    inside[1:4, 2] = inside[3, 3:5] = 1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.ravel("F"), [0]])))
    plain = np.diff(np.concatenate([[0], edges, [inside.size]])).tolist()
    packed = runs.encode(inside)["counts"].decode()
    document = a_document()
    document["annotations"] = [document["annotations"][0]]
    outline = {"size": [HEIGHT, WIDTH], "counts": packed if is_packed else plain}
    document["annotations"][0]["segmentation"] = outline
    rows = open_dataset(spec_of(folder_of(tmp_path / "pets", document))).rows("train")
    assert (rows.targets["mask"][0] == inside).all()


def test_boxes_alone_make_no_mask_and_change_the_digest(tmp_path: Path) -> None:
    without = a_document()
    del without["annotations"][1]["segmentation"]
    first, second = (
        open_dataset(spec_of(folder_of(tmp_path / name, document)))
        for name, document in (("here", a_document()), ("there", without))
    )
    assert set(second.rows("train").targets) == {"boxes"}
    assert first.info.digest != second.info.digest


def changed(place: str, number: int, **fields: Any) -> dict[str, Any]:
    document = a_document()
    document[place][number] |= fields
    return document


def more(place: str, **fields: Any) -> dict[str, Any]:
    document = a_document()
    document[place].append(document[place][0] | fields)
    return document


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "annotations.json: this is not JSON"),
        ([], "annotations.json: document: "),
        ({**a_document(), "images": []}, "images is empty"),
        (changed("images", 1, file_name=None), "images.1.file_name: "),
        (changed("images", 0, file_name="c.png"), "image 8 is 'c.png', and no such pictures are in"),
        (changed("images", 0, width=13), r"image [78] \([ab].png\) is 1[23] x 8, most are"),
        (more("images", file_name="c.png"), "image 8 occurs 2 times"),
        (more("categories", id=31), "category name 'dog' occurs 2 times"),
        (changed("annotations", 0, image_id=9), "annotation 1 is of image 9"),
        (changed("annotations", 1, category_id=9), "annotation 2 of a.png: its category 9"),
        (
            changed("annotations", 1, bbox=[6, 0, 8, 6]),
            r"2 of a.png: its box \(6, 0, 14, 6\) reaches beyond",
        ),
        (changed("annotations", 1, bbox=[6, 0, 0, 6]), "its box is 0 wide"),
        (changed("annotations", 1, bbox=[6, 0, 6]), "annotations.1.bbox"),
        (changed("annotations", 0, iscrowd=1), "annotation 1 of a.png: iscrowd is set"),
        (changed("annotations", 0, segmentation=[[1, 2, 3, 4]]), "a polygon of its segmentation has 4 numbers"),
        (changed("annotations", 0, segmentation=[[1, 2, 3, 4, 5, 99]]), "polygon of its segmentation reaches beyond"),
        (changed("annotations", 0, segmentation={"size": [9, 9], "counts": [81]}), "its segmentation is for 9 x 9"),
        (changed("annotations", 0, segmentation={"size": [8, 12], "counts": [5]}), "add up to 5, not to 96"),
        (
            changed("annotations", 0, segmentation={"size": [8, 12], "counts": "x"}),
            "annotation 1 of a.png: its packed runs",
        ),
    ],
)
def test_a_flaw_is_named_with_its_place(tmp_path: Path, document: Any, words: str) -> None:
    with pytest.raises(BadData, match=words):
        open_dataset(spec_of(folder_of(tmp_path / "pets", document)))


def _damage(root: Path) -> None:
    (root / "images" / "b.png").write_bytes(b"\x89PNG but no picture")


def _two_documents(root: Path) -> None:
    (root / "instances_val.json").write_text("{}")


def _another_size(root: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (5, 5)).save(root / "images" / name)


def _two_places(root: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(root / "b.png")


def _latin(root: Path) -> None:
    (root / "annotations.json").write_bytes('{"images": "Köln"}'.encode("latin-1"))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_damage, "b.png: the image cannot be read"),
        (_two_documents, "several documents of annotations: annotations.json, instances_val.json"),
        (_another_size, "image 7 is 12 x 8, its file a.png 5 x 5"),
        (_two_places, "image 8 is 'b.png', and 2 such pictures"),
        (_latin, "annotations.json: this is not UTF-8"),
    ],
)
def test_harm_to_a_folder_is_named(tmp_path: Path, harm: Callable[[Path], None], words: str) -> None:
    root = folder_of(tmp_path / "pets", a_document())
    harm(root)
    problems = check(spec_of(root))
    assert problems
    assert words in problems[0].message


def test_all_flaws_are_told_at_once(tmp_path: Path) -> None:
    document = a_document()
    document["annotations"][0]["category_id"] = document["annotations"][1]["category_id"] = 99
    problems = check(spec_of(folder_of(tmp_path / "pets", document)))
    assert [problem.message.split("annotations.json: ")[1][:12] for problem in problems] == [
        "annotation 1",
        "annotation 2",
    ]


def test_a_folder_in_memory_reads_like_one_on_disk(tmp_path: Path) -> None:
    import fsspec

    here = folder_of(tmp_path / "pets", a_document())
    memory = fsspec.filesystem("memory")
    memory.put(str(here), "/pets", recursive=True)
    far = open_dataset(spec_of("memory://pets"))
    assert far.info.digest == open_dataset(spec_of(here)).info.digest


def test_every_digit_is_in_one_scene_only_and_in_its_box() -> None:
    source = digit_scenes(seed=3)
    counts, boxes, masks = source.columns["digits"], source.targets["boxes"], source.targets["mask"]
    assert (source.num_rows, int(counts.sum())) == (898, 1795), "of 1,797 digits"
    assert np.bincount(counts)[1:].tolist() == [300, 299, 299]
    for row in range(0, 898, 50):
        assert len(boxes[row]) == counts[row]
        for left, top, right, bottom, label in boxes[row].astype(int):
            inside = masks[row, top:bottom, left:right]
            assert box_of(inside > 0).tolist() == [0, 0, right - left, bottom - top]
            assert (inside == label + 1).any()
        assert set(np.unique(masks[row])) - {0} == set(boxes[row][:, 4] + 1)


def test_masks_are_ink_from_four_up_and_noise_comes_after() -> None:
    plain, noisy = digit_scenes(noise=0), digit_scenes(noise=25)
    assert plain.array is not None
    assert noisy.array is not None
    assert ((plain.array[:, 0] >= 4) == (plain.targets["mask"] > 0)).all()
    assert (plain.targets["mask"] == noisy.targets["mask"]).all()
    assert (noisy.array - plain.array).std() == pytest.approx(4, rel=0.01)
    assert (plain.array.min(), plain.array.max()) == (0, 16)


def test_a_seed_names_the_same_scenes_for_ever() -> None:
    first, second = digit_scenes(rows=100), digit_scenes(rows=100, seed=1)
    assert first.array is not None
    assert first.targets["boxes"][0][:2].tolist() == [[17, 18, 25, 30, 9], [16, 2, 23, 13, 5]]
    assert not np.array_equal(first.array, second.array)


def test_too_many_scenes_are_refused() -> None:
    with pytest.raises(BadData, match="at most 100000 rows"):
        open_dataset(spec_of("builtin://digit_scenes?rows=100001"))
