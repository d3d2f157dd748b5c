"""What every trial does, whoever runs it: nothing but sleep and answer, or two epochs on scikit-learn's digits.

``params``: ``x`` (what is looked for), ``epochs`` (0: trivial), ``sleep_s`` (of a trivial one).
"""

import functools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from fairlead.workload import Context, Params


def train(params: Params, context: Context) -> None:
    """As a workload of Fairlead."""
    context.report({"validation/loss": learn(params)}, step=1)


def learn(params: Mapping[str, Any]) -> float:
    """The loss at a point."""
    if not params.get("epochs"):
        time.sleep(params.get("sleep_s", 0.0))
        return float((params["x"] - 0.3) ** 2)
    return digits(params)


@functools.cache
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures as rows of numbers, and what they show; read once a process, by whoever may."""
    data = load_digits()
    return torch.from_numpy(np.asarray(data.data / 16, dtype=np.float32)), torch.from_numpy(data.target)


def digits(params: Mapping[str, Any]) -> float:
    """Train for some epochs on 1,437 of them, and the loss on the other 360."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = rows()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=10.0 ** (-4 + 3 * params["x"]))
    for _ in range(params["epochs"]):
        for chosen in torch.randperm(1437).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(images[1437:]), labels[1437:]))
