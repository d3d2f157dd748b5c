"""``recommender``: its loss against softmax over all items, recall against a loop, exposure, names and bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch.nn import functional

from fairlead.checking import ready_spec, train_once
from fairlead.errors import BadData
from fairlead.evaluation.quantities import number_estimates, number_grouping
from fairlead.workload import Rows
from fairlead_workloads import recommender

SMALL = {"uri": "builtin://interactions?users=80&items=60"}


def trained(data: dict[str, Any] | None = None, *, save: Path | None = None, **params: Any) -> Any:
    spec = ready_spec("recommendations", data=SMALL, params={"epochs": 4, "factors": 8, **params})
    if data is not None:
        changed = {**spec.data.model_dump(), "sensitive": (), **data}
        spec = spec.amended(data=changed, evaluation={}, gates=())
    return train_once(recommender.train, spec, export_to=save, samples_to=save and save.parent / "samples")


@pytest.mark.parametrize("method", list(recommender.METHODS))
def test_sampled_softmax_is_near_softmax_over_all_items(method: str) -> None:
    torch.manual_seed(0)
    model = recommender.METHODS[method](users=7, items=40, factors=4, temperature=0.5)
    torch.nn.init.normal_(model.known.weight)
    users, items = torch.arange(7), torch.arange(7) * 5
    chances = np.random.RandomState(0).dirichlet(np.ones(40) * 5)
    drawn = np.random.RandomState(1).choice(40, p=chances, size=200_000)
    logs = torch.from_numpy(np.log(chances)).float()
    losses = recommender.sampled_softmax(model, users, items, torch.from_numpy(drawn), logs)
    whole = functional.cross_entropy(model(users, torch.arange(40)), items, reduction="none")
    assert torch.allclose(losses, whole, atol=0.02)


def test_recall_is_the_mean_over_users_of_their_share_among_the_first_ten() -> None:
    random = np.random.RandomState(3)
    pairs = np.array([(user, item) for user in range(9) for item in range(40) if random.random_sample() < 0.6])
    labels = (random.random_sample(len(pairs)) < 0.1).astype(np.int64)
    scores = random.standard_normal(len(pairs))
    shares = []
    for user in range(9):
        own = pairs[:, 0] == user
        first = np.argsort(-scores[own])[:10]
        if labels[own].sum():
            shares.append(labels[own][first].sum() / labels[own].sum())
    rows = Rows(records=np.arange(len(pairs)), features=pairs, labels=labels)
    assert recommender.recall_of(rows, lambda _: scores) == pytest.approx(np.mean(shares))
    assert recommender.recall_of(Rows(records=rows.records, features=pairs, labels=0 * labels), lambda _: scores) == 0


def test_a_penalty_gives_niche_items_more_of_the_attention() -> None:
    ratios = []
    for penalty in (0.0, 1.0):
        state = trained(exposure_penalty=penalty).test
        known = number_estimates("exposure", number_grouping(state, ("item_group",))).values[:2]
        ratios.append(known[1] / known[0])  # niche over mainstream
    assert ratios[1] > ratios[0] + 0.02


def test_an_exported_model_scores_named_pairs_and_shows_lists(tmp_path: Path) -> None:
    trained(save=tmp_path / "model")
    predict = recommender.load(tmp_path / "model")
    frame = pandas.DataFrame({"user": ["user-3", "user-0"], "item": ["item-5", "item-59"]})
    assert np.array_equal(predict(frame), predict(np.array([[3, 5], [0, 59]])))
    with pytest.raises(BadData, match="column 'item': 'item-60' is no item"):
        predict(pandas.DataFrame({"user": ["user-3"], "item": ["item-60"]}))
    shown = (tmp_path / "samples" / "recommendations.txt").read_text()
    assert shown.count("recommended") == 12


def test_a_table_of_clicks_trains(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    rows = {(user, 3 * random.randint(30) + user % 3) for user in range(60) for _ in range(15)}
    text = "".join(f"u{user},i{item}\n" for user, item in sorted(rows))
    (tmp_path / "clicks.csv").write_text("user,item\n" + text)
    found = trained({"uri": str(tmp_path / "clicks.csv")}, epochs=12, negatives=40, batch_size=64)
    last = found.last
    assert last["test/recall_at_10"] > 1.3 * last["test/popularity_recall_at_10"]  # users click on one item in three


def test_a_train_split_without_clicks_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"u{user},i{item},{int(user == item == 0)}\n" for user in range(9) for item in range(9))
    (tmp_path / "clicks.csv").write_text("user,item,clicked\n" + rows)
    split = {"train": 0.5, "validation": 0, "test": 0.5, "seed": 1}
    with pytest.raises(BadData, match="all rows of the train split have one class"):
        trained({"uri": str(tmp_path / "clicks.csv"), "split": split})
