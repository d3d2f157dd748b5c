"""When workers that hold resources count as idle, told by looks at what they say of themselves."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.run.idleness import IDLE_SHARE, Idle, Load, Span, look
from fairlead.spec import ExperimentSpec
from fairlead.testing import a_spec

LIMIT_S = 100.0
Loads = dict[int, Load] | None


def over(*seen: tuple[float, Loads]) -> Span | Idle | None:
    """The last of these looks, each at its time; it goes on after an idle one as if nothing had been said."""
    span: Span | Idle | None = None
    for now_s, loads in seen:
        span = look(None if isinstance(span, Idle) else span, loads, now_s=now_s, limit_s=LIMIT_S)
    return span


def ranks(*cpu_s: float, **more: object) -> Loads:
    return {rank: Load(cpu_s=each, **more) for rank, each in enumerate(cpu_s)}  # type: ignore[arg-type]


def test_ranks_that_use_next_to_nothing_for_the_limit_are_idle() -> None:
    assert over((0, ranks(5, 7)), (50, ranks(5.5, 7.25)), (100, ranks(6, 7.5))) == Idle(used_s=1.5, counted_s=100)
    early = over((0, ranks(5, 7)), (99, ranks(5.5, 7.5)))
    assert isinstance(early, Span)
    assert (early.counted_s, early.used_s) == (99, {0: 0.5, 1: 0.5})


@pytest.mark.parametrize("cpu_s", [(7.0, 0.0), (5.0, 0.0), (0.0, 5.0)], ids=["at work", "at the share", "another"])
def test_one_rank_at_work_keeps_all_of_them_from_being_idle(cpu_s: tuple[float, float]) -> None:
    span = over((0, ranks(0, 0)), (60, ranks(*cpu_s)), (120, ranks(*cpu_s)))
    assert isinstance(span, Span)
    assert (span.counted_s, span.at_s) == (60, 120), "it began anew when the allowance was used up"


@pytest.mark.parametrize(
    "between",
    [None, {}, ranks(0), {**(ranks(0, 0) or {}), 2: Load(cpu_s=0)}],
    ids=["nothing is known", "all have finished", "one finished and came back", "another rank"],
)
def test_where_the_ranks_change_or_are_not_known_the_span_begins_anew(between: Loads) -> None:
    span = over((0, ranks(0, 0)), (90, between), (95, ranks(0, 0)), (110, ranks(0, 0)))
    assert isinstance(span, Span)
    assert span.counted_s <= 20


def test_a_rank_that_has_finished_is_waited_for_no_more() -> None:
    assert over((0, ranks(0, 50)), (40, ranks(0)), (100, ranks(0))) == Idle(used_s=0, counted_s=100)


def test_what_is_excused_counts_neither_as_time_nor_as_work() -> None:
    copying = ranks(1, is_excused=True, num_excuses=1)
    after = ranks(1.5, num_excuses=1)
    span = over((0, ranks(0)), (40, ranks(0.5)), (45, copying), (80, copying), (85, after), (90, after))
    assert isinstance(span, Span)
    assert (span.counted_s, span.used_s) == (45, {0: 0.5})
    assert over((0, ranks(0)), (40, ranks(0)), (50, after), (110, after)) == Idle(used_s=0, counted_s=100), (
        "one between two looks is seen by its number"
    )


@given(st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 0.5), st.booleans()), min_size=1, max_size=200))
def test_whoever_is_called_idle_has_used_less_than_the_share_for_all_of_the_limit(
    steps: Iterable[tuple[float, float, bool]],
) -> None:
    now_s, cpu_s, num_excuses = 0.0, 0.0, 0
    span: Span | Idle | None = look(None, ranks(0), now_s=0, limit_s=LIMIT_S)
    history = [(0.0, 0.0, False)]
    for took_s, used_s, is_excused in steps:
        now_s, cpu_s, num_excuses = now_s + took_s, cpu_s + used_s, num_excuses + is_excused
        history.append((took_s, used_s, is_excused))
        assert isinstance(span, Span)
        span = look(span, ranks(cpu_s, num_excuses=num_excuses), now_s=now_s, limit_s=LIMIT_S)
        if isinstance(span, Idle):
            counted = [(took, used) for took, used, was_excused in history if not was_excused]
            assert sum(took for took, _ in counted) >= LIMIT_S - 1e-6
            assert span.used_s < IDLE_SHARE * LIMIT_S
            assert span.used_s <= sum(used for _, used in counted) + 1e-6
            return


def test_the_share_is_the_one_that_the_spec_tells_of() -> None:
    told = ExperimentSpec.model_json_schema()["$defs"]["PolicySpec"]["properties"]["idle_limit_s"]["description"]
    assert f"{IDLE_SHARE * 100:g} % of a CPU" in told
    assert a_spec().policy.idle_limit_s is None
