"""A workload for tests of probes: a bent model that nobody trained, the same on any number of ranks."""

import numpy as np
import torch
from torch import Tensor

from fairlead.probes import run_probes
from fairlead.workload import Context, Params, Rows


class BentModel:
    """Logits, shape (n, 2), of raw inputs, shape (n, inputs), in float64: two layers drawn by a fixed seed.

    ``train``: rows by which inputs are scaled.
    """

    def __init__(self, train: Rows) -> None:
        wide = train.features.astype(np.float64)
        std = wide.std(axis=0)
        generator = torch.Generator().manual_seed(5)
        shapes = {"first": (wide.shape[1], 16), "second": (16, 2)}
        drawn = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        self.mean, self.std = torch.from_numpy(wide.mean(axis=0)), torch.from_numpy(np.where(std > 0, std, 1.0))
        self.first, self.second = 0.7 * drawn["first"], drawn["second"]

    def __call__(self, inputs: Tensor) -> Tensor:
        logits: Tensor = torch.tanh(((inputs.double() - self.mean) / self.std) @ self.first) @ self.second
        return logits


def train(params: Params, context: Context) -> None:
    """Look at the model in every way the spec asks for, and no more."""
    run_probes(BentModel(context.all_rows("train")), context)
