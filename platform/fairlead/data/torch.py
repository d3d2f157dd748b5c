"""The data layer's one door to torch: which device, how many threads, and what ranks agree on."""

import gc
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from fairlead.data.mapped import Mapped


def choose_device(local_rank: int = 0) -> str:
    """``cuda:<n>`` for this process if there is a CUDA device, else ``cpu``."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{local_rank % torch.cuda.device_count()}"


def share_cores(ranks_here: int) -> int:
    """Give this process its share of the cores it may run on, at least one thread; returns how many.

    ``OMP_NUM_THREADS``, which Ray sets to what a worker was given, decides if it is set.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdigit() else len(os.sched_getaffinity(0)) // max(1, ranks_here)
    threads = max(1, threads)
    torch.set_num_threads(threads)
    return threads


class OnDisk:
    """Features that stay on disk, indexed by a tensor of places as a tensor on ``device`` is."""

    def __init__(self, features: Mapped, device: str) -> None:
        self._features, self._device = features, device

    def __getitem__(self, places: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self._features[places.cpu().numpy()]).to(self._device)


def tensor_of(features: NDArray[Any] | Mapped, device: str) -> torch.Tensor | OnDisk:
    """Features to be indexed batch by batch: in the memory of ``device``, or read then where they stay on disk."""
    return OnDisk(features, device) if isinstance(features, Mapped) else torch.from_numpy(features).to(device)


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true on any rank. Collective; alone it is the flag itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor([int(flag)], device=device)
    torch.distributed.all_reduce(total, op=torch.distributed.ReduceOp.MAX)
    return bool(total.item())


def sum_over_ranks(*values: float) -> tuple[float, ...]:
    """Each value summed over all ranks, the same on all of them. Collective; alone: the values themselves."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return tuple(total.tolist())


def sum_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` summed over all ranks, entry by entry. Collective; alone: the tensor itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    total = tensor.clone()
    torch.distributed.all_reduce(total)
    return total


def gather_objects(value: Any) -> Sequence[Any]:
    """The values of all ranks in their order, the same on all of them. Collective; alone: the value itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def seed_all(seed: int) -> None:
    """Of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Where the random numbers of Python, numpy and torch stand in this process; tensors and plain values only."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on from where ``random_state`` was asked."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_epoch(seed: int, *, epoch: int, rank: int) -> None:
    """Seed torch for one epoch of one rank: a resumed epoch draws what it would have drawn, with no state to keep."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0]))


@contextmanager
def launched_ranks() -> Iterator[tuple[int, int]]:
    """This process's rank and their number as ``torchrun`` says, joined while the block lasts; alone (0, 1)."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # or Hugging Face's accelerate lets each rank train for itself
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield torch.distributed.get_rank(), torch.distributed.get_world_size()
    finally:
        leave_ranks()


@contextmanager
def joined_ranks(meeting_file: Path, *, rank: int, world_size: int, timeout_s: float = 120) -> Iterator[None]:
    """Join this machine's ranks over CPU collectives without any port known beforehand; leave them at the end.

    All ranks name the same ``meeting_file``, which must not exist yet. On a cluster the platform joins them itself.
    """
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting_file}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        yield
    finally:
        leave_ranks()


def leave_ranks() -> None:
    """Leave the process group, and end its threads while Python can still be entered.

    ``DistributedDataParallel`` lies in a cycle of references. One that is left to the interpreter's own end keeps the
    group, whose threads then let go of tensors of a Python that is no more and abort the process (seen in one ending
    out of ten with gloo).
    """
    gc.collect()
    torch.distributed.destroy_process_group()
