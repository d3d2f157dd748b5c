"""Which trials are stopped early, and that the good ones are not."""

import math
from typing import Any

import numpy as np
import pytest

from fairlead.search.chance import at_random, changed
from fairlead.search.space import problems_with_point
from fairlead.search.stopping import (
    ByBracket,
    ByMedian,
    ByPopulation,
    ByRung,
    GoOn,
    Never,
    Stop,
    Stopping,
    rungs,
    stopping,
)
from fairlead.spec import from_mapping
from fairlead.spec.search import AshaSpec, HyperbandSpec, MedianSpec, SearchSpec


def asha(**changes: Any) -> AshaSpec:
    return from_mapping(AshaSpec, {"max_resource": 27, **changes})


def test_rungs_lie_a_factor_apart_below_the_end() -> None:
    assert rungs(asha()) == (1, 3, 9)
    assert rungs(asha(grace=2, reduction_factor=4, max_resource=40)) == (2, 8, 32)
    assert rungs(asha(), bracket=2) == (9,)
    assert rungs(asha(), bracket=3) == ()


def test_only_the_best_third_of_those_that_came_as_far_go_on() -> None:
    judge = ByRung(asha()).judge
    verdicts = [judge(no, 1, cost) for no, cost in enumerate([5.0, 4.0, 3.0, 6.0, 2.0, 2.5])]
    # The first two are too few to compare; 3.0 is the best of three, 6.0 the last of four, 2.0 the best of five, and
    # 2.5 the second of six, of which two go on.
    assert [type(verdict) for verdict in verdicts] == [GoOn, GoOn, GoOn, Stop, GoOn, GoOn]
    assert verdicts[3] == Stop(reason="pruned_at_1: it is 4th of 4, and the best 1 go on")


def test_a_trial_is_judged_once_at_each_rung_and_at_the_highest_it_has_reached() -> None:
    judge = ByRung(asha()).judge
    for no in range(3):
        judge(no, 9, float(no))  # steps may be left out
    assert judge(3, 1, 9.0) == GoOn(), "nobody was judged at the first rung"
    assert judge(3, 1, 9.0) == GoOn()
    assert judge(3, 2, 9.0) == GoOn(), "no rung lies here"
    assert isinstance(judge(3, 10, 9.0), Stop)


def test_no_number_is_worse_than_any() -> None:
    judge = ByRung(asha()).judge
    verdicts = [judge(no, 1, cost) for no, cost in enumerate([math.nan, math.inf, 1.0, math.nan])]
    assert [type(verdict) for verdict in verdicts] == [GoOn, GoOn, GoOn, Stop]


def test_who_has_run_all_steps_is_at_the_end() -> None:
    verdict = ByRung(asha()).judge(0, 27, 0.0)
    assert verdict == Stop(reason="max_resource: it has run 27 steps", is_complete=True)


def test_what_is_told_once_more_is_judged_alike() -> None:
    random = np.random.default_rng(1)
    told = [(int(no), int(step), float(random.random())) for step in (1, 3, 9) for no in random.permutation(30)]
    for make in (lambda: ByRung(asha()), lambda: ByBracket(from_mapping(HyperbandSpec, {"max_resource": 27}))):
        first, second = make(), make()
        assert [first.judge(*one) for one in told] == [second.judge(*one) for one in told]


def test_brackets_take_many_trials_that_are_stopped_early_and_few_that_are_not() -> None:
    judge = ByBracket(from_mapping(HyperbandSpec, {"max_resource": 27})).judge
    # Costs rise with the number, so whoever is judged at a rung after two others is stopped there.
    stopped = [next((s for s in range(1, 28) if isinstance(judge(no, s, float(no)), Stop)), 28) for no in range(49)]
    assert set(stopped) == {1, 3, 9, 27}
    assert stopped.count(1) > stopped.count(3) > stopped.count(9)


def curves(count: int, steps: int, seed: int) -> np.ndarray:
    """Losses that fall to a level of their own, with noise; the ranking at an early step says something, not all."""
    random = np.random.default_rng(seed)
    level, speed = random.uniform(0.1, 1, count), random.uniform(0.2, 1, count)
    fall = np.exp(-np.outer(speed, np.arange(1, steps + 1)))
    found: np.ndarray = level[:, None] + fall + random.normal(0, 0.01, (count, steps))
    return found


def spent(judge: Stopping, losses: np.ndarray) -> tuple[float, float]:
    """The share of all steps that were run, and how far the best that ended is above the best of all."""
    count, steps = losses.shape
    ran, ends = 0, []
    for no in range(count):
        for step in range(1, steps + 1):
            ran += 1
            verdict = judge.judge(no, step, losses[no, step - 1])
            if isinstance(verdict, Stop):
                break
        if step == steps:
            ends.append(losses[no, -1])
    return ran / losses.size, min(ends) - losses[:, -1].min()


def test_a_third_of_the_steps_find_nearly_the_best() -> None:
    found = [spent(ByRung(asha(grace=2)), curves(100, 27, seed)) for seed in range(20)]
    assert max(share for share, _ in found) < 1 / 3
    assert np.median([regret for _, regret in found]) < 0.01, "of losses between 0.1 and 1"
    assert max(regret for _, regret in found) < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_median_rule_saves_steps_and_keeps_the_best(seed: int) -> None:
    share, regret = spent(ByMedian(from_mapping(MedianSpec, {})), curves(100, 27, seed))
    assert share < 0.75
    assert regret == 0


def test_the_median_rule_waits_for_others_and_for_the_grace() -> None:
    judge = ByMedian(from_mapping(MedianSpec, {"grace": 2, "min_trials": 2})).judge
    for no in range(2):
        assert [judge(no, step, 1.0) for step in (1, 2)] == [GoOn(), GoOn()]
    assert judge(2, 1, 9.0) == GoOn()
    assert judge(2, 2, 9.0) == Stop(reason="pruned_at_2: its best is worse than the median of 2 others")
    assert judge(3, 1, 0.5) == GoOn()
    assert judge(3, 2, 9.0) == GoOn(), "its best counts"
    assert judge(3, 2, 99.0) == GoOn(), "told again"


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (None, Never),
        ({"asha": {"max_resource": 9}}, ByRung),
        ({"hyperband": {"max_resource": 9}}, ByBracket),
        ({"median": {}}, ByMedian),
        ({"pbt": {"interval": 1}}, ByPopulation),
    ],
)
def test_a_spec_says_which(asked: dict[str, Any] | None, kind: type) -> None:
    found = stopping(a_search(early_stopping=asked), seed=0)
    assert type(found) is kind
    found.begin(0, {"lr": 0.1})
    assert found.judge(0, 1, 1.0) == GoOn()
    found.end(0)


def a_search(**changes: Any) -> SearchSpec:
    space = {"lr": {"log_uniform": [1e-4, 1]}, "units": {"int": [1, 64]}, "kind": {"choice": ["a", "b"]}}
    return from_mapping(SearchSpec, {"space": space, "objectives": [{"minimize": "loss"}], **changes})


def a_population(seed: int = 0, **changes: Any) -> ByPopulation:
    pbt = {"interval": 5, **changes}
    search = a_search(early_stopping={"pbt": pbt}, trials=8)
    assert search.early_stopping is not None
    assert search.early_stopping.pbt is not None
    return ByPopulation(search.early_stopping.pbt, search, seed=seed)


POINT = {"lr": 0.01, "units": 8, "kind": "a"}


def test_the_worst_of_a_population_give_way_to_continuations_of_the_best() -> None:
    rule = a_population()
    for no in range(8):
        rule.begin(no, POINT | {"units": no + 1})
    assert [rule.judge(no, step, no) for no in range(8) for step in range(1, 5)] == [GoOn()] * 32
    verdicts = [rule.judge(no, 5, no) for no in range(8)]
    # Of three or fewer a quarter is nobody; of four to seven it is the last, of eight the last two.
    assert [type(verdict) for verdict in verdicts] == [GoOn, GoOn, GoOn, Stop, Stop, Stop, Stop, Stop]
    last = verdicts[7]
    assert isinstance(last, Stop)
    assert last.continuation is not None
    assert last.continuation.parent in (0, 1)
    assert last.reason == f"replaced_at_5: it is 8th of 8, and trial {last.continuation.parent} is continued instead"
    assert rule.judge(7, 5, 9.0) == GoOn(), "told again"


def test_who_came_first_is_compared_with_those_that_came_after() -> None:
    rule = a_population()
    for no in range(8):
        rule.begin(no, POINT)
    assert [rule.judge(no, 5, -no) for no in range(8)] == [GoOn()] * 8
    verdicts = [rule.judge(no, 6, -100.0) for no in range(8)]
    assert [type(verdict) for verdict in verdicts] == [Stop, Stop, *[GoOn] * 6], "by what they reported at step 5"


def test_a_continuation_is_let_alone_for_an_interval_of_its_own() -> None:
    rule = a_population()
    for no in range(8):
        rule.begin(no, POINT)
    for step in (5, 10, 15):
        for no in range(4):
            rule.judge(no, step, no)
    rule.begin(8, POINT, parent=0)
    # Its parent's checkpoint was one of step 8.
    assert [rule.judge(8, step, 9.0) for step in range(9, 15)] == [GoOn()] * 6
    assert isinstance(rule.judge(8, 15, 9.0), Stop)


def test_who_has_ended_is_not_continued_and_nobody_is_stopped_for_nothing() -> None:
    rule = a_population()
    for no in range(8):
        rule.begin(no, POINT)
    for no in range(2):
        rule.judge(no, 5, no)
        rule.end(no)
    assert [rule.judge(no, 5, no) for no in range(2, 8)] == [GoOn()] * 6
    level = a_population()
    for no in range(8):
        level.begin(no, POINT)
    assert [level.judge(no, 5, 1.0) for no in range(8)] == [GoOn()] * 8, "as good as the best"


def test_there_is_an_end_to_continuations() -> None:
    rule = a_population(continuations=2)
    for no in range(8):
        rule.begin(no, POINT)
    for no in range(3):
        rule.judge(no, 5, no)
    assert isinstance(rule.judge(3, 5, 3.0), Stop)
    for no in (8, 9):
        rule.begin(no, POINT, parent=0)
    assert rule.judge(4, 5, 4.0) == GoOn()


def test_a_trial_is_compared_with_those_that_were_the_last_to_come_as_far() -> None:
    rule = a_population(population=4)
    for no in range(8):
        rule.begin(no, POINT)
    for no in range(4):
        rule.judge(no, 5, 0.0)  # an earlier population, better than all that come
    verdicts = [rule.judge(no, 5, cost) for no, cost in zip(range(4, 8), (4.0, 1.0, 3.0, 2.0), strict=True)]
    assert [type(verdict) for verdict in verdicts] == [Stop, GoOn, GoOn, GoOn]


def test_a_population_that_is_told_once_more_decides_alike() -> None:
    """Trial after trial, as rows have it; before it was step after step."""
    costs = np.random.default_rng(2).random((8, 20))

    def told(rule: ByPopulation, order: list[tuple[int, int]]) -> list[object]:
        return [rule.judge(no, step, costs[no, step - 1]) for no, step in order]

    first, second = a_population(seed=4), a_population(seed=4)
    for no in range(8):
        first.begin(no, POINT)
    told(first, [(no, step) for step in range(1, 11) for no in range(8)])
    for no in range(8):
        second.begin(no, POINT)
        told(second, [(no, step) for step in range(1, 11)])
    rest = [(no, step) for step in range(11, 21) for no in range(8)]
    verdicts = told(first, rest)
    assert told(second, rest) == verdicts
    assert any(isinstance(verdict, Stop) for verdict in verdicts)


def test_what_is_changed_stays_in_the_space_and_near_its_parent() -> None:
    search = a_search(early_stopping={"pbt": {"interval": 1, "resample": 0}})
    assert search.early_stopping is not None
    asked = search.early_stopping.pbt
    assert asked is not None
    random = np.random.default_rng(0)
    points = [changed(search, asked, POINT | {"units": 2}, random) for _ in range(50)]
    assert all(problems_with_point(search, point) == () for point in points)
    assert {round(point["lr"], 6) for point in points} == {0.008, 0.012}
    assert {point["units"] for point in points} == {1, 3}, "at least a step"
    assert {point["kind"] for point in points} == {"a"}
    anew = asked.model_copy(update={"resample": 1.0})
    assert {changed(search, anew, POINT, random)["kind"] for _ in range(20)} == {"a", "b"}


def test_a_parameter_that_was_not_looked_for_at_the_parents_point_is_drawn() -> None:
    space = {"kind": {"choice": ["a", "b"]}, "only_b": {"uniform": [2, 3], "when": {"kind": ["b"]}}}
    search = a_search(space=space, early_stopping={"pbt": {"interval": 1, "resample": 0.5}})
    assert search.early_stopping is not None
    assert search.early_stopping.pbt is not None
    random = np.random.default_rng(0)
    points = [changed(search, search.early_stopping.pbt, {"kind": "a"}, random) for _ in range(50)]
    assert {point["kind"] for point in points} == {"a", "b"}
    assert all(problems_with_point(search, point) == () for point in points)


def test_a_population_learns_what_no_single_trial_could() -> None:
    """A loss that falls by a factor that the rate decides, and the best rate falls with it."""

    def trained(loss: float, rate: float) -> float:
        return loss * (1 - 0.3 * math.exp(-((2 * math.log10(rate / loss * 10)) ** 2)))

    def ends(asked: dict[str, Any] | None, seed: int) -> list[float]:
        search = a_search(early_stopping=asked and {"pbt": asked}, trials=12, space={"lr": {"log_uniform": [1e-6, 1]}})
        rule, random = stopping(search, seed=seed), np.random.default_rng(seed)
        points = [at_random(search, random) for _ in range(12)]
        slots = list(range(12))
        losses = [1.0] * 12
        for no in slots:
            rule.begin(no, points[no])
        for step in range(1, 81):
            for slot, no in enumerate(slots):
                losses[no] = trained(losses[no], points[no]["lr"])
                verdict = rule.judge(no, step, losses[no])
                if isinstance(verdict, Stop) and verdict.continuation is not None:
                    rule.end(no)
                    slots[slot], parent = len(points), verdict.continuation.parent
                    points.append(dict(verdict.continuation.point))
                    losses.append(losses[parent])
                    rule.begin(slots[slot], points[-1], parent)
        return [losses[no] for no in slots]

    with_it = [min(ends({"interval": 2, "factors": [0.5, 2], "continuations": 1000}, seed)) for seed in range(10)]
    without = [min(ends(None, seed)) for seed in range(10)]
    assert np.median(with_it) < np.median(without) / 10
