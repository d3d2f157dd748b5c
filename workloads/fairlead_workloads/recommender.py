"""Recommendation: which items a user will like, from what this one and others have clicked.

python -m fairlead_workloads.recommender                                 trains here, alone, on made-up users and items
python -m fairlead_workloads.recommender --data=clicks.csv --method=matrix_factorisation   ... on columns user and item

Sources: Koren, Bell, Volinsky 2009, Matrix Factorization Techniques for Recommender Systems; Yi et al. 2019,
Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations (two towers, sampled softmax).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.training import Best, keep, parallel, restore, warmup_cosine
from fairlead.workload import Context, Params, Predictor, Rows

TOP = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``recommender.toml`` says the same to the platform, and a test compares the two."""

    method: str = "two_tower"
    factors: int = 16
    lr: float = 0.02
    weight_decay: float = 1.0
    temperature: float = 0.2
    negatives: int = 128
    epochs: int = 20
    batch_size: int = 256
    exposure_penalty: float = 0.0


class TwoTowers(nn.Module):
    """A network for users and one for items; alike is whose answers point the same way."""

    def __init__(self, *, users: int, items: int, factors: int, temperature: float) -> None:
        super().__init__()
        self.users, self.items = tower(users, factors), tower(items, factors)
        self.known = nn.Embedding(items, 1)  # what everybody likes is not a matter of direction
        nn.init.zeros_(self.known.weight)
        self.temperature = temperature

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """The score of each of ``users``, shape (n,), for each of ``items``, shape (m,): shape (n, m)."""
        directions = functional.normalize(self.users(users), dim=1), functional.normalize(self.items(items), dim=1)
        return directions[0] @ directions[1].T / self.temperature + self.known(items)[:, 0]


class MatrixFactorisation(nn.Module):
    """Some factors of each user and each item; alike is whose product is large."""

    def __init__(self, *, users: int, items: int, factors: int, temperature: float) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, factors), nn.Embedding(items, factors)
        self.known = nn.Embedding(items, 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.known.weight)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """The score of each of ``users``, shape (n,), for each of ``items``, shape (m,): shape (n, m)."""
        return self.users(users) @ self.items(items).T + self.known(items)[:, 0]


def tower(number: int, factors: int) -> nn.Sequential:
    """From numbers of users, or of items, to directions."""
    table = nn.Embedding(number, 2 * factors)
    nn.init.normal_(table.weight, std=0.1)
    return nn.Sequential(table, nn.Linear(2 * factors, 2 * factors), nn.GELU(), nn.Linear(2 * factors, factors))


METHODS: dict[str, type[nn.Module]] = {"two_tower": TwoTowers, "matrix_factorisation": MatrixFactorisation}


def train(params: Params, context: Context) -> None:
    """Train on what was clicked, reporting each epoch; rank each user's pairs of the test split."""
    require_kind(context.dataset, "interactions")
    settings = Settings(**params)
    rows = context.all_rows("train")
    clicked = rows.features[rows.labels == 1]
    if len(clicked) < context.world_size:
        message = f"{context.dataset.uri}: the train split has {len(clicked)} clicked pairs, fewer than the"
        raise BadData(f"{message} {context.world_size} ranks (batch_size {settings.batch_size})")
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    sizes = {"users": len(context.dataset.details["users"]), "items": len(context.dataset.details["items"])}
    shape: dict[str, Any] = {**sizes, "factors": settings.factors, "temperature": settings.temperature}
    model = METHODS[settings.method](**shape).to(context.device)
    wrapped = parallel(model, context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(clicked), global_batch=settings.batch_size)
    schedule = warmup_cosine(optimizer, steps=settings.epochs * steps, warmup=steps)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    first_epoch = restore(context, parts) + 1
    clicks = np.bincount(clicked[:, 1], minlength=sizes["items"])
    if context.rank == 0:
        print(f"{len(clicked)} clicks of {sizes['users']} users on {sizes['items']} items, {steps} steps an epoch")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    # Items that are clicked often are drawn often to stand against what was clicked, and then count for less.
    chances = (clicks + 1) / (clicks + 1).sum()
    logs = torch.from_numpy(np.log(chances)).float().to(context.device)
    for epoch in range(first_epoch, settings.epochs + 1):
        local_loss = 0.0
        order = {"rank": context.rank, "world_size": context.world_size, "seed": context.seed, "epoch": epoch}
        # Drawn for the whole batch on every rank alike.
        drawn = np.random.RandomState((context.seed, epoch, 1)).choice(
            sizes["items"], p=chances, size=(steps, settings.negatives)
        )
        for batch, others in zip(batches(len(clicked), global_batch=settings.batch_size, **order), drawn, strict=True):
            users, items = torch.from_numpy(clicked[batch.positions].T).to(context.device)
            losses = sampled_softmax(wrapped, users, items, torch.from_numpy(others).to(context.device), logs)
            loss = losses.sum() * batch.loss_scale
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            local_loss += losses.sum().item()
        (total_loss,) = sum_over_ranks(local_loss)
        metrics = {"train/loss": total_loss / len(clicked)}
        if context.dataset.num_by_split["validation"]:
            metrics["validation/recall_at_10"] = recall(model, context, "validation")
        best.offer(-metrics.get("validation/recall_at_10", epoch))
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    penalty = settings.exposure_penalty * np.log(chances)
    popular = recall_of(own_users(context, "test"), lambda pairs: clicks[pairs[:, 1]].astype(np.float64))
    reached = {"test/recall_at_10": recall(model, context, "test", penalty), "test/popularity_recall_at_10": popular}
    context.report(reached, step=settings.epochs)
    test = own_users(context, "test")
    scores = scores_of(model, test.features) - penalty[test.features[:, 1]]
    context.rank_rows("test", records=test.records, queries=test.features[:, 0], scores=scores)
    show(model, context, clicked, penalty)
    names = {"user_names": context.dataset.details["users"], "item_names": context.dataset.details["items"]}
    config = {"method": settings.method, **shape, **names, "penalty": penalty.tolist()}
    context.export(model.state_dict(), config=config)


def sampled_softmax(model: nn.Module, users: Tensor, items: Tensor, others: Tensor, logs: Tensor) -> Tensor:
    """Minus the log-probability of each clicked item among all items, estimated from ``others``, shape (n,).

    ``logs``: of the probability with which each item is drawn. One that is drawn stands for as many as there are for
    each that is drawn, and the clicked one for itself. Source: Bengio, Senecal 2008, Adaptive Importance Sampling to
    Accelerate Training of a Neural Probabilistic Language Model.
    """
    scores = model(users, torch.cat([items, others]))
    own, drawn = scores[:, : len(items)].diagonal(), scores[:, len(items) :] - logs[others] - math.log(len(others))
    drawn = drawn.masked_fill(items[:, None] == others[None, :], float("-inf"))
    return torch.logsumexp(torch.cat([own[:, None], drawn], dim=1), dim=1) - own


def own_users(context: Context, split: str) -> Rows:
    """The rows of every so-many-th user: a user's list is ranked whole, on one rank."""
    rows = context.all_rows(split)
    is_own = rows.features[:, 0] % context.world_size == context.rank
    return Rows(records=rows.records[is_own], features=rows.features[is_own], labels=rows.labels[is_own])


def scores_of(model: nn.Module, pairs: np.ndarray) -> np.ndarray:
    """The score of each pair of a user and an item, shape (n,), float64."""
    device = next(model.parameters()).device
    users, places = np.unique(pairs[:, 0], return_inverse=True)
    found = np.empty(len(pairs))
    with torch.no_grad():
        every = torch.arange(model.known.num_embeddings, device=device)
        for start in range(0, len(users), 256):
            table = model(torch.from_numpy(users[start : start + 256]).to(device), every).double().cpu().numpy()
            is_here = (places >= start) & (places < start + 256)
            found[is_here] = table[places[is_here] - start, pairs[is_here, 1]]
    return found


def recall(model: nn.Module, context: Context, split: str, penalty: np.ndarray | None = None) -> float:
    """Of the items that users of ``split`` clicked, the mean share among the ten that rank first. Collective."""

    def score(pairs: np.ndarray) -> np.ndarray:
        return scores_of(model, pairs) - (0.0 if penalty is None else penalty[pairs[:, 1]])

    return recall_of(own_users(context, split), score)


def recall_of(rows: Rows, score: Any) -> float:
    """Recall at ten over all ranks' users that clicked something: the mean of their shares. Collective."""
    users, queries = np.unique(rows.features[:, 0], return_inverse=True)
    scores = score(rows.features)
    order = np.lexsort((rows.records, -scores, queries))  # among equals the earlier record
    starts = np.searchsorted(queries[order], np.arange(len(users)))
    place = np.arange(len(order)) - starts[queries[order]]
    hits = np.bincount(queries[order], weights=(rows.labels[order] == 1) & (place < TOP), minlength=len(users))
    wanted = np.bincount(queries, weights=rows.labels == 1, minlength=len(users))
    shares = hits[wanted > 0] / wanted[wanted > 0]
    total, number = sum_over_ranks(float(shares.sum()), float(len(shares)))
    return total / number if number else 0.0


def show(model: nn.Module, context: Context, clicked: np.ndarray, penalty: np.ndarray) -> None:
    """What some users clicked, and what they would be shown next."""
    users, items = context.dataset.details["users"], context.dataset.details["items"]
    if context.rank != 0:
        return
    lines = []
    for user in range(min(12, len(users))):
        known = clicked[clicked[:, 0] == user, 1]
        fresh = np.setdiff1d(np.arange(len(items)), known)
        scores = scores_of(model, np.stack([np.full(len(fresh), user), fresh], axis=1)) - penalty[fresh]
        first = fresh[np.argsort(-scores, kind="stable")[:TOP]]
        lines.append(f"{users[user]}\n  clicked     {', '.join(items[item] for item in known[:TOP]) or 'nothing'}")
        lines.append(f"  recommended {', '.join(items[item] for item in first)}\n")
    context.show("recommendations.txt", "\n".join(lines))


def load(directory: Path) -> Predictor:
    """From pairs of names, a DataFrame with ``user`` and ``item``, or of numbers, shape (n, 2), to scores, shape (n,).

    The numbers are places in ``user_names`` and ``item_names`` of the exported configuration.
    """
    exported = read_model(Path(directory))
    shape = {name: exported.config[name] for name in ("users", "items", "factors", "temperature")}
    model = METHODS[exported.config["method"]](**shape)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})
    penalty = np.array(exported.config["penalty"])

    def predict(rows: Any) -> np.ndarray:
        pairs = rows if isinstance(rows, np.ndarray) else numbers_of(rows, exported.config)
        return scores_of(model, pairs) - penalty[pairs[:, 1]]

    return predict


def numbers_of(rows: Any, config: Mapping[str, Any]) -> np.ndarray:
    """The numbers of named users and items, shape (n, 2). Raises ``BadData`` for a name that was not trained on."""
    columns = []
    for name in ("user", "item"):
        places = {known: place for place, known in enumerate(config[f"{name}_names"])}
        texts = [str(value) for value in rows[name]]
        if strangers := [text for text in texts if text not in places]:
            raise BadData(f"column {name!r}: {strangers[0]!r} is no {name} that the model was trained on")
        columns.append([places[text] for text in texts])
    return np.array(columns, dtype=np.int64).T


if __name__ == "__main__":
    run_alone(train, workload="recommender", example="recommendations")
