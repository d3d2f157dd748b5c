"""Some of the digits are a data set of their own, and all of them the one they always were."""

import numpy as np
import pytest

from fairlead.data import open_dataset
from fairlead.data.builtin.tables import digits
from fairlead.errors import BadData
from fairlead.spec import DataSpec


def test_digits_from_first_to_last_are_those_and_no_others() -> None:
    every, some = digits(), digits(first=5, last=9)
    assert every.array is not None
    assert some.array is not None
    chosen = every.columns["digit"] >= 5
    assert np.array_equal(some.array, every.array[chosen])
    assert np.array_equal(some.columns["ink"], every.columns["ink"][chosen])
    info = open_dataset(DataSpec(uri="builtin://digits?first=5&last=9")).info
    assert (info.num_rows, info.classes) == (896, ("5", "6", "7", "8", "9"))


def test_to_name_every_digit_is_to_name_none() -> None:
    whole = open_dataset(DataSpec(uri="builtin://digits?first=0&last=9")).info.digest
    assert whole == open_dataset(DataSpec(uri="builtin://digits")).info.digest


@pytest.mark.parametrize("query", ["first=9", "first=5&last=5", "first=7&last=3", "last=10", "first=x"])
def test_digits_that_are_none_or_one_are_refused(query: str) -> None:
    with pytest.raises(BadData, match=r"first must be below last|must be a whole number from 0 to 9"):
        open_dataset(DataSpec(uri=f"builtin://digits?{query}"))
