from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from fairlead.lifecycle import Outcome
from fairlead.protocol import StopMode
from fairlead.run.idleness import Load
from fairlead.run.messages import Finished, Hello, Report
from fairlead.run.progress import Progress
from fairlead.run.verdict import Verdict


@dataclass
class HandClock:
    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic_s(self) -> float:
        return self.seconds


def hello(rank: int, group: str, world_size: int = 2) -> Hello:
    return Hello(
        rank=rank, world_size=world_size, group_id=group, actor_id=f"{group}{rank}", node_id="n", pid=100 + rank
    )


def report(generation: int, step: int, **metrics: float) -> Report:
    return Report(generation=generation, step=step, metrics=metrics, at_ms=0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def progress(clock: HandClock) -> Progress:
    made = Progress(clock)
    made.greet(hello(0, "first"))
    made.greet(hello(1, "first"))
    return made


def test_a_restarted_group_does_not_report_its_repeated_steps_twice(progress: Progress) -> None:
    for step in range(4):
        progress.take(report(1, step, loss=1.0))
    group, is_new = progress.greet(hello(0, "second"))
    assert (group.generation, is_new) == (2, True)
    taken = [progress.take(report(2, step, loss=2.0)) for step in (2, 3, 4)]
    assert taken == [{}, {}, {"loss": 2.0}]
    assert progress.num_repeated == 2


def test_words_of_a_superseded_group_count_nothing(progress: Progress) -> None:
    progress.greet(hello(0, "second"))
    late, is_new = progress.greet(hello(1, "first"))
    assert (late.generation, is_new) == (1, False)
    assert not progress.is_current(1)
    assert progress.take(report(1, 9, loss=1.0)) == {}


def test_age_counts_from_the_last_new_step_also_while_steps_are_repeated(progress: Progress, clock: HandClock) -> None:
    progress.take(report(1, 5, loss=1.0))
    clock.seconds = 10
    progress.take(report(1, 5, loss=1.0))
    assert progress.age_s() == 10
    progress.greet(hello(0, "second"))
    clock.seconds = 12
    progress.take(report(2, 3, loss=1.0))
    assert progress.age_s() == 0
    assert progress.last_step == 5


def test_a_group_has_finished_when_every_rank_has(progress: Progress) -> None:
    for rank in (0, 1):
        assert progress.group is not None
        assert not progress.group.has_finished
        progress.finish(Finished(generation=1, rank=rank, states={}, dataset={}, has_exported=False))
    assert progress.group is not None
    assert progress.group.has_finished


def test_only_the_first_cause_is_kept(progress: Progress) -> None:
    first = Verdict(outcome=Outcome.USER_ERROR, reason="first")
    assert progress.end(first)
    assert not progress.end(Verdict(outcome=Outcome.OOM, reason="second"))
    assert progress.cause == first


def test_a_cancel_overrides_a_pause_and_a_grace_is_never_extended(progress: Progress, clock: HandClock) -> None:
    assert progress.request_stop(StopMode.PAUSE, grace_s=30)
    assert progress.request_stop(StopMode.CANCEL, grace_s=10)
    assert not progress.request_stop(StopMode.CANCEL, grace_s=100)
    assert progress.stop is StopMode.CANCEL
    clock.seconds = 10
    assert progress.is_past_grace


def test_three_failed_writes_in_a_row_are_too_many(progress: Progress) -> None:
    answers = [progress.count_storage(failed=failed) for failed in (True, True, False, True, True, True)]
    assert answers == [False, False, False, False, False, True]


# ---- what ranks do --------------------------------------------------------------------------------------------------


def test_loads_are_known_once_all_ranks_have_come_up_and_told_of_theirs_lately(
    progress: Progress, clock: HandClock
) -> None:
    progress.greet(hello(0, "g"))
    progress.note_load(0, 2, Load(cpu_s=1))
    assert progress.loads() is None, "a rank is still to come"
    progress.greet(hello(1, "g"))
    assert progress.loads() is None, "it has not told of its load"
    clock.seconds = 20
    progress.note_load(1, 2, Load(cpu_s=2))
    assert progress.loads() == {0: Load(cpu_s=1), 1: Load(cpu_s=2)}
    clock.seconds = 31
    assert progress.loads() is None, "rank 0 has said nothing for half a minute"
    progress.finish(Finished(generation=2, rank=0, states={}, dataset={}, has_exported=False))
    assert progress.loads() == {1: Load(cpu_s=2)}
    progress.greet(hello(0, "h", world_size=1))
    progress.note_load(0, 2, Load(cpu_s=3))
    assert progress.loads() is None, "of an older group"


def test_nodes_are_told_of_workers_that_have_come_up(progress: Progress) -> None:
    progress.greet(hello(0, "g"))
    progress.greet(hello(1, "g"))
    assert progress.nodes_of({"g1", "strange"}) == ("n",)
    assert progress.nodes_of({"strange"}) == ()
