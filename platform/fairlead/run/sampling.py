"""What a rank's process uses: processor cores, memory, and the memory of its GPU."""

import contextlib
import sys

import psutil


def processor_seconds() -> float:
    """Of this process and all its children so far, those that have ended and were waited for included."""
    own = psutil.Process()
    total = 0.0
    for each in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class Sampler:
    """Metrics named ``system/rank_<r>/...``. The first sample knows no processor use yet and leaves it out."""

    def __init__(self, rank: int) -> None:
        self._prefix = f"system/rank_{rank}"
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._is_first = True

    def sample(self) -> dict[str, float]:
        """``cpu_cores``: cores in use since the last sample; ``memory_mb``: resident; ``gpu_memory_mb`` on CUDA."""
        cores = self._process.cpu_percent() / 100
        values = {f"{self._prefix}/memory_mb": self._process.memory_info().rss / 1e6}
        if not self._is_first:
            values[f"{self._prefix}/cpu_cores"] = cores
        self._is_first = False
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            values[f"{self._prefix}/gpu_memory_mb"] = torch.cuda.memory_allocated() / 1e6
        return values
