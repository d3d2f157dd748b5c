"""How well ``ppo`` must play: CartPole, and Acrobot with the same parameters."""

from collections.abc import Mapping
from pathlib import Path

from fairlead.checking import Bar, Check, Trained, ready_spec, train_once
from fairlead.evaluation.quantities import number_estimates, number_grouping
from fairlead.evaluation.regression import MomentState
from fairlead_workloads import ppo


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Mean returns over the test splits' plays."""
    params = {"rounds": 15} if is_short else {}
    found = {"cart_pole_return": mean_return(train_once(ppo.train, ready_spec("cart_pole", seed=seed, params=params)))}
    if not is_short:
        other = {"uri": "builtin://episodes?environment=Acrobot-v1&rows=200"}
        spec = ready_spec("cart_pole", seed=seed, data=other)
        found["acrobot_return"] = mean_return(train_once(ppo.train, spec))
    return found


def mean_return(trained: Trained) -> float:
    """Over the plays of the test split."""
    state = trained.test
    assert isinstance(state, MomentState), "plays are graded"
    return float(number_estimates("mean_quality", number_grouping(state)).values[0])


CHECK = Check(
    measure=measure,
    bars=(Bar(value="cart_pole_return", require=">= 475"), Bar(value="acrobot_return", require=">= -100")),
    short_bars=(Bar(value="cart_pole_return", require=">= 150"),),
    quick={
        "params": {"rounds": 4, "environments": 4, "steps": 32, "batch_size": 64, "passes": 2, "validate_every": 2},
        "data": {"uri": "builtin://episodes?environment=CartPole-v1&rows=100"},
    },
)
