"""The made-up applicants: their rows are those of the seed, and their injustice is as large as the equations say."""

import math

import numpy as np
import pytest

from fairlead.data.builtin import builtin_problem, read_builtin
from fairlead.data.builtin.tables import LENDING_BIAS, lending
from fairlead.data.dataset import open_dataset
from fairlead.errors import BadData
from fairlead.spec import DataSpec

TRUE_GAP = 0.5 - 0.5 * math.erfc(LENDING_BIAS / math.sqrt(1.25) / math.sqrt(2))


def test_the_true_gap_is_what_the_docstring_says() -> None:
    assert round(TRUE_GAP, 4) == 0.2042
    assert "0.2042" in str(lending.__doc__)


@pytest.mark.parametrize("seed", range(5))
def test_applicants_are_held_back_by_as_much_as_said_and_by_nothing_else(seed: int) -> None:
    columns = lending(seed=seed).columns
    woman, middle = columns["sex"] == "female", columns["age_band"] == "40-60"
    approved, repaid = columns["approved"] == "yes", columns["repaid"] == "yes"
    noise = 4 * math.sqrt(2 * 0.25 / 25_000)  # four standard errors of a difference of two rates
    assert approved[~woman].mean() - approved[woman].mean() == pytest.approx(TRUE_GAP, abs=noise)
    assert repaid[~woman].mean() - repaid[woman].mean() == pytest.approx(0, abs=noise)
    assert approved[middle].mean() - approved[~middle].mean() == pytest.approx(0, abs=noise)


def test_a_seed_names_the_same_applicants_for_ever() -> None:
    first = lending(rows=1000).columns
    assert first["income"][:3].tolist() == [28.914, 18.184, 42.261]
    assert all(np.array_equal(first[name], lending(rows=1000).columns[name]) for name in first)
    assert not np.array_equal(first["income"], lending(seed=1, rows=1000).columns["income"])


def test_the_spec_reads_them_without_sex_among_the_features() -> None:
    dataset = open_dataset(DataSpec(uri="builtin://lending?seed=2&rows=1000", sensitive=("sex", "age_band")))
    info = dataset.info
    assert (info.num_rows, info.target, info.classes) == (1000, "approved", ("no", "yes"))
    assert [column.name for column in info.features] == [
        "income",
        "savings",
        "debt_ratio",
        "years_employed",
        "part_time",
        "age",
    ]
    assert read_builtin("builtin://lending").num_rows == 50_000


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("builtin://iris", "no built-in data set 'iris'"),
        ("builtin://lending?sead=3", "no setting 'sead'"),
        ("builtin://lending?seed=", "whole number"),
        ("builtin://lending?seed=-1", "whole number"),
        ("builtin://lending?rows=99", "from 100"),
        ("builtin://lending?rows=99999999", "from 100"),
        ("builtin://digits?seed=3", "digits has no setting"),
    ],
)
def test_an_address_that_names_nothing_is_refused(uri: str, words: str) -> None:
    problem = builtin_problem(uri)
    assert problem is not None
    assert words in problem.message
    with pytest.raises(BadData):
        open_dataset(DataSpec(uri=uri))
