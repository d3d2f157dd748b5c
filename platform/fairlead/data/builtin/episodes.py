"""Plays of an environment that gymnasium has, each named by its seed."""

from typing import Any

import numpy as np

from fairlead.data.columns import Source
from fairlead.errors import BadData, Problem

MOST_EPISODES = 100_000
ENVIRONMENT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,80})?"
"""Names of environments. No module to import stands before them: what is installed is found without it."""


def episodes(*, environment: str = "CartPole-v1", rows: int = 200, seed: int = 0) -> Source:
    """``rows`` plays of ``environment``; play k begins from the seed ``100,000 seed + k``, which is all that it is.

    Seeds of the train split are what a workload plays while it learns; how well it plays is seen from those of the
    test split, which it has never begun from. ``start`` says of a play whether its first observation lies ``near`` the
    mean of all first observations or ``far`` from it, by the median of the distances.

    Environments have a Box of one dimension as observation, a Discrete action, and a limit of steps. Raises ``BadData``
    for others, and those that are not installed.
    """
    if rows > MOST_EPISODES:
        raise _bad(f"rows must be at most {MOST_EPISODES} where they are plays, not {rows}")
    made, details = opened(environment)
    seeds = MOST_EPISODES * seed + np.arange(rows, dtype=np.int64)
    firsts = np.stack([np.asarray(made.reset(seed=int(one))[0], dtype=np.float64) for one in seeds])
    made.close()
    distance = np.linalg.norm(firsts - firsts.mean(axis=0), axis=1)
    return Source(
        uri=f"builtin://episodes?environment={environment}",
        num_rows=rows,
        columns={"start": np.where(distance > np.median(distance), "far", "near").astype(object)},
        kind="episodes",
        array=seeds[:, None],
        ids=np.array([f"{environment}#{one}" for one in seeds], dtype=object),
        learns="return",
        level_order={"start": ("near", "far")},
        details=details,
    )


def opened(environment: str) -> tuple[Any, dict[str, Any]]:
    """The environment, and what a workload must know of it: its name, numbers of observations, actions and steps.

    Raises ``BadData`` where it is not installed, or is of another kind.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise _bad("plays need gymnasium, which is not installed here", "pip install 'fairlead[workloads]'") from error
    try:
        made = gymnasium.make(environment, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:  # the second: it needs a package, such as a physics engine
        raise _bad(f"the environment {environment} cannot be made: {error}") from error
    seen, done = made.observation_space, made.action_space
    if not isinstance(seen, gymnasium.spaces.Box) or len(seen.shape) != 1:
        raise _bad(f"{environment} shows {seen}; a Box of one dimension is needed, such as that of CartPole-v1")
    if not isinstance(done, gymnasium.spaces.Discrete) or int(done.start) != 0:
        raise _bad(f"{environment} takes {done}; a Discrete action from 0 is needed, such as that of CartPole-v1")
    steps = made.spec.max_episode_steps if made.spec is not None else None
    if steps is None:
        raise _bad(f"a play of {environment} may go on for ever", "register it with max_episode_steps")
    details = {"environment": environment, "observations": int(seen.shape[0]), "actions": int(done.n), "steps": steps}
    return made, details


def _bad(message: str, suggestion: str | None = None) -> BadData:
    text = f"{message}; {suggestion}" if suggestion else message
    return BadData(text, problems=(Problem(pointer="/data/uri", message=message, suggestion=suggestion),))
