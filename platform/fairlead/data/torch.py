"""The data layer's one door to torch: which device, how many threads, and what ranks agree on."""

import os

import torch
import torch.distributed


def choose_device(local_rank: int = 0) -> str:
    """``cuda:<n>`` for this process if there is a CUDA device, else ``cpu``."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{local_rank % torch.cuda.device_count()}"


def share_cores(ranks_here: int) -> int:
    """Give this process its share of the cores it may run on, at least one thread; returns how many."""
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, ranks_here))
    torch.set_num_threads(threads)
    return threads


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true on any rank. Collective; alone it is the flag itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor([int(flag)], device=device)
    torch.distributed.all_reduce(total, op=torch.distributed.ReduceOp.MAX)
    return bool(total.item())
