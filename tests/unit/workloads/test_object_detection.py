"""What is special to the detector: AP50 and F1 by hand, boxes that move with their pictures, what the loss aims at."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fairlead.checking import ready_spec, train_once
from fairlead.errors import BadData
from fairlead.spec import ExperimentSpec
from fairlead_workloads import object_detection as page

NONE = np.zeros((0, 6), np.float32)


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


TRUTH = [boxes((0, 0, 10, 10, 0), (20, 20, 30, 30, 0)), boxes((0, 0, 10, 10, 1))]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([boxes((0, 0, 10, 10, 0, 0.9), (20, 20, 30, 30, 0, 0.8)), boxes((0, 0, 10, 10, 1, 0.7))], 1.0),
        ([NONE, NONE], 0.0),
        # Class 0: right, wrong, right by descending score. Precision is 1 up to recall 1/2, of which there are 51 of
        # the 101 recalls, and 2/3 up to 1. Class 1 is never found.
        (
            [boxes((0, 0, 10, 10, 0, 0.9), (40, 40, 50, 50, 0, 0.8), (20, 20, 30, 30, 0, 0.7)), NONE],
            (51 + 50 * 2 / 3) / 202,
        ),
        # The same place twice: the second is wrong, after all that is right. Recall goes to 1/2 only.
        ([boxes((0, 0, 10, 10, 0, 0.9), (0, 0, 10, 10, 0, 0.8)), NONE], 51 / 202),
        # Overlaps of 50 / 100, which is enough, and of 49 / 101 or so, which is not.
        ([boxes((0, 0, 10, 5, 0, 0.9), (20, 20, 30, 24.9, 0, 0.8)), NONE], 51 / 202),
    ],
)
def test_ap50_is_what_one_works_out_by_hand(found: list[np.ndarray], expected: float) -> None:
    assert page.average_precision(TRUTH, found) == pytest.approx(expected, abs=1e-9)


def test_ap50_of_no_objects_is_no_number() -> None:
    assert math.isnan(page.average_precision([NONE[:, :5]], [boxes((0, 0, 1, 1, 0, 0.5))]))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([boxes((0, 0, 10, 10, 0, 0.9), (20, 20, 30, 30, 0, 0.1)), boxes((0, 0, 10, 10, 0, 0.9))], [2 / 3, 0]),
        ([boxes((0, 0, 10, 10, 0, 0.9), (0, 0, 10, 10, 0, 0.8)), boxes((0, 0, 10, 10, 1, 0.5))], [2 / 4, 1]),
        ([NONE, NONE], [0, 0]),
    ],
)
def test_f1_counts_sure_objects_of_the_right_class_once(found: list[np.ndarray], expected: list[float]) -> None:
    assert page.grades_of(TRUTH, found, confidence=0.3).tolist() == pytest.approx(expected)


def test_f1_of_an_empty_picture_is_one_where_nothing_is_found() -> None:
    nothing = [NONE[:, :5]] * 2
    assert page.grades_of(nothing, [NONE, boxes((0, 0, 1, 1, 0, 0.9))], confidence=0.3).tolist() == [1, 0]


def test_boxes_move_with_their_pictures() -> None:
    """A white rectangle, stretched and moved: its box is where its pixels are, to within one."""
    picture, box = torch.zeros(1, 1, 40, 60), boxes((20, 10, 36, 18, 2), (-1, -1, -1, -1, page.NOTHING))
    picture[0, 0, 10:18, 20:36] = 1
    views = torch.tensor([[[0.8, 0.0, 0.1], [0.0, 1.25, -0.2]]])
    seen, moved = page.view(picture, torch.from_numpy(box)[None], views)
    rows, columns = (np.flatnonzero((seen[0, 0] > 0.5).any(dim=axis).numpy()) for axis in (1, 0))
    around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert moved[0, 0, :4].tolist() == pytest.approx(around, abs=1.0)
    assert moved[0, :, 4].tolist() == [2, page.NOTHING]


def test_what_leaves_the_picture_is_no_object_any_more() -> None:
    box = torch.from_numpy(boxes((0, 0, 10, 10, 3)))[None]
    _, moved = page.view(torch.zeros(1, 1, 40, 40), box, torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]))
    assert moved[0, 0, 4] == page.NOTHING


def test_a_map_that_says_what_is_there_costs_least_and_is_read_back() -> None:
    """Answers made by hand from two boxes: their loss is nearly nothing, and decoding gives the boxes."""
    truth = torch.from_numpy(boxes((4, 6, 14, 18, 1), (20, 21, 29, 30, 0)))[None]
    middles, extents = torch.full((1, 2, 16, 16), -12.0), torch.zeros(1, 4, 16, 16)
    for left, top, right, bottom, label in truth[0].tolist():
        across, down = (left + right) / 4, (top + bottom) / 4
        middles[0, int(label), int(down), int(across)] = 12.0
        sides = math.log((right - left) / 2), math.log((bottom - top) / 2)
        extents[0, :, int(down), int(across)] = torch.tensor([across % 1, down % 1, *sides])
    assert page.losses_of(middles, extents, truth).item() < 1e-3
    assert page.losses_of(-middles, extents, truth).item() > 10
    (found,) = page.decoded(middles, extents, shape=(32, 32))
    order = np.argsort(found[:, 0])
    assert found[order, :5] == pytest.approx(truth[0].numpy(), abs=1e-4)


def test_a_loaded_model_finds_what_the_trained_one_found(tmp_path: Path) -> None:
    trained = train_once(page.train, a_spec(), export_to=tmp_path / "model", samples_to=tmp_path)
    test = trained.context.shard("test")
    found = page.load(tmp_path / "model")(test.features)
    assert (found.shape, found[0].shape[1]) == ((len(test),), 6)
    assert page.average_precision(list(test.targets["boxes"]), list(found)) == trained.last["test/ap50"]
    assert (tmp_path / "boxes.png").read_bytes()[1:4] == b"PNG"


def test_a_train_split_below_one_batch_is_refused() -> None:
    with pytest.raises(BadData, match="70 pictures, fewer than one batch of 100 over 1 ranks"):
        train_once(page.train, a_spec(batch_size=100))


def a_spec(**params: object) -> ExperimentSpec:
    small = {"epochs": 1, "width": 12, "levels": 2, **params}
    return ready_spec("digit_boxes", params=small, data={"uri": "builtin://digit_scenes?rows=100"})
