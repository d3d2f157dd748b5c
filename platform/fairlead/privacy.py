"""Training with differential privacy, for every workload: DP-SGD, with an accountant that says what it has cost.

    privacy = begin_privacy(context, rows=len(rows), batch_size=64, epochs=20)
    parallel = privacy.parallel(model)  # DistributedDataParallel on several ranks; or what clips single rows
    optimizer = privacy.optimizer(torch.optim.AdamW(model.parameters()))
    for epoch in ...:
        for batch in privacy.batches(epoch):
            ...
            loss = losses.sum() * batch.loss_scale  # a sum over this rank's rows: no term may know two rows
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

Where the spec does not ask for privacy these are what a page would write without it. Where it does, the gradient of
each row is clipped to ``max_grad_norm``, rank 0 adds Gaussian noise to the sum over all ranks, and batches are drawn by
Poisson sampling: each record of the train split is in each batch or not, on its own, with probability batch size over
rows. So two ranks are as private as one. Abadi et al. 2016 (arXiv 1607.00133), carried out by opacus; accounting by
Rényi differential privacy, for one record added or removed.

Noise and batches come from the operating system's entropy, not from the spec's seed: who knows the seed could take
known noise off again. So equal specs give other models. The generator is an ordinary one, not a cryptographic one.

What is protected is the train split. Statistics of it that go into the model past the optimizer are not: scale inputs
by ``privacy.rows_for_scaling``. State (what has been spent so far) is in ``state_dict``: keep it in checkpoints.
"""

import secrets
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairlead.data import Batch, batches, num_batches
from fairlead.data.context import keep_measurement
from fairlead.data.splits import shard_range
from fairlead.data.torch import sum_tensor
from fairlead.errors import BadData, BadInput
from fairlead.evaluation.privacy import PrivacyMeasurement
from fairlead.spec import PrivacySpec
from fairlead.workload import Context, Rows

LARGE_ORDERS = (64, 80, 96, 128, 192, 256, 384, 512, 1024)
"""Orders of Rényi's divergence beyond those that opacus looks at by itself, by which no ε below about 0.2 can be shown.
Each order gives a bound that holds; the smallest counts."""
EPSILON_TOLERANCE = 0.001
"""How far below ``target_epsilon`` the noise may end, as a share of it."""


def begin_privacy(context: Context, *, rows: int, batch_size: int, epochs: int) -> "Privacy":
    """What ``context``'s spec asks for. ``rows``: of the train split. ``batch_size``: the global one, as expected size.

    Raises ``BadInput`` where opacus is not installed, ``BadData`` for what cannot be reached with these rows.
    """
    spec = context.privacy
    if spec is None:
        return Privacy(context, rows=rows, batch_size=batch_size)
    return PrivateTraining(context, spec, rows=rows, batch_size=batch_size, epochs=epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledBatch:
    """One rank's part of a batch drawn by Poisson sampling; often empty on some rank, now and then on all."""

    positions: NDArray[np.int64]
    """As in ``Batch``."""
    loss_scale: float = 1.0
    """The optimizer divides by the expected size of the batch: the real one would tell how many were drawn."""


class Privacy:
    """No privacy: plain batches, the plain optimizer. Private training extends it."""

    is_private = False

    def __init__(self, context: Context, *, rows: int, batch_size: int) -> None:
        self._context = context
        self._rows = rows
        self._batch_size = batch_size

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model as it is to be called in training. Collective; all ranks have the same weights afterwards."""
        return DistributedDataParallel(model) if self._context.world_size > 1 else model

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer that is to step; ``optimizer`` stays what schedules and checkpoints are made of."""
        return optimizer

    def batches(self, epoch: int) -> Iterator[Batch | SampledBatch]:
        """This rank's parts of the batches of one epoch. Every rank gets the same number. Collective in the first."""
        return batches(
            self._rows,
            global_batch=self._batch_size,
            rank=self._context.rank,
            world_size=self._context.world_size,
            seed=self._context.seed,
            epoch=epoch,
        )

    def rows_for_scaling(self, train: Rows) -> Rows:
        """Rows by which inputs may be scaled: ``train``, or those of validation where ``train`` is protected."""
        return train

    def metrics(self) -> dict[str, float]:
        """How it stands, for ``context.report``."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave. Raises ``BadInput`` for a checkpoint of training without privacy."""


class PrivateTraining(Privacy):
    """DP-SGD: clipped gradients of single rows, noise on their sum, batches by Poisson sampling."""

    is_private = True

    def __init__(self, context: Context, spec: PrivacySpec, *, rows: int, batch_size: int, epochs: int) -> None:
        super().__init__(context, rows=rows, batch_size=batch_size)
        self._opacus = _load_opacus()
        if rows == 0 or spec.delta >= 1 / rows:
            raise BadData(f"privacy.delta is {spec.delta:g}, not below one over the {rows} rows of the train split")
        self._spec = spec
        self._rate = min(1.0, batch_size / rows)
        self._accountant = self._opacus.accountants.RDPAccountant()
        self._orders = [*self._accountant.DEFAULT_ALPHAS, *LARGE_ORDERS]
        self._noise = spec.noise_multiplier or self._noise_for(spec, steps=epochs * self._steps_an_epoch)
        self._epsilon = 0.0
        self._hooked: list[Any] = []
        self._shared: torch.Generator | None = None

    @property
    def _steps_an_epoch(self) -> int:
        return num_batches(self._rows, global_batch=self._batch_size)

    def _noise_for(self, spec: PrivacySpec, *, steps: int) -> float:
        assert spec.target_epsilon is not None, "else there is a noise multiplier"
        try:
            with _quiet():
                noise: float = self._opacus.accountants.utils.get_noise_multiplier(
                    target_epsilon=spec.target_epsilon,
                    target_delta=spec.delta,
                    sample_rate=self._rate,
                    steps=steps,
                    accountant="rdp",
                    alphas=self._orders,
                    epsilon_tolerance=EPSILON_TOLERANCE * spec.target_epsilon,
                )
        except ValueError as error:
            raise BadData(f"privacy.target_epsilon {spec.target_epsilon:g} cannot be reached: {error}") from error
        return noise

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model with hooks that find the gradient of each row. Raises ``BadInput`` for layers that mix rows."""
        model.train()
        if errors := self._opacus.validators.ModuleValidator.validate(model, strict=False):
            told = "; ".join(str(error).splitlines()[0] for error in errors)
            raise BadInput(f"privacy: this model cannot be trained so: {told}; take GroupNorm in place of BatchNorm")
        several = self._context.world_size > 1
        inner = self._opacus.distributed.DifferentiallyPrivateDistributedDataParallel(model) if several else model
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # inputs need no gradients
        try:
            hooked = self._opacus.GradSampleModule(inner, loss_reduction="sum")
        except NotImplementedError as error:
            raise BadInput(f"privacy: this model cannot be trained so: {error}") from error
        hooked.disable_hooks()
        self._hooked.append(hooked)
        return hooked

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """``optimizer`` behind clipping and noise."""
        world_size = self._context.world_size
        kinds = self._opacus.optimizers
        kind = kinds.DistributedDPOptimizer if world_size > 1 else kinds.DPOptimizer
        generator = torch.Generator(device=self._context.device)
        generator.manual_seed(secrets.randbits(63))
        private = kind(
            optimizer,
            noise_multiplier=self._noise,
            max_grad_norm=self._spec.max_grad_norm,
            expected_batch_size=self._rate * self._rows / world_size,  # it averages over ranks besides
            generator=generator,
        )
        private.attach_step_hook(self._accountant.get_optimizer_hook_fn(sample_rate=self._rate))
        return private

    def batches(self, epoch: int) -> Iterator[Batch | SampledBatch]:
        """As many batches as without privacy, each drawn anew. Raises ``BadInput`` where some made no private step."""
        context = self._context
        for model in self._hooked:  # only now: whoever asks for other gradients, such as an attack, is to be let alone
            model.enable_hooks()
        try:
            for _ in range(self._steps_an_epoch):
                is_in = torch.rand(self._rows, dtype=torch.float64, generator=self._sampler()) < self._rate
                positions = torch.nonzero(is_in).flatten().numpy()
                first, last = shard_range(len(positions), rank=context.rank, world_size=context.world_size)
                before = self._steps
                yield SampledBatch(positions=positions[first:last])
                self._refuse_other_steps(self._steps - before)
        finally:  # also where an epoch is broken off: its steps have been made
            self._note()
            for model in self._hooked:
                model.disable_hooks()

    def _refuse_other_steps(self, made: int) -> None:
        if made != 1:
            raise BadInput(
                f"privacy: {made} private steps were made with a batch; "
                "step with what privacy.optimizer gave, once a batch"
            )

    @property
    def _steps(self) -> int:
        return sum(num for _, _, num in self._accountant.history)

    def _sampler(self) -> torch.Generator:
        """Seeded alike on all ranks, by a number that nobody else knows."""
        if self._shared is None:
            own = secrets.randbits(62) if self._context.rank == 0 else 0
            seed = sum_tensor(torch.tensor([own], dtype=torch.int64, device=self._context.device))
            self._shared = torch.Generator().manual_seed(int(seed.item()))
        return self._shared

    def _note(self) -> None:
        """Say what has been spent."""
        with _quiet():
            self._epsilon = float(self._accountant.get_epsilon(self._spec.delta, alphas=self._orders))
        measured = PrivacyMeasurement(
            epsilon=self._epsilon,
            delta=self._spec.delta,
            noise_multiplier=self._noise,
            max_grad_norm=self._spec.max_grad_norm,
            sample_rate=self._rate,
            steps=self._steps,
            records=self._rows,
            library=f"opacus {self._opacus.__version__}",
        )
        keep_measurement(self._context, "privacy", measured.model_dump(mode="json"))

    def rows_for_scaling(self, train: Rows) -> Rows:
        """Rows of the validation split, which are not protected. Raises ``BadData`` where there are none."""
        rows = self._context.all_rows("validation")
        if len(rows) == 0:
            raise BadData("privacy protects the train split, so inputs are scaled by validation rows: give it some")
        return rows

    def metrics(self) -> dict[str, float]:
        """The loss of privacy so far."""
        return {"privacy/epsilon": self._epsilon}

    def state_dict(self) -> dict[str, Any]:
        """The steps so far, with their noise and sample rate."""
        return {"history": [list(entry) for entry in self._accountant.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        if "history" not in state:
            raise BadInput("privacy: this checkpoint says nothing of privacy: what it cost before is not known")
        self._accountant.history = [(float(noise), float(rate), int(num)) for noise, rate, num in state["history"]]
        self._note()


def _load_opacus() -> Any:
    """Late: only who asks for privacy needs it."""
    try:
        import opacus
        import opacus.accountants.utils
        import opacus.distributed
        import opacus.optimizers
        import opacus.validators
    except ModuleNotFoundError as error:
        message = "the spec asks for privacy, and opacus is not installed on this node: install fairlead[privacy]"
        raise BadInput(message) from error
    return opacus


@contextmanager
def _quiet() -> Iterator[None]:
    """Without opacus's advice to look at other orders: the bound holds all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield
