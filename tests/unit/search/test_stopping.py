"""Which trials are stopped early, and that the good ones are not."""

import math
from typing import Any

import numpy as np
import pytest

from fairlead.search.stopping import ByBracket, ByMedian, ByRung, GoOn, Never, Stop, Stopping, rungs, stopping
from fairlead.spec import from_mapping
from fairlead.spec.search import AshaSpec, EarlyStoppingSpec, HyperbandSpec, MedianSpec


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
    assert verdict == Stop(reason="max_resource: it has run 27 steps")


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
    ],
)
def test_a_spec_says_which(asked: dict[str, Any] | None, kind: type) -> None:
    found = stopping(None if asked is None else from_mapping(EarlyStoppingSpec, asked))
    assert type(found) is kind
    assert found.judge(0, 1, 1.0) == GoOn()
