"""Deep Q-learning: a network learns what each action is worth from plays it remembers.

python -m fairlead_workloads.dqn                                                      learns Acrobot, here, alone
python -m fairlead_workloads.dqn --data='builtin://episodes?environment=CartPole-v1'  ... to balance a pole

Sources: Mnih et al. 2015, Human-level control through deep reinforcement learning; van Hasselt, Guez, Silver 2016,
Deep Reinforcement Learning with Double Q-learning; Wang et al. 2016, Dueling Network Architectures for Deep
Reinforcement Learning; Hessel et al. 2018, Rainbow (rewards of several steps at once).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.plays import Plays, Step, play_out, scale_of_observations, watch
from fairlead.data.rollouts import History, animation, curve
from fairlead.data.torch import gather_objects, seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadInput
from fairlead.spec import MeasureSpec
from fairlead.training import Best, clip, keep, parallel, restore
from fairlead.workload import Context, Params, Predictor

MEASURE = MeasureSpec(name="return of an episode", low=-500, high=500)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``dqn.toml`` says the same to the platform, and a test compares the two."""

    hidden: int = 64
    lr: float = 1e-3
    environments: int = 4
    steps: int = 500
    rounds: int = 45
    batch_size: int = 128
    memory: int = 50000
    discount: float = 0.97
    lookahead: int = 10
    explore_until: float = 0.4
    explore_least: float = 0.05
    hold: int = 4
    copy_every: int = 50
    clip_norm: float = 10.0
    validate_every: int = 2


class ActionValues(nn.Module):
    """What return to expect of each action."""

    def __init__(self, *, mean: list[float], std: list[float], actions: int, hidden: int) -> None:
        super().__init__()
        # Observations arrive raw; scaling is part of the model, so that an exported one needs nothing beside it.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.layers = nn.Sequential(nn.Linear(len(mean), hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        # How good a place is changes much from one to another, and what an action adds to it little: each has its own.
        self.place, self.gain = nn.Linear(hidden, 1), nn.Linear(hidden, actions)

    def forward(self, observations: Tensor) -> Tensor:
        """Shape (n, actions)."""
        seen = self.layers((observations - self.mean) / self.std)
        gains = self.gain(seen)
        return self.place(seen) + gains - gains.mean(dim=1, keepdim=True)


class Memory:
    """The last steps of this rank's environments; ``size`` steps of each.

    A batch is drawn among the steps of all ranks, alike on each, and every rank learns from those of its own.
    """

    def __init__(self, size: int, plays: Plays) -> None:
        self.size, self.plays, self.filled = size, plays, 0
        shape = (size, len(plays))
        width = plays.observations.shape[1]
        self.kept: dict[str, Any] = {
            "before": np.zeros((*shape, width), np.float32),
            "after": np.zeros((*shape, width), np.float32),
            "actions": np.zeros(shape, np.int64),
            "rewards": np.zeros(shape, np.float32),
            "is_terminal": np.zeros(shape, bool),
            "has_ended": np.zeros(shape, bool),
        }
        self.whole: dict[str, Tensor] = {}

    def add(self, before: np.ndarray, actions: np.ndarray, step: Step) -> None:
        """Keep a step of every environment in place of the oldest."""
        values = (before, step.observations, actions, step.rewards, step.is_terminal, step.has_ended)
        for array, value in zip(self.kept.values(), values, strict=True):
            array[self.filled % self.size] = value
        self.filled += 1

    def draw(self, random: np.random.RandomState, number: int, *, ahead: int, discount: float) -> dict[str, Tensor]:
        """This rank's part of a batch of ``number`` steps, maybe none, each with what came of it ``ahead`` steps later.

        ``rewards``: all up to there, those ``k`` steps later times ``discount`` to the k-th; ``weights``: what a value
        there is worth, 0 where nothing came after. An episode that ends before is followed to its end.
        """
        steps = random.randint(max(0, self.filled - self.size), self.filled - ahead + 1, size=number)
        environments = random.randint(self.plays.count, size=number)
        is_own = (environments >= self.plays.first) & (environments < self.plays.last)
        steps, places = steps[is_own], environments[is_own] - self.plays.first
        goes_on, last = np.ones(len(steps), dtype=bool), steps
        rewards, weights = np.zeros(len(steps), np.float32), np.ones(len(steps), np.float32)
        for later in range(ahead):
            last = np.where(goes_on, steps + later, last)
            rewards += goes_on * weights * self.kept["rewards"][(steps + later) % self.size, places]
            weights = np.where(goes_on, discount ** (later + 1), weights).astype(np.float32)
            goes_on &= ~self.kept["has_ended"][(steps + later) % self.size, places]
        begun, ended = (steps % self.size, places), (last % self.size, places)
        found = {"before": self.kept["before"][begun], "actions": self.kept["actions"][begun], "rewards": rewards}
        found |= {"after": self.kept["after"][ended], "weights": weights * ~self.kept["is_terminal"][ended]}
        return {name: torch.from_numpy(array) for name, array in found.items()}

    def gather(self) -> None:
        """Bring the memories of all ranks together for ``state_dict``. Collective."""
        used = min(self.filled, self.size)
        parts = gather_objects({name: array[:used] for name, array in self.kept.items()})
        self.whole = {
            name: torch.from_numpy(np.concatenate([part[name] for part in parts], axis=1)) for name in self.kept
        }

    def state_dict(self) -> dict[str, Any]:
        """The steps of all environments, as ``gather`` last found them."""
        return {"filled": self.filled, "kept": self.whole}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over those of this rank's environments."""
        self.filled = state["filled"]
        for name, tensor in state["kept"].items():
            self.kept[name][: len(tensor)] = tensor[:, self.plays.first : self.plays.last].cpu().numpy()


def train(params: Params, context: Context) -> None:
    """Play and learn after every step, reporting each round; grade the plays of the test split by the best values."""
    require_kind(context.dataset, "episodes")
    settings = Settings(**params)
    least = max(settings.batch_size, settings.environments * settings.lookahead)
    if settings.memory < least:
        raise BadInput(
            f"memory {settings.memory} is less than {least}: it must hold a batch of {settings.batch_size}, and "
            f"{settings.lookahead} steps of {settings.environments} environments"
        )
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    details = context.dataset.details
    seeds = context.all_rows("train").features[:, 0]
    ranks = {"rank": context.rank, "world_size": context.world_size}
    plays = Plays(details["environment"], seeds, count=settings.environments, seed=context.seed, **ranks)
    mean, std = scale_of_observations(details["environment"], seeds, seed=context.seed)
    config = {"mean": mean, "std": std, "actions": details["actions"], "hidden": settings.hidden}
    model, target = ActionValues(**config).to(context.device), ActionValues(**config).to(context.device)
    target.load_state_dict(model.state_dict())
    wrapped = parallel(model, context)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=settings.rounds)
    memory = Memory(settings.memory // settings.environments, plays)
    first_steps = max(settings.lookahead, -(-settings.batch_size // settings.environments))  # before that: only play
    best, history = Best(model), History()
    parts = {"model": model, "target": target, "optimizer": optimizer, "schedule": schedule}
    parts |= {"plays": plays, "memory": memory, "best": best, "history": history}
    first_round = restore(context, parts) + 1
    if context.rank == 0:
        print(f"{details['environment']}: {details['observations']} observations, {details['actions']} actions")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from round {first_round}")

    for number in range(first_round, settings.rounds + 1):
        losses = []
        for tick in range((number - 1) * settings.steps, number * settings.steps):
            before = plays.observations
            actions = explore(model, plays, settings, tick=tick, seed=context.seed, actions=details["actions"])
            memory.add(before, actions, plays.step(actions))
            if memory.filled >= first_steps:
                random = np.random.RandomState((context.seed, tick, 1))  # the same on every rank
                drawn = memory.draw(random, settings.batch_size, ahead=settings.lookahead, discount=settings.discount)
                loss = surprise(wrapped, model, target, {name: part.to(context.device) for name, part in drawn.items()})
                optimizer.zero_grad()
                # Sum, then scale: the averaged gradient is that of the mean over the batch of all ranks.
                (loss * context.world_size / settings.batch_size).backward()
                clip(wrapped, settings.clip_norm)
                optimizer.step()
                losses.append(loss.detach())
            if (tick + 1) % settings.copy_every == 0:
                target.load_state_dict(model.state_dict())
        schedule.step()
        (total_loss,) = sum_over_ranks(float(sum(losses)))
        metrics = {"train/loss": total_loss / max(1, len(losses)) / settings.batch_size}
        if (mean_return := plays.mean_return()) is not None:
            metrics["train/return"] = mean_return
        if number % settings.validate_every == 0 or number == settings.rounds:
            metrics |= validate(model, context)
            best.offer(-metrics.get("validation/return", number))  # without a validation split the last round is best
        history.add(number, metrics)
        plays.gather()
        memory.gather()
        keep(context, metrics, step=number, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    returns = play_out(details["environment"], test.features[:, 0], best_actions(model))
    context.grade("test", records=test.records, values=returns, measure=MEASURE)
    show(model, context, history)
    context.export(model.state_dict(), config=config)


def share_at_random(tick: int, settings: Settings) -> float:
    """How much of what is done at ``tick`` is left to chance: all at first, then less along a line, then the least."""
    done = tick / max(1.0, settings.explore_until * settings.rounds * settings.steps)
    return max(settings.explore_least, 1 - (1 - settings.explore_least) * done)


def explore(model: nn.Module, plays: Plays, settings: Settings, *, tick: int, seed: int, actions: int) -> np.ndarray:
    """The best actions of this rank's environments, some replaced by others; drawn for all environments alike.

    An environment left to chance does one thing for ``hold`` steps: pushes that change with every step cancel out, and
    get nowhere. Source: Dabney, Ostrovski, Barreto 2020, Temporally-Extended epsilon-Greedy Exploration.
    """
    random = np.random.RandomState((seed, tick // settings.hold, 2))
    share = share_at_random(tick // settings.hold * settings.hold, settings)
    is_random = random.random_sample(plays.count)[plays.first : plays.last] < share
    others = random.randint(actions, size=plays.count)[plays.first : plays.last]
    return np.where(is_random, others, best_actions(model)(plays.observations))


def surprise(wrapped: nn.Module, model: nn.Module, target: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """By how much what followed differs from what was expected: Huber losses, summed.

    The network chooses the next action, an older copy of it says what that is worth: whoever does both overrates it.
    """
    with torch.no_grad():
        following = model(batch["after"]).argmax(dim=1, keepdim=True)
        later = target(batch["after"]).gather(1, following)[:, 0]
        wanted = batch["rewards"] + batch["weights"] * later
    expected = wrapped(batch["before"]).gather(1, batch["actions"][:, None])[:, 0]
    return functional.smooth_l1_loss(expected, wanted, reduction="sum")


def best_actions(model: nn.Module) -> Any:
    """From observations, shape (n, observations), to the actions that are worth most, shape (n,)."""
    device = next(model.parameters()).device

    def policy(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(observations).to(device)).argmax(dim=1).cpu().numpy()

    return policy


def validate(model: nn.Module, context: Context) -> Mapping[str, float]:
    """The mean return over the validation split, each rank playing its shard; empty without such a split."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    seeds = context.shard("validation").features[:, 0]
    returns = play_out(context.dataset.details["environment"], seeds, best_actions(model))
    return {"validation/return": sum_over_ranks(float(returns.sum()))[0] / num_rows}


def show(model: nn.Module, context: Context, history: History) -> None:
    """The first play of the test split as an animation, and how returns rose."""
    environment = context.dataset.details["environment"]
    if context.rank == 0:
        observations, total = watch(environment, int(context.all_rows("test").features[0, 0]), best_actions(model))
        context.show("play.gif", animation(environment, observations, total=total))
        context.show("returns.svg", curve(history, title=f"{environment}: mean return by round"))


def load(directory: Path) -> Predictor:
    """From observations, shape (n, observations), to the return to expect of each action, shape (n, actions)."""
    exported = read_model(Path(directory))
    model = ActionValues(**exported.config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(observations: Any) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(np.asarray(observations, dtype=np.float32))).double().numpy()

    return predict


if __name__ == "__main__":
    run_alone(train, workload="dqn", example="acrobot")
