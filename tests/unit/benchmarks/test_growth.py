import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
from benchmarks.fit import power_law
from benchmarks.growth import FITTED, Growth, conclude, draw, medians, table, tick_s, timed

from fairlead.embedded.home import prepare
from fairlead.lifecycle import State
from fairlead.store import experiments, migrate, open_store
from fairlead.testing.stored import an_experiment

SIZES = (1, 10, 100, 1000)


def points(of: str, **exponents: float) -> list[dict[str, Any]]:
    return [{of: each, **{name: 2 * each**exponent for name, exponent in exponents.items()}} for each in SIZES]


FOUND = {
    "queued": points("queued", list_page_s=0, list_all_s=1, show_s=0.1, submit_s=0, tick_s=0.5),
    "workers": points("workers", first_step_s=0.25, pss_mb=-0.5, shared_mb=0, all_workers_pss_mb=1),
    "metrics": points("metrics", report_s=1, saturated_step_s=1, points_per_s=0.75),
}


@pytest.mark.parametrize("exponent", [-1, 0, 0.5, 2])
def test_the_exponent_of_a_power_law_is_found(exponent: float) -> None:
    law = power_law([(each, 3 * each**exponent) for each in SIZES])
    assert law.exponent == pytest.approx(exponent)
    assert law.factor == pytest.approx(3)
    assert law.last == pytest.approx(exponent)
    assert law.standard_error == pytest.approx(0, abs=1e-7)


def test_the_standard_error_is_that_of_a_regression() -> None:
    law = power_law([(math.exp(x), math.exp(y)) for x, y in [(0, 0), (1, 2), (2, 1), (3, 3)]])
    assert law.exponent == pytest.approx(0.8)  # and 0.4243, as scipy.stats.linregress has it
    assert law.standard_error == pytest.approx(0.42426407)


def test_a_fixed_cost_hides_growth_except_between_the_largest_sizes() -> None:
    law = power_law([(each, 1 + each / 100) for each in SIZES])
    assert law.exponent < 0.4 < 0.7 < law.last


def test_two_sizes_give_no_error_and_one_gives_no_exponent() -> None:
    assert power_law([(1, 1), (10, 10)]).standard_error is None
    with pytest.raises(ValueError, match="two sizes"):
        power_law([(5, 1), (5, 2)])
    with pytest.raises(ValueError, match="positive"):
        power_law([(1, 1), (2, 0)])


def test_every_exponent_is_fitted_through_its_own_curve() -> None:
    measurement = conclude(FOUND, {})
    assert FITTED.keys() == set(Growth.__dataclass_fields__)
    assert measurement.result.list_all_by_queued == pytest.approx(1)
    assert measurement.result.tick_by_queued == pytest.approx(0.5)
    assert measurement.result.worker_pss_by_workers == pytest.approx(-0.5)
    assert measurement.result.points_per_s_by_metrics == pytest.approx(0.75)


def test_repeated_runs_of_a_size_are_one_point_of_its_curve() -> None:
    runs = [{"workers": 2, "s": 9.0}, {"workers": 1, "s": 1.0}, {"workers": 2, "s": 5.0}, {"workers": 2, "s": 4.0}]
    assert medians(runs, "workers", "s") == [(1, 1.0), (2, 5.0)]


def test_tables_and_pictures_show_every_size(tmp_path: Path) -> None:
    document = {"details": conclude(FOUND, {}).details}
    text = table(document)
    assert text.count("| 1,000 |") == 3
    assert "| *exponent* | 0.00 ± 0.00; last 0.00 | 1.00 ± 0.00; last 1.00 |" in text
    draw(document, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"growth_{of}.svg" for of in FOUND}
    assert (tmp_path / "growth_queued.svg").read_text().count("<circle") == 5 * len(SIZES)


def test_the_first_call_is_not_timed() -> None:
    calls: list[int] = []
    assert timed(lambda: calls.append(1), trials=3) < 1
    assert len(calls) == 4


def test_a_tick_is_timed_on_a_copy_and_moves_nothing_in_the_original(tmp_path: Path) -> None:
    home = prepare(tmp_path / "home")
    with contextlib.closing(open_store(f"sqlite:///{home.database}")) as store:
        migrate(store)
        for number in range(3):
            an_experiment(store, f"exp-{number}", state=State.QUEUED)
        copy = tmp_path / "copy.db"
        assert tick_s(home, copy) > 0
        with store.read() as session:
            assert [each.waiting for each in experiments.candidates(session)] == [None] * 3
    with contextlib.closing(open_store(f"sqlite:///{copy}")) as copied, copied.read() as session:
        assert all("no_cluster" in str(each.waiting) for each in experiments.candidates(session))
