"""Environments that play one seeded episode after another, on every rank its share of them.

What an environment plays does not depend on the number of ranks: the seed of its next episode follows from its own
number, and from how many it has played. An environment is where the seed of its episode and the actions since have
brought it: that is its state in a checkpoint, and playing them again brings it back, whatever it holds inside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from fairlead.data.splits import shard_range
from fairlead.data.torch import gather_objects, sum_over_ranks
from fairlead.errors import BadInput

AT_ONCE = 32
"""Episodes that are played side by side where they are only watched."""
SCALE_HOLD = 8
Policy = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""From observations, shape (n, observations), to actions, shape (n,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one action each did, by environment, first dimension n."""

    observations: NDArray[np.float32]
    """Where the actions led, shape (n, observations): of an episode that ended, its last."""
    rewards: NDArray[np.float32]
    is_terminal: NDArray[np.bool_]
    """Whether nothing comes after: an episode that only ran out of steps would have gone on."""
    has_ended: NDArray[np.bool_]
    """Whether the episode is over, either way."""


class Plays:
    """This rank's share of ``count`` environments; ``seeds``: what their episodes begin from, shape (m,).

    Raises ``BadInput`` where a rank would have no environment.
    """

    def __init__(
        self, environment: str, seeds: NDArray[np.int64], *, count: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if count < world_size:
            raise BadInput(f"{count} environments are too few for {world_size} ranks: every rank needs one at least")
        self.count = count
        self.first, self.last = shard_range(count, rank=rank, world_size=world_size)
        """This rank's environments are those from ``first`` up to, not including, ``last``."""
        self._seeds, self._seed = seeds, seed
        self._environments = _side_by_side(environment, self.last - self.first)
        self._episodes = np.zeros(self.last - self.first, dtype=np.int64)
        self._actions: list[list[int]] = [[] for _ in self._episodes]
        self._returns = np.zeros(len(self._episodes))
        self._ended: list[float] = []
        self._whole: dict[str, Any] = {}
        self.observations = self._begin(np.ones(len(self._episodes), dtype=bool))
        """What is to be acted on next, shape (n, observations)."""

    def __len__(self) -> int:
        return len(self._episodes)

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Act once in each environment, ``actions``: shape (n,). Those whose episode ends begin another."""
        led_to, rewards, terminated, truncated, _ = self._environments.step(actions)
        reached = led_to.astype(np.float32)
        has_ended = terminated | truncated
        self._returns += rewards
        for played, action in zip(self._actions, actions.tolist(), strict=True):
            played.append(action)
        self.observations = reached
        if has_ended.any():
            self._ended += self._returns[has_ended].tolist()
            self._episodes[has_ended] += 1
            for place in np.flatnonzero(has_ended):
                self._actions[place] = []
            self._returns[has_ended] = 0.0
            self.observations = self._begin(has_ended)
        return Step(
            observations=reached, rewards=rewards.astype(np.float32), is_terminal=terminated.copy(), has_ended=has_ended
        )

    def mean_return(self) -> float | None:
        """Over the episodes that ended on any rank since this was last asked; None: none has. Collective."""
        total, number = sum_over_ranks(sum(self._ended), float(len(self._ended)))
        self._ended = []
        return total / number if number else None

    def gather(self) -> None:
        """Bring the state of all ranks together for ``state_dict``. Collective."""
        parts = gather_objects((self._episodes.tolist(), self._actions))
        self._whole = {
            "episodes": [episode for episodes, _ in parts for episode in episodes],
            "actions": [list(actions) for _, played in parts for actions in played],
        }

    def state_dict(self) -> dict[str, Any]:
        """Of all environments: how many episodes each has ended, and its actions since; as ``gather`` last found it."""
        return self._whole

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Play the actions of this rank's environments again. Raises ``BadInput`` for another number of them."""
        if len(state["episodes"]) != self.count:
            raise BadInput(f"the checkpoint has {len(state['episodes'])} environments, and the spec says {self.count}")
        self._episodes = np.array(state["episodes"][self.first : self.last], dtype=np.int64)
        self._actions = [list(played) for played in state["actions"][self.first : self.last]]
        self._returns[:] = 0.0
        observations = self._begin(np.ones(len(self), dtype=bool))
        for place, played in enumerate(self._actions):
            for action in played:
                seen, reward, *_ = self._environments.envs[place].step(action)
                observations[place] = seen
                self._returns[place] += float(reward)
        self.observations = observations

    def _begin(self, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Begin the next episode where ``chosen``; what is now to be acted on everywhere."""
        drawn = [0] * len(self)
        for place in np.flatnonzero(chosen).tolist():
            random = np.random.RandomState((self._seed, self.first + place, self._episodes[place]))
            drawn[place] = int(self._seeds[random.randint(len(self._seeds))])
        seen, _ = self._environments.reset(seed=drawn, options={"reset_mask": chosen})
        return np.asarray(seen, dtype=np.float32)


def play_out(environment: str, seeds: NDArray[np.int64], policy: Policy) -> NDArray[np.float64]:
    """The return of the episode that begins from each of ``seeds``, shape (n,), played to its end by ``policy``."""
    returns = np.zeros(len(seeds))
    if not len(seeds):
        return returns
    slots = min(AT_ONCE, len(seeds))
    environments = _side_by_side(environment, slots)
    playing = np.arange(slots)  # which episode each environment plays; beyond the last: one that nobody counts
    seen, _ = environments.reset(seed=[int(one) for one in seeds[:slots]])
    following = slots
    while (counts := playing < len(seeds)).any():
        seen, rewards, terminated, truncated, _ = environments.step(policy(seen.astype(np.float32)))
        returns[playing[counts]] += rewards[counts]
        has_ended = terminated | truncated
        if has_ended.any():
            ended = int(has_ended.sum())
            playing[has_ended] = np.arange(following, following + ended)
            following += ended
            nexts = [int(one) for one in seeds[np.minimum(playing, len(seeds) - 1)]]
            seen, _ = environments.reset(seed=nexts, options={"reset_mask": has_ended})
    environments.close()
    return returns


def watch(environment: str, seed: int, policy: Policy) -> tuple[NDArray[np.float32], float]:
    """The observations of one episode, shape (steps + 1, observations), and its return."""
    made = gymnasium.make(environment, disable_env_checker=True)
    seen, _ = made.reset(seed=seed)
    observations, total, is_over = [np.asarray(seen, dtype=np.float32)], 0.0, False
    while not is_over:
        seen, reward, terminated, truncated, _ = made.step(int(policy(observations[-1][None])[0]))
        observations.append(np.asarray(seen, dtype=np.float32))
        total += float(reward)
        is_over = terminated or truncated
    made.close()
    return np.stack(observations), total


def scale_of_observations(
    environment: str, seeds: NDArray[np.int64], *, seed: int
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each observation in random play, the same on every rank.

    Each action is played SCALE_HOLD times, which leads further than another one each time.
    """
    plays = Plays(environment, seeds, count=8, seed=seed)
    actions = np.random.RandomState((seed, 3)).randint(int(plays._environments.single_action_space.n), size=(50, 8))
    seen = [plays.step(each).observations for each in actions.repeat(SCALE_HOLD, axis=0)]
    wide = np.concatenate(seen).astype(np.float64)
    deviation = wide.std(axis=0)
    return wide.mean(axis=0).tolist(), np.where(deviation > 0, deviation, 1.0).tolist()


def _side_by_side(environment: str, number: int) -> Any:
    return gymnasium.make_vec(
        environment,
        num_envs=number,
        vectorization_mode="sync",  # a process each costs more than these small environments take
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
    )
