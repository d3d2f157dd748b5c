from typing import Any

import numpy as np
import pandas
import pytest

from fairlead.data import matrix_of
from fairlead.workload import FeatureColumn

FEATURES = (
    FeatureColumn(name="age", dtype="float32"),
    FeatureColumn(name="city", dtype="str", levels=("north", "south")),
)
EXPORTED = [{"name": "age", "dtype": "float32"}, {"name": "city", "dtype": "str", "levels": ["north", "south"]}]


@pytest.mark.parametrize("features", [FEATURES, EXPORTED])
def test_raw_rows_become_inputs_whatever_the_order_of_their_columns(features: Any) -> None:
    frame = pandas.DataFrame({"extra": [0, 0], "city": ["south", "north"], "age": [30, 40]})
    assert matrix_of(frame, features).tolist() == [[30, 0, 1], [40, 1, 0]]


def test_no_rows_are_no_inputs() -> None:
    frame = pandas.DataFrame({"city": np.array([], dtype=object), "age": np.array([], dtype=float)})
    assert matrix_of(frame, FEATURES).shape == (0, 3)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"age": [1]}, "lack the columns city"),
        ({"age": [1, 2], "city": ["north", "west"]}, "row 2 of column 'city': 'west' is not one of north, south"),
        ({"age": [1, 2], "city": ["north", None]}, "row 2 of column 'city' is missing"),
        ({"age": [1, None], "city": ["north", "north"]}, "row 2 of column 'age' is missing"),
        ({"age": ["1", "x"], "city": ["north", "north"]}, "row 2 of column 'age': 'x' is not a number"),
        ({"age": [1.0, np.inf], "city": ["north", "north"]}, "row 2 of column 'age': inf"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_with_the_place(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        matrix_of(pandas.DataFrame(columns), FEATURES)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "uint8", "int64[pyarrow]", "boolean"])
def test_every_kind_of_number_is_a_number(dtype: str) -> None:
    frame = pandas.DataFrame({"age": pandas.array([1, 0], dtype=dtype)})
    assert matrix_of(frame, FEATURES[:1]).tolist() == [[1], [0]]
