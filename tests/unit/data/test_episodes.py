"""Plays: what a spec may name, that an episode is its seed, and that environments come back from a checkpoint."""

import gymnasium
import numpy as np
import pytest

from fairlead.data import open_dataset
from fairlead.data.builtin import builtin_problem
from fairlead.data.plays import Plays, play_out, scale_of_observations, watch
from fairlead.errors import BadData, BadInput
from fairlead.spec import DataSpec

CART_POLE = "builtin://episodes?environment=CartPole-v1&rows=100"
SEEDS = np.arange(40, dtype=np.int64)


def lean(observations: np.ndarray) -> np.ndarray:
    """Push to where the pole leans: keeps it up for a while, not for ever."""
    return (observations[:, 2] > 0).astype(np.int64)


def test_a_row_is_a_seed_and_says_what_is_played() -> None:
    data = open_dataset(DataSpec.model_validate({"uri": f"{CART_POLE}&seed=2", "sensitive": ["start"]}))
    assert data.features[:, 0].tolist() == list(range(200_000, 200_100))
    assert data.info.details == {"environment": "CartPole-v1", "observations": 4, "actions": 2, "steps": 500}
    assert (data.info.kind, data.info.classes, data.info.target) == ("episodes", (), "return")
    assert np.bincount(data.codes[:, 0]).tolist() == [50, 50]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("environment=Nowhere-v3", "Nowhere"),
        ("environment=FrozenLake-v1", "a Box of one dimension is needed"),
        ("environment=Pendulum-v1", "a Discrete action from 0 is needed"),
        ("environment=CartPole-v1&rows=100001", "rows must be at most 100000"),
        ("environment=CartPole-v1&rows=7", "rows must be a whole number from 100"),
        ("environment=os:system", "environment is no name such as CartPole-v1"),
        ("world=CartPole-v1", "episodes has no setting 'world'"),
    ],
)
def test_what_cannot_be_played_is_said(query: str, words: str) -> None:
    with pytest.raises(BadData, match=words):
        open_dataset(DataSpec(uri=f"builtin://episodes?{query}"))


def test_a_play_without_an_end_is_refused() -> None:
    name = "EndlessCart-v0"
    gymnasium.register(name, entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv")
    try:
        with pytest.raises(BadData, match=f"a play of {name} may go on for ever"):
            open_dataset(DataSpec(uri=f"builtin://episodes?environment={name}"))
    finally:
        del gymnasium.registry[name]


def test_admission_knows_an_environment_s_name_without_making_it() -> None:
    assert builtin_problem("builtin://episodes?environment=some_space/Lander-v2") is None


def test_returns_are_those_of_each_seed_however_many_play_side_by_side() -> None:
    together = play_out("CartPole-v1", SEEDS, lean)
    alone = [watch("CartPole-v1", int(seed), lean)[1] for seed in SEEDS]
    assert together.tolist() == alone
    assert len(set(alone)) > 5
    assert play_out("CartPole-v1", SEEDS[:0], lean).shape == (0,)


def test_an_environment_plays_the_same_on_whichever_rank_it_is() -> None:
    whole = Plays("CartPole-v1", SEEDS, count=5, seed=1)
    parts = [Plays("CartPole-v1", SEEDS, count=5, seed=1, rank=rank, world_size=2) for rank in range(2)]
    assert [len(part) for part in parts] == [2, 3]
    for _ in range(120):
        assert np.array_equal(whole.observations, np.concatenate([part.observations for part in parts]))
        step = whole.step(np.ones(5, dtype=np.int64))
        own = [part.step(np.ones(len(part), dtype=np.int64)) for part in parts]
        assert np.array_equal(step.has_ended, np.concatenate([one.has_ended for one in own]))


def test_an_ended_episode_shows_its_last_observation_and_another_begins() -> None:
    plays = Plays("CartPole-v1", SEEDS, count=1, seed=0)
    while not (step := plays.step(np.zeros(1, dtype=np.int64))).has_ended[0]:
        assert np.array_equal(step.observations, plays.observations)
    assert step.is_terminal[0]
    assert abs(step.observations[0, 2]) > 0.2  # it fell
    assert np.abs(plays.observations).max() <= 0.05  # where CartPole begins
    assert plays.mean_return() in (8.0, 9.0, 10.0)
    assert plays.mean_return() is None


@pytest.mark.parametrize("environment", ["CartPole-v1", "Acrobot-v1"])
def test_environments_go_on_from_a_checkpoint_as_if_nothing_had_been(environment: str) -> None:
    random = np.random.RandomState(0)
    plays, again = (Plays(environment, SEEDS, count=3, seed=4) for _ in range(2))
    for _ in range(130):
        plays.step(random.randint(2, size=3))
    plays.gather()
    again.load_state_dict(plays.state_dict())
    for _ in range(100):
        assert np.array_equal(plays.observations, again.observations)
        actions = random.randint(2, size=3)
        plays.step(actions)
        again.step(actions)
    with pytest.raises(BadInput, match="the checkpoint has 3 environments, and the spec says 2"):
        Plays(environment, SEEDS, count=2, seed=4).load_state_dict(plays.state_dict())


def test_every_rank_needs_an_environment() -> None:
    with pytest.raises(BadInput, match="2 environments are too few for 3 ranks"):
        Plays("CartPole-v1", SEEDS, count=2, seed=0, rank=0, world_size=3)


def test_observations_are_scaled_by_random_play() -> None:
    mean, deviation = scale_of_observations("CartPole-v1", SEEDS, seed=0)
    assert (mean, deviation) == scale_of_observations("CartPole-v1", SEEDS, seed=0)
    assert np.abs(mean).max() < 0.5
    assert all(0.05 < one < 2 for one in deviation)
    swung = scale_of_observations("Acrobot-v1", SEEDS, seed=0)[1]
    assert all(one > 0.1 for one in swung)
    assert all(one > 0.5 for one in swung[4:])
