"""``dqn``: what it draws from its memory against sums written out, its losses, and chance that lasts."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fairlead.data.plays import Plays, Step
from fairlead_workloads import dqn

SEEDS = np.arange(20, dtype=np.int64)


def filled(ticks: int, *, size: int, rank: int = 0, world_size: int = 1) -> tuple[dqn.Memory, list[dict[str, Any]]]:
    """A memory after ``ticks`` made-up steps of four environments, and all of them, oldest first."""
    plays = Plays("CartPole-v1", SEEDS, count=4, seed=0, rank=rank, world_size=world_size)
    own, memory, story = slice(plays.first, plays.last), dqn.Memory(size, plays), []
    random = np.random.RandomState(0)
    for tick in range(ticks):
        before = np.full((4, 4), tick, np.float32)
        before[:, 1] = np.arange(4)
        has_ended = random.random_sample(4) < 0.3
        is_terminal = has_ended & (random.random_sample(4) < 0.5)
        rewards = random.standard_normal(4).astype(np.float32)
        actions = random.randint(2, size=4)
        story.append({"rewards": rewards, "has_ended": has_ended, "is_terminal": is_terminal, "actions": actions})
        step = Step(
            observations=before[own] + 1, rewards=rewards[own], is_terminal=is_terminal[own], has_ended=has_ended[own]
        )
        memory.add(before[own], actions[own], step)
    return memory, story


@pytest.mark.parametrize("ticks", [8, 30], ids=["not full", "the oldest are gone"])
@pytest.mark.parametrize("ahead", [1, 3])
def test_what_is_drawn_adds_up_rewards_to_where_the_network_takes_over(ticks: int, ahead: int) -> None:
    memory, story = filled(ticks, size=12)
    found = memory.draw(np.random.RandomState(1), 400, ahead=ahead, discount=0.5)
    seen = set()
    for row in range(400):
        tick, place = int(found["before"][row, 0]), int(found["before"][row, 1])
        seen.add(tick)
        total, weight, later = 0.0, 1.0, tick
        while True:
            total += weight * float(story[later]["rewards"][place])
            weight *= 0.5
            if story[later]["has_ended"][place] or later == tick + ahead - 1:
                break
            later += 1
        assert int(found["actions"][row]) == story[tick]["actions"][place]
        assert float(found["rewards"][row]) == pytest.approx(total, abs=1e-5)
        assert float(found["after"][row, 0]) == later + 1
        assert float(found["weights"][row]) == pytest.approx(0 if story[later]["is_terminal"][place] else weight)
    assert seen == set(range(max(0, ticks - 12), ticks - ahead + 1))


def test_ranks_draw_the_parts_of_one_batch() -> None:
    whole, parts = filled(9, size=12)[0], [filled(9, size=12, rank=rank, world_size=2)[0] for rank in range(2)]
    draws = [one.draw(np.random.RandomState(2), 50, ahead=2, discount=0.9) for one in (whole, *parts)]
    of_whole, *of_parts = [{(*row.tolist(),) for row in one["before"]} for one in draws]
    assert of_parts[0] | of_parts[1] == of_whole
    assert len(draws[1]["rewards"]) + len(draws[2]["rewards"]) == 50


def test_a_memory_comes_back_from_a_checkpoint() -> None:
    memory, _ = filled(30, size=12)
    memory.gather()
    again = dqn.Memory(12, memory.plays)
    again.load_state_dict(memory.state_dict())
    drawn = [one.draw(np.random.RandomState(3), 40, ahead=3, discount=0.9) for one in (memory, again)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_the_network_chooses_and_its_older_copy_says_what_that_is_worth() -> None:
    class Table(nn.Module):
        def __init__(self, values: list[float]) -> None:
            super().__init__()
            self.values = torch.tensor(values)

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return self.values.expand(len(observations), -1)

    batch = {
        "before": torch.zeros(2, 4),
        "after": torch.zeros(2, 4),
        "actions": torch.tensor([0, 1]),
        "rewards": torch.tensor([1.0, 1.0]),
        "weights": torch.tensor([0.5, 0.0]),
    }
    model, older = Table([0.0, 3.0]), Table([100.0, 4.0])  # the copy overrates action 0, which is not chosen
    loss = dqn.surprise(model, model, older, batch)
    wanted = torch.tensor([1 + 0.5 * 4, 1.0])
    assert torch.equal(loss, functional.smooth_l1_loss(torch.tensor([0.0, 3.0]), wanted, reduction="sum"))


@pytest.mark.parametrize(("tick", "share"), [(0, 1.0), (150, 0.55), (300, 0.1), (999, 0.1)])
def test_chance_gives_way_along_a_line(tick: int, share: float) -> None:
    settings = dqn.Settings(rounds=10, steps=100, explore_until=0.3, explore_least=0.1)
    assert dqn.share_at_random(tick, settings) == pytest.approx(share)


def test_an_action_at_random_is_kept_for_some_steps() -> None:
    plays = Plays("CartPole-v1", SEEDS, count=64, seed=0)
    model = dqn.ActionValues(mean=[0.0] * 4, std=[1.0] * 4, actions=2, hidden=4)
    settings = dqn.Settings(hold=4)
    found = [dqn.explore(model, plays, settings, tick=tick, seed=1, actions=2).tolist() for tick in range(8)]
    assert found[0] == found[1] == found[2] == found[3] != found[4] == found[7]
