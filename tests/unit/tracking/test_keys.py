import pytest

from fairlead.tracking.keys import MARK, as_params, clean_key, flattened, truncated


@pytest.mark.parametrize(
    "key", ["loss", "train/loss", "rai/dp_difference/sex.upper95", "at/age:40-60", "a b", "x" * 250, "a/.../b"]
)
def test_what_mlflow_accepts_stays_as_it_is(key: str) -> None:
    assert clean_key(key) == key


@pytest.mark.parametrize(
    ("key", "begins"),
    [
        ("acc@1", "acc_1-"),
        ("a//b", "a/b-"),
        ("/a", "a-"),
        ("../../etc", "etc-"),
        ("a/", "a-"),
        ("größe", "gr__e-"),
        ("line\nbreak", "line_break-"),
        ("loss\n", "loss_-"),
        ("y" * 251, "y" * 241 + "-"),
        (".", "key-"),
        ("...", "key-"),
        ("", "key-"),
        ("\ud800", "_-"),
    ],
)
def test_other_keys_become_acceptable_and_stay_apart(key: str, begins: str) -> None:
    cleaned = clean_key(key)
    assert cleaned.startswith(begins)
    assert len(cleaned) == len(begins) + 8
    assert clean_key(cleaned) == cleaned
    assert clean_key(key + "?") != cleaned


def test_nested_parameters_become_dotted_keys() -> None:
    content = {"lr": 0.1, "name": "adam", "deep": {"a": {"b": [1, 2]}, "none": None}, "empty": {}, "flag": True}
    expected = {"lr": "0.1", "name": "adam", "deep.a.b": "[1, 2]", "deep.none": "null", "empty": "{}", "flag": "true"}
    assert flattened(content) == expected


@pytest.mark.parametrize(("length", "is_cut"), [(6000, False), (6001, True)])
def test_long_values_are_cut_with_a_mark(length: int, is_cut: bool) -> None:
    value = truncated("x" * length, limit=6000)
    assert len(value) == 6000
    assert value.endswith(MARK) is is_cut
    assert as_params({"p": "x" * length}) == {"p": value}
