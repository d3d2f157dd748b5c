"""What is special to the U-Net: IoU against scikit-learn, masks that move with pictures, the loss by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from fairlead.checking import ready_spec, train_once
from fairlead.errors import BadData
from fairlead.spec import ExperimentSpec
from fairlead_workloads import image_segmentation as page


def test_mean_iou_is_what_scikit_learn_says_of_each_picture() -> None:
    random = np.random.RandomState(0)
    truth, predicted = random.randint(0, 4, size=(2, 5, 6, 7))
    truth[0][truth[0] == 3] = 0  # a class that is predicted only, and one that is nowhere
    predicted[1][predicted[1] == 2] = truth[1][truth[1] == 2] = 0
    found = page.mean_iou(page.confusion(truth, predicted, classes=5))
    expected = [jaccard_score(truth[row].ravel(), predicted[row].ravel(), average="macro") for row in range(5)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_mean_iou_by_hand() -> None:
    """Background: 2 of 3 pixels in common; class 1: 1 of 2; class 2 is nowhere."""
    truth, predicted = np.array([[[0, 0, 1, 1]]]), np.array([[[0, 0, 0, 1]]])
    assert page.mean_iou(page.confusion(truth, predicted, classes=3)).tolist() == [pytest.approx((2 / 3 + 1 / 2) / 2)]


def test_masks_move_with_their_pictures() -> None:
    picture = torch.zeros(1, 1, 40, 60)
    picture[0, 0, 10:18, 20:36] = 1
    seen, mask = page.view(picture, 3 * picture[:, 0].long(), torch.tensor([[[0.8, 0.0, 0.1], [0.0, 1.25, -0.2]]]))
    assert set(mask.unique().tolist()) == {0, 3}
    assert ((seen[:, 0] > 0.5) == (mask == 3)).float().mean() > 0.99


def test_turned_pictures_keep_their_shape() -> None:
    """In pixels rather than halves of sides, the maps are turns: their rows are of length 1 and at right angles."""
    settings = page.Settings(zoom=0.0, shift=0, turn=30.0)
    maps = page.draw_views(20, settings, shape=(40, 60), seed=0, epoch=1)
    sides = torch.tensor([60.0, 40.0])
    turns = maps[:, :, :2] * sides[:, None] / sides
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(2).expand(20, 2, 2), atol=1e-5)
    assert 5 < torch.rad2deg(turns[:, 1, 0].asin()).abs().max() <= 30


def test_the_loss_is_what_one_works_out_by_hand() -> None:
    """Three pixels of class 1 in one cell of four. Logits: log 2 each of 16 pixels. Hints: log 3 each of the three."""
    masks = torch.zeros(1, 4, 4, dtype=torch.long)
    masks[0, 0, :2] = masks[0, 1, 0] = 1
    logits, hint = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
    hint[0, 0, 0, 0] = math.log(2)
    assert page.losses_of([logits], masks).tolist() == pytest.approx([16 * math.log(2) / 3])
    assert page.losses_of([logits, hint], masks).tolist() == pytest.approx([16 * math.log(2) / 3 + math.log(3)])


def test_sides_that_cannot_be_halved_evenly_are_answered_in_their_own_size() -> None:
    model = page.UNet(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], classes=4, width=12, levels=3)
    logits, *hints = model(torch.zeros(2, 3, 13, 21))
    assert logits.shape == (2, 4, 13, 21)
    assert [hint.shape[2:] for hint in hints] == [(8, 12), (4, 6), (2, 3)]
    assert page.losses_of([logits, *hints], torch.ones(2, 13, 21, dtype=torch.long)).shape == (2,)


def a_spec(**params: object) -> ExperimentSpec:
    small = {"epochs": 1, "width": 12, "levels": 2, **params}
    return ready_spec("digit_masks", params=small, data={"uri": "builtin://digit_scenes?rows=100"})


def test_a_loaded_model_answers_what_the_trained_one_answered(tmp_path: Path) -> None:
    trained = train_once(page.train, a_spec(), export_to=tmp_path / "model", samples_to=tmp_path)
    test = trained.context.shard("test")
    masks = page.load(tmp_path / "model")(test.features)
    table = page.confusion(test.targets["mask"], masks, classes=11).sum(axis=0)
    assert page.mean_iou(table[None])[0] == trained.last["test/mean_iou"]
    assert (tmp_path / "masks.png").read_bytes()[1:4] == b"PNG"


def test_a_train_split_below_one_batch_is_refused() -> None:
    with pytest.raises(BadData, match="70 pictures, fewer than one batch of 100 over 1 ranks"):
        train_once(page.train, a_spec(batch_size=100))


def test_boxes_without_masks_are_refused() -> None:
    context = train_once(page.train, a_spec()).context
    rows = context.all_rows("train")
    del rows.targets["mask"]  # type: ignore[attr-defined]  # a dictionary, as it happens
    with pytest.raises(BadData, match="boxes but no masks"):
        page.refuse_unusable(rows, page.Settings(), context)
