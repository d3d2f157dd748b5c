"""How well ``dqn`` must play: Acrobot, and CartPole with the same parameters."""

from collections.abc import Mapping
from pathlib import Path

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead_workloads import dqn
from fairlead_workloads.checks.ppo import mean_return


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Mean returns over the test splits' plays."""
    params = {"rounds": 15} if is_short else {}
    found = {"acrobot_return": mean_return(train_once(dqn.train, ready_spec("acrobot", seed=seed, params=params)))}
    if not is_short:
        other = {"uri": "builtin://episodes?environment=CartPole-v1&rows=200"}
        found["cart_pole_return"] = mean_return(train_once(dqn.train, ready_spec("acrobot", seed=seed, data=other)))
    return found


CHECK = Check(
    measure=measure,
    bars=(Bar(value="acrobot_return", require=">= -100"), Bar(value="cart_pole_return", require=">= 475")),
    short_bars=(Bar(value="acrobot_return", require=">= -250"),),
    quick={
        "params": {"rounds": 4, "environments": 4, "steps": 40, "batch_size": 32, "memory": 400, "validate_every": 2},
        "data": {"uri": "builtin://episodes?environment=CartPole-v1&rows=100"},
    },
)
