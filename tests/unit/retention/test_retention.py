import math

from hypothesis import given
from hypothesis import strategies as st

from fairlead.retention import Kept, newest_first, superfluous
from fairlead.spec import CheckpointsSpec

SCORES = st.none() | st.floats(allow_nan=True, allow_infinity=True)
POLICIES = st.builds(
    CheckpointsSpec,
    keep_last=st.integers(1, 4),
    keep_best=st.integers(0, 3),
    metric=st.just("loss"),
    mode=st.sampled_from(["min", "max"]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Kept]:
    names = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 20)), unique=True, max_size=25))
    return [
        Kept(id=number, attempt_no=attempt_no, step=step, score=draw(SCORES))
        for number, (attempt_no, step) in enumerate(names)
    ]


def a_run(*scores: float | None) -> list[Kept]:
    return [Kept(id=step, attempt_no=1, step=step, score=score) for step, score in enumerate(scores)]


def test_the_newest_and_the_best_stay() -> None:
    policy = CheckpointsSpec(keep_last=2, keep_best=1, metric="loss")
    gone = superfluous(a_run(0.5, 0.1, 0.3, 0.2, 0.4), policy, open_attempt_no=1)
    assert [one.step for one in gone] == [2, 0]
    best = CheckpointsSpec(keep_last=1, keep_best=1, metric="accuracy", mode="max")
    assert [one.step for one in superfluous(a_run(0.5, math.nan, None, 0.2), best, open_attempt_no=1)] == [2, 1]


@given(histories(), POLICIES, st.none() | st.integers(1, 5))
def test_something_to_resume_from_always_stays(
    history: list[Kept], policy: CheckpointsSpec, open_attempt_no: int | None
) -> None:
    gone = superfluous(history, policy, open_attempt_no=open_attempt_no)
    left = [one for one in history if one not in gone]
    assert newest_first(history)[: policy.keep_last] == newest_first(left)[: policy.keep_last]
    assert len(left) >= min(len(history), policy.keep_last)


@given(histories(), POLICIES)
def test_no_more_stay_than_the_policy_says_and_no_better_one_goes(history: list[Kept], policy: CheckpointsSpec) -> None:
    gone = superfluous(history, policy, open_attempt_no=None)
    left = [one for one in history if one not in gone]
    assert len(left) <= policy.keep_last + policy.keep_best
    if policy.keep_best:
        sign = 1 if policy.mode == "min" else -1
        scores = [sign * one.score for one in history if one.score is not None and not math.isnan(one.score)]
        kept = [sign * one.score for one in left if one.score is not None and not math.isnan(one.score)]
        assert min(scores, default=0) == min(kept, default=0)


@given(histories(), POLICIES, st.integers(1, 5))
def test_nothing_goes_while_an_open_attempt_may_be_resuming_from_an_earlier_one(
    history: list[Kept], policy: CheckpointsSpec, open_attempt_no: int
) -> None:
    earlier = [one for one in history if one.attempt_no < open_attempt_no]
    assert superfluous(earlier, policy, open_attempt_no=open_attempt_no) == ()


@given(histories(), POLICIES)
def test_a_second_look_finds_nothing_more(history: list[Kept], policy: CheckpointsSpec) -> None:
    gone = superfluous(history, policy, open_attempt_no=None)
    left = [one for one in history if one not in gone]
    assert superfluous(left, policy, open_attempt_no=None) == ()
