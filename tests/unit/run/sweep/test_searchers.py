"""Searchers of Ray Tune's: what they suggest, what they are told, and how they go on after a stop."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np
import pytest
from ray.tune.search.searcher import Searcher

from fairlead.errors import BadSpec
from fairlead.run.sweep.searchers import Searchers
from fairlead.search.space import problems_with_point
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import from_mapping
from fairlead.spec.search import SearchSpec

SPACE = {
    "x": {"uniform": [-5, 5]},
    "rate": {"log_uniform": [1e-4, 1]},
    "layers": {"int": [1, 10], "step": 2},
    "depth": {"int": [1, 3]},
    "width": {"log_int": [1, 64]},
    "drop": {"uniform": [0.05, 0.35], "step": 0.1},
    "hidden": {"choice": [[16], [32, 32], None, True, "a"]},
}


class Remembering(Searcher):
    """Suggests in the order of a seed, and keeps all it is told."""

    told: list[tuple[str, Any]]

    def __init__(self, seed: int = 0, most: int = 100, waits: bool = False) -> None:
        super().__init__()
        self.random, self.most, self.waits = np.random.default_rng(seed), most, waits
        self.told, self.domains = [], {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        self.domains, self._metric, self._mode = config, metric, mode
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.waits:
            return None
        if self.most == 0:
            return self.FINISHED
        self.most -= 1
        return {name: domain.sample(random_state=self.random) for name, domain in self.domains.items()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append((trial_id, result["loss"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.told.append((trial_id, "error" if error else result and result["loss"]))


OPTUNA = {"name": "ray:ray.tune.search.optuna:OptunaSearch", "options": {"seed": 4}}


@pytest.fixture(autouse=True)
def _imported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("searchers_of_a_user")
    module.Remembering = Remembering  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "searchers_of_a_user", module)


def a_search(algorithm: Any = "Remembering", space: Any = None, **options: Any) -> SearchSpec:
    if isinstance(algorithm, str) and ":" not in algorithm:
        algorithm = {"name": f"ray:searchers_of_a_user:{algorithm}", "options": options}
    elif isinstance(algorithm, str):
        algorithm = {"name": algorithm, "options": options}
    given = {"space": space or SPACE, "objectives": [{"minimize": "loss"}], "algorithm": algorithm}
    return from_mapping(SearchSpec, given)


def ended(no: int, point: Any, *values: float, **changes: Any) -> Trial:
    return Trial(no=no, point=point, values=values, **{"state": TrialState.SUCCEEDED, **changes})


def run(searchers: Searchers, numbers: range) -> list[Trial]:
    trials = []
    for no in numbers:
        point = searchers.propose(no)
        assert point is not None
        trials.append(ended(no, point, (point["x"] - 1) ** 2))
        searchers.tell(trials[-1])
    return trials


@pytest.mark.parametrize("algorithm", ["Remembering", OPTUNA], ids=["own", "optuna"])
def test_what_a_searcher_suggests_lies_in_the_space(algorithm: Any) -> None:
    search = a_search(algorithm)
    trials = run(Searchers(search, seed=0), range(40))
    assert all(problems_with_point(search, trial.point) == () for trial in trials)
    assert {trial.point["layers"] for trial in trials} == {1, 3, 5, 7, 9}
    assert {trial.point["depth"] for trial in trials} == {1, 2, 3}
    assert {trial.point["drop"] for trial in trials} == {0.05, 0.15, 0.25, 0.35}
    assert {str(trial.point["hidden"]) for trial in trials} == {"[16]", "[32, 32]", "None", "True", "a"}


def test_it_finds_what_the_library_finds() -> None:
    trials = run(Searchers(a_search(OPTUNA), seed=0), range(60))
    assert min(trial.values[0] for trial in trials) < 0.02
    assert np.median([trial.values[0] for trial in trials[40:]]) < np.median([trial.values[0] for trial in trials[:10]])


def test_it_is_told_reports_and_ends_and_that_others_failed() -> None:
    searchers = Searchers(a_search(), seed=0)
    points = [searchers.propose(no) for no in range(4)]
    searchers.report(0, 1, 5.0)
    searchers.tell(ended(0, points[0], 3.0))
    searchers.tell(ended(1, points[1], state=TrialState.FAILED))
    searchers.tell(ended(2, points[2], math.nan))
    searchers.tell(ended(3, points[3], 2.0, state=TrialState.PRUNED))
    searchers.enter(4, points[0] or {})
    searchers.tell(ended(4, points[0], 1.0))  # made by hand: it takes no points
    searchers.tell(ended(5, points[0], 1.0, parent=0))
    assert searchers._searcher.told == [("0", 5.0), ("0", 3.0), ("1", "error"), ("2", "error"), ("3", 2.0)]
    with pytest.raises(KeyError):
        searchers.tell(ended(0, points[0], 3.0))


def test_one_that_takes_no_points_is_asked_once_more_and_goes_on_as_if_nothing_had_happened() -> None:
    unbroken = run(Searchers(a_search(seed=3), seed=0), range(20))
    for cut in (1, 9):
        assert run(Searchers(a_search(seed=3), seed=0, trials=unbroken[:cut]), range(cut, 20)) == unbroken[cut:]
    running = Trial(no=9, point=unbroken[9].point)
    again = Searchers(a_search(seed=3), seed=0, trials=[*unbroken[:9], running])
    again.tell(unbroken[9])
    assert again._searcher.told[-1] == ("9", unbroken[9].values[0])


def test_one_that_now_says_something_else_is_not_told_what_it_did_not_ask() -> None:
    before = run(Searchers(a_search(seed=3), seed=0), range(3))
    again = Searchers(a_search(seed=4), seed=0, trials=before)
    assert again._searcher.told == [(str(no), "error") for no in range(3)]


def test_one_that_takes_points_is_given_them_and_does_not_say_the_same_once_more() -> None:
    search = a_search(OPTUNA)
    before = run(Searchers(search, seed=0), range(12))
    failed = ended(12, before[0].point, state=TrialState.FAILED)
    pruned = dataclasses.replace(before[1], no=13, state=TrialState.PRUNED)
    running = Trial(no=14, point=before[2].point)
    again = Searchers(search, seed=0, trials=[*before, failed, pruned, running])
    assert len(again._searcher._ot_study.trials) == 13
    later = run(again, range(15, 30))
    assert not {str(trial.point) for trial in before} & {str(trial.point) for trial in later}
    again.tell(ended(14, running.point, 2.0))


def test_a_searcher_that_waits_keeps_no_slot_empty_and_one_at_its_end_says_so() -> None:
    search = a_search(waits=True)
    assert problems_with_point(search, Searchers(search, seed=0).propose(0) or {}) == ()
    searchers = Searchers(a_search(most=2), seed=0)
    assert [searchers.propose(no) is None for no in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("algorithm", "options", "words"),
    [
        ("ray:nowhere.at_all:Search", {}, "No module named 'nowhere'"),
        ("ray:collections:OrderedDict", {}, "collections.OrderedDict is no ray.tune.search.Searcher"),
        ("ray:ray.tune.search.optuna:OptunaSearch", {"sed": 1}, "unexpected keyword argument 'sed'"),
        ("ray:ray.tune.search:BasicVariantGenerator", {}, "is no ray.tune.search.Searcher"),
        ("ray:ray.tune.search.searcher:Searcher", {}, "takes no space"),
    ],
)
def test_a_searcher_that_cannot_be_made_is_named(algorithm: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec, match=words):
        Searchers(a_search(algorithm, **options), seed=0)
