import math
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fairlead.protocol import MAX_CURVE_POINTS, MAX_CURVES, MetricPoint
from fairlead.store.trials import extended


def points(key: str, steps: Any, value: float = 0.5) -> list[MetricPoint]:
    return [MetricPoint(key=key, value=value, step=step, at_ms=step) for step in steps]


def steps(curve: list[Any]) -> list[int]:
    return [step for step, _, _ in curve]


def test_a_short_course_is_kept_in_full() -> None:
    assert steps(extended({}, points("loss", range(1, 60)), first=())["loss"]) == list(range(1, 60))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 5))
def test_a_long_course_is_thinned_evenly_however_it_arrives(portions: list[int], stride: int) -> None:
    found: dict[str, Any] = {}
    step = 0
    for size in portions:
        found = extended(found, points("loss", range(step, step + size * stride, stride)), first=())
        step += size * stride
    kept = steps(found["loss"])
    apart = {later - earlier for earlier, later in pairwise(kept)}
    assert len(kept) < MAX_CURVE_POINTS
    assert len(apart) <= 1
    assert kept[0] == 0


def test_another_try_tells_its_steps_again_and_what_came_after_them_is_lost() -> None:
    found = extended({}, points("loss", range(1, 9)), first=())
    again = extended(found, points("loss", [4, 5], value=2.0), first=())["loss"]
    assert again == [[1, 1, 0.5], [2, 2, 0.5], [3, 3, 0.5], [4, 4, 2.0], [5, 5, 2.0]]


def test_objectives_have_their_place_and_come_first_however_many_other_metrics_there_are() -> None:
    others = [point for number in range(20) for point in points(f"m{number}", [1])]
    found = extended({}, [*others, *points("auc", [1]), *points("loss", [1])], first=("loss", "auc"))
    assert list(found)[:2] == ["loss", "auc"]
    assert len(found) == MAX_CURVES


def test_what_is_not_finite_is_kept_by_its_name() -> None:
    assert extended({}, points("loss", [1], value=math.nan), first=())["loss"] == [[1, 1, "NaN"]]
