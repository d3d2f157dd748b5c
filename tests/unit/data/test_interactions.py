"""Users with items: made-up ones against their formula, and tables of clicks."""

from pathlib import Path

import numpy as np
import pytest

from fairlead.data import open_dataset
from fairlead.data.builtin.interactions import FACTORS, NICHE_SHARE, drawn, true_logits
from fairlead.data.dataset import Dataset
from fairlead.errors import BadData
from fairlead.spec import DataSpec

CLICKS = "user,item,genre,city\nann,b,jazz,Rome\nann,a,rock,Rome\nbob,c,jazz,Oslo\nann,c,jazz,Rome\n"


def opened(path: Path, text: str, **options: object) -> Dataset:
    (path / "clicks.csv").write_text(text)
    return open_dataset(DataSpec.model_validate({"uri": str(path / "clicks.csv"), **options}))


def test_clicked_pairs_alone_become_all_pairs(tmp_path: Path) -> None:
    data = opened(tmp_path, CLICKS, sensitive=["genre", "city"], split={"train": 1.0, "validation": 0, "test": 0})
    assert data.info.details == {"users": ["ann", "bob"], "items": ["a", "b", "c"]}
    assert data.features.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert data.all_labels.tolist() == [1, 1, 1, 0, 0, 1]
    assert (data.info.kind, data.info.classes) == ("interactions", ("no", "yes"))
    genre, city = (attribute.levels for attribute in data.info.attributes)
    assert [genre[code] for code in data.codes[:, 0]] == ["rock", "jazz", "jazz"] * 2
    assert [city[code] for code in data.codes[:, 1]] == ["Rome"] * 3 + ["Oslo"] * 3


def test_listed_pairs_stay_as_they_are_and_whole_numbers_go_by_size(tmp_path: Path) -> None:
    text = "user,item,clicked,day\n10,5,1,mon\n9,5,0,tue\n10,40,0,tue\n"
    data = opened(tmp_path, text, sensitive=["day"], split={"train": 1.0, "validation": 0, "test": 0})
    assert data.info.details == {"users": ["9", "10"], "items": ["5", "40"]}
    assert data.features.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert data.all_labels.tolist() == [1, 0, 0]
    assert data.info.features[0].dtype == "int64"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user,item\nann,a\n,b\n", "row 2 has no user"),
        ("user,item,clicked\nann,a,1\nbob,a,0\nann,a,0\n", "row 3 is the pair of 'ann' with 'a' again"),
        ("user,item,clicked\nann,a,1\nbob,b,1\n", "one class only"),
        ("user,item,clicked\nann,a,1\nbob,b,\n", "row 2 of the target 'clicked' is missing"),
        ("user,item,day\nann,a,mon\nbob,a,tue\nann,b,tue\n", "'day' is 'tue' in row 2 and another for the same item"),
    ],
)
def test_what_is_wrong_with_a_table_of_clicks_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadData, match=words):
        opened(tmp_path, text)


def test_too_many_pairs_are_not_made(tmp_path: Path) -> None:
    rows = "".join(f"{number},{number}\n" for number in range(2300))
    with pytest.raises(BadData, match=r"2300 users with 2300 items make 5290000 pairs; at most 5000000"):
        opened(tmp_path, f"user,item\n{rows}")


def test_made_up_clicks_are_as_frequent_as_their_formula_says() -> None:
    random = np.random.RandomState(5)
    is_niche = random.random_sample(200) < NICHE_SHARE
    chances = 1 / (1 + np.exp(-true_logits(random, is_niche, users=800, items=200)))
    clicks, same = drawn(users=800, items=200, seed=5)
    assert np.array_equal(same, is_niche)
    spread = np.sqrt((chances * (1 - chances)).sum())
    assert abs(clicks.sum() - chances.sum()) < 4 * spread
    assert chances[:, ~is_niche].mean() > 1.5 * chances[:, is_niche].mean()
    of_taste = np.log(chances / (1 - chances))
    centred = of_taste - of_taste.mean(axis=0)  # what is left is taste, which has FACTORS dimensions
    assert np.linalg.matrix_rank(centred, tol=1e-6) == FACTORS


def test_the_made_up_set_has_a_row_a_pair_and_a_seed_that_names_it() -> None:
    one, same, other = (
        open_dataset(DataSpec(uri=f"builtin://interactions?users=50&items=30&seed={seed}")) for seed in (1, 1, 2)
    )
    assert (one.info.num_rows, one.features.shape) == (1500, (1500, 2))
    assert one.info.digest == same.info.digest != other.info.digest
