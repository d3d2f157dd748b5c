import pytest
from benchmarks.throughput import Rates, conclude, shares

SIZES = {"runs": 3}


@pytest.mark.parametrize(
    ("count", "slots", "expected"), [(6, 3, [2, 2, 2]), (6, 2, [3, 3]), (2, 2, [1, 1]), (5, 3, [1, 2, 2]), (1, 1, [1])]
)
def test_runs_are_spread_evenly(count: int, slots: int, expected: list[int]) -> None:
    assert shares(count, slots) == expected


def test_a_machine_that_slows_down_changes_no_pair() -> None:
    torchrun, ours = [10.0, 5.0, 2.0], [9.0, 4.5, 1.8]
    found = {workers: Rates(bare=[10.0, 12.0], beside=torchrun, ours=ours) for workers in (1, 2)}
    measurement = conclude(found, SIZES)
    assert measurement.result.beside_1 == pytest.approx(0.9)
    assert measurement.details["beside"]["2"]["min"] == measurement.details["beside"]["2"]["max"] == 0.9


def test_the_ratio_is_against_the_median_of_a_machine_without_a_stack() -> None:
    found = {1: Rates(bare=[10.0, 8.0, 12.0], beside=[9.0], ours=[9.0])}
    result = conclude({**found, 2: Rates(bare=[4.0], beside=[2.0], ours=[3.0])}, SIZES).result
    assert (result.ratio_1, result.beside_1) == (pytest.approx(0.9), 1.0)
    assert (result.ratio_2, result.beside_2) == (0.75, 1.5)


def test_runs_that_lost_their_pair_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        conclude({workers: Rates(bare=[1.0], beside=[1.0], ours=[1.0, 2.0]) for workers in (1, 2)}, SIZES)
