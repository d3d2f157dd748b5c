"""Proximal policy optimisation: a policy learns to act by playing, in small steps that it can trust.

python -m fairlead_workloads.ppo                                                     learns CartPole, here, alone
python -m fairlead_workloads.ppo --data='builtin://episodes?environment=Acrobot-v1'  ... to swing up two links

Source: Schulman, Wolski, Dhariwal, Radford, Klimov 2017, Proximal Policy Optimization Algorithms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.plays import Plays, play_out, scale_of_observations, watch
from fairlead.data.rollouts import History, animation, curve
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadInput
from fairlead.spec import MeasureSpec
from fairlead.training import Best, clip, keep, parallel, restore
from fairlead.workload import Context, Params, Predictor

MEASURE = MeasureSpec(name="return of an episode", low=-500, high=500)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``ppo.toml`` says the same to the platform, and a test compares the two."""

    hidden: int = 64
    lr: float = 2e-3
    environments: int = 16
    steps: int = 128
    rounds: int = 40
    passes: int = 8
    batch_size: int = 512
    discount: float = 0.99
    smoothing: float = 0.95
    clip_ratio: float = 0.2
    entropy: float = 0.0
    hold: int = 4
    clip_norm: float = 0.5
    validate_every: int = 5


class ActorCritic(nn.Module):
    """One network says how likely each action is, another what return to expect."""

    def __init__(self, *, mean: list[float], std: list[float], actions: int, hidden: int) -> None:
        super().__init__()
        # Observations arrive raw; scaling is part of the model, so that an exported one needs nothing beside it.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.policy = layers(len(mean), hidden, hidden, actions, last=0.01)  # at first every action is as likely
        self.value = layers(len(mean), hidden, hidden, 1, last=1.0)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the actions, shape (n, actions), and the expected returns, shape (n,)."""
        scaled = (observations - self.mean) / self.std
        return self.policy(scaled), self.value(scaled)[:, 0]


def layers(*widths: int, last: float) -> nn.Sequential:
    """Linear layers with tanh between them; orthogonal weights, those of the last layer scaled by ``last``."""
    found: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        linear = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(linear.weight, gain=last if place == len(widths) - 1 else 2**0.5)
        nn.init.zeros_(linear.bias)
        found += [linear, nn.Tanh()]
    return nn.Sequential(*found[:-1])


def train(params: Params, context: Context) -> None:
    """Play and learn in turns, reporting each round; grade the plays of the test split by the best policy."""
    require_kind(context.dataset, "episodes")
    settings = Settings(**params)
    size = settings.environments * settings.steps
    if settings.batch_size > size:
        raise BadInput(
            f"batch_size {settings.batch_size} is more than the {size} steps that {settings.environments} environments "
            f"play in a round of {settings.steps}"
        )
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    details = context.dataset.details
    seeds = context.all_rows("train").features[:, 0]
    ranks = {"rank": context.rank, "world_size": context.world_size}
    plays = Plays(details["environment"], seeds, count=settings.environments, seed=context.seed, **ranks)
    mean, std = scale_of_observations(details["environment"], seeds, seed=context.seed)
    config = {"mean": mean, "std": std, "actions": details["actions"], "hidden": settings.hidden}
    model = ActorCritic(**config).to(context.device)
    wrapped = parallel(model, context)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=settings.rounds)
    best, history = Best(model), History()
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "plays": plays}
    parts |= {"best": best, "history": history}
    first_round = restore(context, parts) + 1
    if context.rank == 0:
        print(f"{details['environment']}: {details['observations']} observations, {details['actions']} actions")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from round {first_round}")

    for number in range(first_round, settings.rounds + 1):
        played = play(model, plays, settings, context, number=number)
        losses = learn(wrapped, optimizer, played, settings, context, first=plays.first, number=number)
        schedule.step()
        mean_return = plays.mean_return()
        metrics = losses | ({} if mean_return is None else {"train/return": mean_return})
        if number % settings.validate_every == 0 or number == settings.rounds:
            metrics |= validate(model, context)
            best.offer(-metrics.get("validation/return", number))  # without a validation split the last round is best
        history.add(number, metrics)
        plays.gather()
        keep(context, metrics, step=number, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    returns = play_out(details["environment"], test.features[:, 0], best_actions(model))
    context.grade("test", records=test.records, values=returns, measure=MEASURE)
    show(model, context, history)
    context.export(model.state_dict(), config=config)


def play(model: nn.Module, plays: Plays, settings: Settings, context: Context, *, number: int) -> dict[str, Tensor]:
    """What this rank's environments see, do and get in a round: tensors of shape (steps, environments, ...)."""
    # Drawn for all environments on every rank alike: what one of them does is not a matter of which rank has it. Chance
    # that changes with every step gets nowhere; kept for some, it carries an environment further, and no action is more
    # or less likely in a step than the policy says. Source: Hollenstein, Martius, Piater 2024, Colored Noise in PPO.
    random = np.random.RandomState((context.seed, number, 1))
    drawn = random.random_sample((-(-settings.steps // settings.hold), settings.environments, 1))
    drawn = drawn.repeat(settings.hold, axis=0)[: settings.steps, plays.first : plays.last]
    chances = torch.from_numpy(drawn).to(context.device)
    steps, seen, actions = [], [], []
    with torch.no_grad():
        for chance in chances:
            seen.append(torch.from_numpy(plays.observations))
            logits, _ = model(seen[-1].to(context.device))
            levels = functional.softmax(logits.double(), dim=1).cumsum(dim=1)[:, :-1]
            actions.append((levels < chance).sum(dim=1))
            steps.append(plays.step(actions[-1].cpu().numpy()))
        observations = torch.stack(seen).to(context.device)
        logits, values = both(model, observations)
        led_to = torch.from_numpy(np.stack([step.observations for step in steps])).to(context.device)
        _, next_values = both(model, led_to)
    rewards, is_terminal, has_ended = (
        torch.from_numpy(np.stack([getattr(step, name) for step in steps])).to(context.device)
        for name in ("rewards", "is_terminal", "has_ended")
    )
    gains = advantages(
        rewards, values, next_values, is_terminal=is_terminal, has_ended=has_ended, discount=settings.discount,
        smoothing=settings.smoothing,
    )  # fmt: skip
    chosen = torch.stack(actions)
    return {
        "observations": observations,
        "actions": chosen,
        "logs": functional.log_softmax(logits, dim=-1).gather(-1, chosen[..., None])[..., 0],
        "advantages": standardised(gains),
        "targets": gains + values,
    }


def both(model: nn.Module, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and values of observations of shape (steps, environments, observations)."""
    logits, values = model(observations.flatten(0, 1))
    return logits.unflatten(0, observations.shape[:2]), values.unflatten(0, observations.shape[:2])


def advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    *,
    is_terminal: Tensor,
    has_ended: Tensor,
    discount: float,
    smoothing: float,
) -> Tensor:
    """By how much each action was better than expected, all of shape (steps, environments).

    Where an episode only ran out of steps, what was still to be expected counts: the policy must not learn that time
    runs out. Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation.
    """
    surprises = rewards + discount * next_values * ~is_terminal - values
    found, later = torch.empty_like(surprises), torch.zeros_like(surprises[0])
    for step in reversed(range(len(surprises))):
        later = surprises[step] + discount * smoothing * later * ~has_ended[step]
        found[step] = later
    return found


def standardised(values: Tensor) -> Tensor:
    """With mean 0 and standard deviation 1 over all ranks."""
    total, squares, number = sum_over_ranks(values.sum().item(), (values**2).sum().item(), float(values.numel()))
    mean = total / number
    return (values - mean) / (max(squares / number - mean**2, 0.0) ** 0.5 + 1e-8)


def learn(
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    played: Mapping[str, Tensor],
    settings: Settings,
    context: Context,
    *,
    first: int,
    number: int,
) -> dict[str, float]:
    """Some passes over the round's steps; the mean losses of all of them."""
    steps, own = played["actions"].shape
    rows = {name: tensor.flatten(0, 1) for name, tensor in played.items()}
    sums, size = torch.zeros(3, device=context.device), steps * settings.environments
    random = np.random.RandomState((context.seed, number, 2))
    for _ in range(settings.passes):
        # Batches are drawn among the steps of all ranks; of each batch a rank learns from what its own have played.
        order = random.permutation(size)
        for start in range(0, size, settings.batch_size):
            batch = order[start : start + settings.batch_size]
            step, environment = np.divmod(batch, settings.environments)
            is_own = (environment >= first) & (environment < first + own)
            places = torch.from_numpy(step[is_own] * own + environment[is_own] - first).to(context.device)
            chosen = {name: tensor[places] for name, tensor in rows.items()}
            logits, values = wrapped(chosen["observations"])
            logs = functional.log_softmax(logits, dim=1)
            ratio = (logs.gather(1, chosen["actions"][:, None])[:, 0] - chosen["logs"]).exp()
            clipped = ratio.clamp(1 - settings.clip_ratio, 1 + settings.clip_ratio)
            policy_loss = -torch.minimum(ratio * chosen["advantages"], clipped * chosen["advantages"]).sum()
            value_loss = 0.5 * ((values - chosen["targets"]) ** 2).sum()
            entropy = -(logs.exp() * logs).sum()
            # Sum, then scale: the averaged gradient is that of the mean over the batch of all ranks.
            loss = (policy_loss + 0.5 * value_loss - settings.entropy * entropy) * context.world_size / len(batch)
            optimizer.zero_grad()
            loss.backward()
            clip(wrapped, settings.clip_norm)
            optimizer.step()
            sums += torch.stack([policy_loss, value_loss, entropy]).detach()
    means = [total / (size * settings.passes) for total in sum_over_ranks(*sums.tolist())]
    return dict(zip(("train/policy_loss", "train/value_loss", "train/entropy"), means, strict=True))


def best_actions(model: nn.Module) -> Any:
    """A policy without chance: from observations, shape (n, observations), to the likeliest actions, shape (n,)."""
    device = next(model.parameters()).device

    def policy(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(observations).to(device))[0].argmax(dim=1).cpu().numpy()

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
    """From observations, shape (n, observations), to the probabilities of the actions, shape (n, actions)."""
    exported = read_model(Path(directory))
    model = ActorCritic(**exported.config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(observations: Any) -> np.ndarray:
        with torch.no_grad():
            logits, _ = model(torch.from_numpy(np.asarray(observations, dtype=np.float32)))
            return functional.softmax(logits.double(), dim=1).numpy()

    return predict


if __name__ == "__main__":
    run_alone(train, workload="ppo", example="cart_pole")
