"""What a trial costs beside its own work: Fairlead with a process for every trial, Ray Tune, and Optuna in process.

All run the same function at random points, two at a time but for Optuna, which knows one. Trivial ones return at once;
digits trials learn for two epochs. Seconds are those of the whole sweep over its trials: ours from the first trial's
beginning to the last one's end, as the store has them; Tune's of ``fit()``, which has been called once before.
``TRIALS``: of ours and of Tune with reused actors; ``FRESH``: of Tune with fresh ones; ``SLOTS``: at a time.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size
from benchmarks.places import PROGRAMS, RUN_S, conversation, fairlead_stack, ray_head, scratch, warm_up
from fairlead import Client

NAME = "sweep_overhead"
WORK: Mapping[str, Mapping[str, Any]] = {"trivial": {}, "digits": {"epochs": 2}}
TITLES = {
    "ours": "Fairlead, a process a trial",
    "ours_reused": "Fairlead, processes reused",
    "tune_fresh": "Ray Tune, fresh actors",
    "tune_reused": "Ray Tune, reused actors",
    "optuna": "Optuna in process, one at a time",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOverhead:
    """Seconds a trivial trial. ``ratio_to_tune_fresh``: ``s_per_trial / tune_fresh_s``."""

    s_per_trial: float
    tune_fresh_s: float
    tune_reused_s: float
    optuna_s: float
    ratio_to_tune_fresh: float


def measure() -> Measurement:
    """Ours first, then the others on a plain Ray."""
    trials, fresh, slots = size("TRIALS", 200), size("FRESH", 60), size("SLOTS", 2)
    found: dict[str, dict[str, float]] = {name: {} for name in TITLES}
    whole: dict[str, float] = {}
    with scratch() as directory:
        with fairlead_stack(directory / "home") as (_, client):
            warm_up(client, directory / "home")
            for work, params in WORK.items():
                for name, reuse in (("ours", False), ("ours_reused", True)):
                    own_s, all_s = _ours(client, f"{name.replace('_', '-')}-{work}", params, trials, slots, reuse=reuse)
                    found[name][work], whole[f"{name}_{work}"] = own_s / trials, round(all_s, 2)
                    print(f"{work}: {name} {own_s / trials:.3f} s a trial", file=sys.stderr)
        with ray_head(directory) as head, conversation("tune_driver.py", head.address) as driver:
            driver.answer()
            order = {"storage": str(directory / "tune"), "slots": slots, "reuse": False, "trials": 4}
            driver.ask({**order, "who": "tune", "params": {}})  # what a first call costs is not counted
            for work, params in WORK.items():
                for name, who, reuse, count in (
                    ("tune_fresh", "tune", False, fresh),
                    ("tune_reused", "tune", True, trials),
                    ("optuna", "optuna", False, trials),
                ):
                    asked = {**order, "who": who, "reuse": reuse, "trials": count, "params": dict(params)}
                    found[name][work] = json.loads(driver.ask(asked)) / count
                    print(f"{work}: {name} {found[name][work]:.3f} s a trial", file=sys.stderr)
    return conclude(found, whole, {"trials": trials, "fresh": fresh, "slots": slots})


def conclude(
    found: Mapping[str, Mapping[str, float]], whole: Mapping[str, float], sizes: Mapping[str, Any]
) -> Measurement:
    """The numbers of both kinds of work."""
    trivial = {name: seconds["trivial"] for name, seconds in found.items()}
    result = SweepOverhead(
        s_per_trial=trivial["ours"],
        tune_fresh_s=trivial["tune_fresh"],
        tune_reused_s=trivial["tune_reused"],
        optuna_s=trivial["optuna"],
        ratio_to_tune_fresh=trivial["ours"] / trivial["tune_fresh"],
    )
    details = {
        "seconds_a_trial": {
            name: {work: round(s, 4) for work, s in by_work.items()} for name, by_work in found.items()
        },
        "digits_ratio_to_tune_fresh": round(found["ours"]["digits"] / found["tune_fresh"]["digits"], 4),
        "submit_to_result_s": dict(whole),
    }
    return Measurement(result=result, sizes=sizes, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    for work in WORK:
        seconds = {name: by_work[work] for name, by_work in document["details"]["seconds_a_trial"].items()}
        rows = [
            Bar(label=TITLES[name], value=s, low=s, high=s, is_ours=name.startswith("ours"))
            for name, s in seconds.items()
        ]
        what = "a trivial trial" if work == "trivial" else "a trial of two epochs on digits"
        title = f"Seconds of a sweep over its trials: {what}"
        (directory / f"{NAME}_{work}.svg").write_text(bars(title, rows))


def _ours(
    client: Client, name: str, params: Mapping[str, Any], trials: int, slots: int, *, reuse: bool
) -> tuple[float, float]:
    """Seconds from the first trial's beginning to the last one's end, and from submit to result."""
    experiment = client.submit(sweep(name, params, trials=trials, slots=slots, reuse=reuse), code=PROGRAMS)
    experiment.result(timeout=RUN_S)
    view = experiment.refresh().view
    found = list(experiment.trials())
    assert [one.state for one in found] == ["succeeded"] * trials, "every trial must count"
    began = min(one.started_at for one in found if one.started_at)
    ended = max(one.ended_at for one in found if one.ended_at)
    return (ended - began).total_seconds(), (view.updated_at - view.created_at).total_seconds()


def sweep(
    name: str, params: Mapping[str, Any], *, trials: int, slots: int, reuse: bool, algorithm: str = "random"
) -> dict[str, Any]:
    """A sweep that runs ``programs/trial.py``."""
    return {
        "name": name,
        "workload": "trial:train",
        "params": dict(params),
        "data": {"uri": "builtin://diabetes", "split": {"train": 0.8, "validation": 0.2, "test": 0.0}},
        "search": {
            "space": {"x": {"uniform": [0, 1]}},
            "algorithm": algorithm,
            "objectives": [{"minimize": "validation/loss"}],
            "trials": trials,
            "concurrency": slots,
            "reuse_processes": reuse,
        },
    }
