"""Counts: exact, mergeable in any order, deterministic as bytes, and closed to nonsense."""

from contextlib import suppress
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.evaluation import ABSTAINED, UNKNOWN, CountState, grouping, state_size_bytes
from fairlead.testing.evaluation import example_state, state_of_rows
from fairlead.workload import Attribute

SEX = Attribute(name="sex", levels=("F", "M"))
NASTY = ("<script>alert(1)</script>", "../x", "a*b", "", "é" * 300)


def empty(*, num_classes: int = 2, has_scores: bool = True) -> CountState:
    classes = [str(index) for index in range(num_classes)]
    return CountState(attributes=[SEX], classes=classes, has_scores=has_scores)


def counted(rows: np.ndarray, *, num_classes: int = 2) -> CountState:
    """A state of some of 500 fixed rows."""
    generator = np.random.default_rng(3)
    codes, labels = generator.integers(0, 3, (500, 1)), generator.integers(0, num_classes, 500)
    scores = generator.random(500) if num_classes == 2 else generator.dirichlet(np.ones(num_classes), 500)
    predictions = generator.integers(ABSTAINED, num_classes, 500)
    hashes = generator.integers(0, 2**64, 500, dtype=np.uint64)
    state = empty(num_classes=num_classes)
    state.update(codes[rows], labels[rows], predictions[rows], record_hashes=hashes[rows], scores=scores[rows])
    return state


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(0, 500), min_size=5, max_size=5), st.sampled_from([2, 4]))
def test_any_sharding_in_any_order_gives_the_same_bytes(order: list[int], cuts: list[int], num_classes: int) -> None:
    shards = [counted(rows, num_classes=num_classes) for rows in np.split(np.arange(500), sorted(cuts))]
    merged = reduce(CountState.merge, [shards[index] for index in order])
    whole = counted(np.arange(500), num_classes=num_classes)
    assert merged.to_bytes() == whole.to_bytes()
    assert merged.digest() == whole.digest()


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.lists(st.integers(0, 499), max_size=40)] * 3))
def test_merging_is_associative_and_commutative(rows: tuple[list[int], ...]) -> None:
    one, two, three = (counted(np.array(some, dtype=np.int64)) for some in rows)
    left, right = one.merge(two).merge(three), one.merge(two.merge(three))
    assert left.to_bytes() == right.to_bytes()
    assert one.merge(two).to_bytes() == two.merge(one).to_bytes()


def test_permuting_rows_changes_nothing() -> None:
    order = np.random.default_rng(0).permutation(500)
    assert counted(order).digest() == counted(np.arange(500)).digest()


@pytest.mark.parametrize("num_classes", [2, 5])
def test_bytes_come_back_as_they_went(num_classes: int) -> None:
    state = example_state(rows=300, num_classes=num_classes)
    again = CountState.from_bytes(state.to_bytes())
    assert again.to_bytes() == state.to_bytes()
    assert again.digest() == state.digest()
    assert (again.attributes, again.classes, again.n) == (state.attributes, state.classes, 300)


@pytest.mark.parametrize(
    "spoil",
    [lambda b: b"", lambda b: b[:200], lambda b: b.replace(b"state/3", b"state/9"), lambda b: b.replace(b"i8", b"O8")],
)
def test_other_bytes_are_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="state"):
        CountState.from_bytes(spoil(example_state(rows=50).to_bytes()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2_000), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_harmless(position: int, change: int) -> None:
    good = counted(np.arange(40))
    spoilt = bytearray(good.to_bytes())
    spoilt[position % len(spoilt)] ^= change
    with suppress(ValueError):
        assert CountState.from_bytes(bytes(spoilt)).digest() == good.digest()


def test_a_state_that_contradicts_itself_is_refused() -> None:
    state = example_state(rows=50)
    state.counts[0, 0, 0] += 1
    with pytest.raises(ValueError, match="contradicts"):
        CountState.from_bytes(state.to_bytes())


def test_renaming_a_level_changes_the_digest_and_nothing_else() -> None:
    one = state_of_rows([0, 1], [1, 1], groups={"sex": ["F", "M"]})
    two = state_of_rows([0, 1], [1, 1], groups={"sex": ["F", "N"]})
    assert np.array_equal(one.counts, two.counts)
    assert one.digest() != two.digest()


def test_only_alike_states_merge() -> None:
    one = state_of_rows([0, 1], [1, 1], groups={"sex": ["F", "M"]})
    two = state_of_rows([0, 1], [1, 1], groups={"sex": ["F", "N"]})
    with pytest.raises(ValueError, match="same attributes"):
        one.merge(two)


def test_a_worker_without_rows_changes_nothing() -> None:
    whole, idle = counted(np.arange(500)), empty(has_scores=False)
    idle.update(np.empty((0, 1)), [], [], record_hashes=[])
    assert idle.merge(whole).to_bytes() == whole.merge(idle).to_bytes() == whole.to_bytes()


def test_a_duplicated_or_missing_row_is_noticed() -> None:
    whole = counted(np.arange(500))
    book = {"expected_n": 500, "expected_sum": whole.record_sum, "expected_xor": whole.record_xor}
    assert whole.check_complete(**book) is None
    for rows in (np.arange(499), np.r_[0:500, 7], np.r_[0:499, 7]):
        found = counted(rows).check_complete(**book)
        assert found is not None
        assert found.reason == "rows counted twice or not at all"


def test_the_checksum_wraps() -> None:
    state = empty(has_scores=False)
    state.update([[0], [0]], [0, 1], [0, 1], record_hashes=np.array([2**64 - 1, 2], dtype=np.uint64))
    assert (state.record_sum, state.record_xor) == (1, 2**64 - 3)


def test_missing_values_are_counted_but_not_binned() -> None:
    state = empty()
    state.update(
        [[0], [1], [2], [0]],
        np.array([1, np.nan, 0, 1]),
        [1, 1, 0, ABSTAINED],
        record_hashes=[1, 2, 3, 4],
        scores=[np.nan, 0.5, 0.5, 0.9],
    )
    assert (state.n, state.n_unknown, state.n_nan_labels, state.n_nan_scores) == (4, 1, 1, 1)
    assert int(state.counts.sum()) == 3
    assert state.counts[0, 1].tolist() == [0, 0, 2]  # a NaN score is no prediction
    assert state.histogram is not None
    assert int(state.histogram.sum()) == 2


@pytest.mark.parametrize(
    ("score", "score_bin", "calibration_bin"),
    [(0.0, 0, 0), (1.0, 1023, 14), (0.5, 512, 7), (1 / 1024, 1, 0), (np.nextafter(0.5, 0), 511, 7)],
)
def test_bins_are_closed_on_the_left_and_the_last_on_both_sides(
    score: float, score_bin: int, calibration_bin: int
) -> None:
    state = state_of_rows([1], [1], scores=[score])
    assert state.histogram is not None
    assert state.calibration is not None
    assert np.flatnonzero(state.histogram[0, 1]).tolist() == [score_bin]
    assert np.flatnonzero(state.calibration[0, 1]).tolist() == [calibration_bin]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [2]}, "labels"),
        ({"predictions": [2]}, "predictions"),
        ({"predictions": [0, 1]}, "shape"),
        ({"codes": [[3]]}, "codes of sex"),
        ({"codes": [[-1]]}, "codes of sex"),
        ({"codes": [[np.nan]]}, "codes must be whole"),
        ({"codes": [[0, 0]]}, "codes have shape"),
        ({"scores": [1.5]}, "scores must lie"),
        ({"scores": None}, "needs scores"),
        ({"labels": [0.5]}, "whole numbers"),
    ],
)
def test_values_outside_the_contract_are_refused(change: dict[str, list[float]], message: str) -> None:
    good = {"codes": [[0]], "labels": [0], "predictions": [0], "record_hashes": [1], "scores": [0.5]}
    with pytest.raises(ValueError, match=message):
        empty().update(**{**good, **change})  # type: ignore[arg-type]


def test_margins_equal_sums_of_crosses() -> None:
    state = example_state()
    crossed, by_sex = grouping(state, ["sex", "age_band"]), grouping(state, ["sex"])
    for index, (level,) in enumerate(by_sex.keys):
        parts = [at for at, key in enumerate(crossed.keys) if key[0] == level]
        assert np.array_equal(crossed.counts.table[parts].sum(axis=0), by_sex.counts.table[index])
    turned = grouping(state, ["age_band", "sex"])
    assert turned.sizes[turned.keys.index(("<40", "male"))] == crossed.sizes[crossed.keys.index(("male", "<40"))]


def test_an_unknown_level_is_its_own_group() -> None:
    state = state_of_rows([0, 1, 1], [0, 1, 1], groups={"sex": ["F", None, "M"]})
    groups = grouping(state, ["sex"])
    assert groups.keys == (("F",), ("M",), (UNKNOWN,))
    assert groups.is_unknown.tolist() == [False, False, True]
    assert state.n_unknown == 1


def test_nasty_level_names_survive() -> None:
    state = CountState(attributes=[Attribute(name="x/../y", levels=NASTY)], classes=["a", "b"])
    again = CountState.from_bytes(state.to_bytes())
    assert again.attributes[0].levels == NASTY


def test_ten_thousand_levels_are_counted_and_too_many_cells_refused() -> None:
    many = Attribute(name="place", levels=tuple(str(index) for index in range(10_000)))
    state = CountState(attributes=[many], classes=["0", "1"])
    state.update([[9_999]], [1], [1], record_hashes=[1])
    assert len(state.to_bytes()) < 200_000
    with pytest.raises(ValueError, match=r"place \(10000 levels\)"):
        CountState(attributes=[many], classes=["0", "1"], has_scores=True)
    assert state_size_bytes(attributes=[many], num_classes=2, has_scores=False) == 8 * (10_001 * 6 + 6)


@pytest.mark.parametrize(
    ("attributes", "classes"),
    [
        ([SEX], ["only"]),
        ([SEX], ["a", "a"]),
        ([SEX, SEX], ["a", "b"]),
        ([Attribute(name="x", levels=(UNKNOWN,))], ["a", "b"]),
    ],
)
def test_ambiguous_names_are_refused(attributes: list[Attribute], classes: list[str]) -> None:
    with pytest.raises(ValueError, match=r"class|attribute|levels"):
        CountState(attributes=attributes, classes=classes)


def test_an_update_of_many_rows_is_exact_beyond_one_chunk() -> None:
    rows = 150_000
    state = CountState(attributes=[SEX], classes=["0", "1"], has_scores=True)
    labels = np.arange(rows) % 2
    state.update(
        np.zeros((rows, 1), dtype=np.int16), labels, labels, record_hashes=np.arange(rows), scores=labels * 1.0
    )
    assert state.counts[0].tolist() == [[rows // 2, 0, 0], [0, rows // 2, 0]]
    assert state.score_sums is not None
    assert int(state.score_sums.sum()) == rows // 2 * 2**32
