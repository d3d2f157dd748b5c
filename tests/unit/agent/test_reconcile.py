import pytest

from fairlead.agent.reconcile import STEADY_AFTER_S, STEADY_TICKS, Action, RunnerSeen, Seen, decide, ticks_to_rest
from fairlead.lifecycle import Observation

PLAIN = {
    "is_over": False,
    "has_result": False,
    "runner": RunnerSeen.FOUND,
    "has_begun": True,
    "has_document": True,
    "stop_overdue": False,
    "stop_asked": False,
    "same_session": True,
    "silent_s": 0.0,
    "stall_timeout_s": 600.0,
}
NONE, SILENT, AWAY = RunnerSeen.NONE, RunnerSeen.SILENT, RunnerSeen.RAY_AWAY


@pytest.mark.parametrize(
    ("changes", "action", "observation"),
    [
        ({}, Action.WATCH, Observation.PRESENT),
        ({"has_result": True}, Action.CLAIM, Observation.PRESENT),
        ({"has_result": True, "runner": NONE}, Action.CLAIM, Observation.PRESENT),
        ({"has_result": True, "runner": AWAY}, Action.CLAIM, Observation.PRESENT),
        ({"has_result": True, "is_over": True}, Action.REMOVE, Observation.PRESENT),
        ({"is_over": True, "runner": AWAY}, Action.REMOVE, Observation.PRESENT),
        ({"runner": AWAY}, Action.WAIT, Observation.UNKNOWN),
        ({"runner": AWAY, "has_begun": False}, Action.WAIT, Observation.UNKNOWN),
        ({"runner": NONE, "has_begun": False}, Action.LAUNCH, Observation.ABSENT),
        ({"has_begun": False}, Action.LAUNCH, Observation.PRESENT),
        ({"runner": NONE, "has_begun": False, "stop_asked": True}, Action.ABANDON, Observation.ABSENT),
        ({"has_begun": False, "stop_asked": True}, Action.ABANDON, Observation.PRESENT),
        ({"runner": NONE, "has_begun": False, "has_document": False}, Action.ABANDON, Observation.ABSENT),
        ({"runner": NONE}, Action.PROVE_DEATH, Observation.UNKNOWN),
        ({"runner": NONE, "same_session": False}, Action.PROVE_DEATH, Observation.UNKNOWN),
        ({"runner": SILENT, "silent_s": 599.0}, Action.WAIT, Observation.UNKNOWN),
        ({"runner": SILENT, "silent_s": 601.0}, Action.FORCE, Observation.PRESENT),
        ({"runner": SILENT, "stop_overdue": True}, Action.FORCE, Observation.PRESENT),
        ({"progress_age_s": 719.0}, Action.WATCH, Observation.PRESENT),
        ({"progress_age_s": 721.0}, Action.FORCE, Observation.PRESENT),
        ({"stop_asked": True}, Action.WATCH, Observation.PRESENT),
        ({"stop_asked": True, "stop_overdue": True}, Action.FORCE, Observation.PRESENT),
    ],
)
def test_every_row_of_the_table(changes: dict[str, object], action: Action, observation: Observation) -> None:
    decision = decide(Seen(**(PLAIN | changes)))  # type: ignore[arg-type]
    assert (decision.action, decision.observation) == (action, observation)


@pytest.mark.parametrize("runner", [RunnerSeen.SILENT, RunnerSeen.RAY_AWAY])
def test_not_knowing_alone_never_ends_anything(runner: RunnerSeen) -> None:
    for has_begun in (True, False):
        for stop_asked in (True, False):
            seen = Seen(**(PLAIN | {"runner": runner, "has_begun": has_begun, "stop_asked": stop_asked}))  # type: ignore[arg-type]
            assert decide(seen).action is Action.WAIT


@pytest.mark.parametrize(
    ("observation", "age_s", "is_behind", "stop_asked", "ticks"),
    [
        (Observation.PRESENT, STEADY_AFTER_S, False, False, STEADY_TICKS),
        (Observation.PRESENT, STEADY_AFTER_S - 1, False, False, 1),
        (Observation.PRESENT, STEADY_AFTER_S, True, False, 1),
        (Observation.PRESENT, STEADY_AFTER_S, False, True, 1),
        (Observation.UNKNOWN, STEADY_AFTER_S, False, False, 1),
        (Observation.ABSENT, STEADY_AFTER_S, False, False, 1),
    ],
)
def test_only_what_trains_steadily_is_looked_at_less_often(
    observation: Observation, age_s: float, is_behind: bool, stop_asked: bool, ticks: int
) -> None:
    assert ticks_to_rest(observation, age_s=age_s, is_behind=is_behind, stop_asked=stop_asked) == ticks
