"""What a warm server imports before it forks, and whether it may fork at all.

A process with several threads must not fork: a lock that another thread holds would stay locked in the child for ever.
"""

import gc
import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

SINGLE_THREADED = {
    "OPENBLAS_NUM_THREADS": "1",  # else numpy starts a pool when it is imported
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # else pyarrow starts a thread when it is imported
}
"""For the server's own environment alone. Forked workers get back what they came with."""
TESTED_RAY = "2.60."
NVIDIA = "/dev/nvidia"
"""How the names of all devices of NVIDIA's driver begin."""
FOR_ANY_JOB = (
    "torch",
    "torch._dynamo",  # the first optimizer of a process imports it: a second of processor time
    "torch.distributed",
    "torch.nn.parallel",
    "torch.optim",
    "torch.utils.data",
    "numpy",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pydantic",
    "pydantic.v1.fields",  # Ray, when it first reads an object
    "safetensors.torch",
    "sklearn.datasets",  # the built-in data sets
    "threadpoolctl",
    "fairlead.protocol",
    "fairlead.data.context",
    "fairlead.data.dataset",
    "fairlead.data.export",
    "fairlead.data.torch",
)
"""The first level: large, and without Ray, which reads the number of its job when it is imported."""
FOR_ONE_JOB = (
    "ray",
    "ray._private.node",
    "ray._private.worker",
    "ray._private.async_compat",
    "ray._private.parameter",
    "ray._private.ray_logging",
    "ray._private.runtime_env.setup_hook",
    "ray.actor",
    "ray.dag",
    "ray.train.torch",
    "ray.train.v2._internal.execution.controller.controller",
    "ray.train.v2._internal.execution.worker_group.worker",
    "ray.train.v2.api.data_parallel_trainer",
    "ray.tune",
    "fairlead.run.runner",
    "fairlead.run.training",
    "fairlead.run.worker",
)
"""The second level."""


def import_all(names: tuple[str, ...]) -> dict[str, str]:
    """Import modules and freeze what they made; returns the variables that they set, as any worker's imports would."""
    before = dict(os.environ)
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise write to, and so copy, every page
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def problem() -> str | None:
    """Why this process must not fork workers, if so. Asked before it serves and again before each fork."""
    threads = thread_names()
    if len(threads) > 1:
        return f"the warm server has {len(threads)} threads ({', '.join(threads)}) and must have one"
    torch = sys.modules.get("torch")
    # A process whose parent has initialised CUDA says that it has not, and that it is in a bad fork.
    if torch is not None and (torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork()):
        return "the warm server has initialised CUDA, which no forked process could use"
    if devices := device_files(open_files()):
        return f"the warm server has opened {', '.join(devices)}, which no forked process could use"
    return None


def open_files() -> list[str]:
    """What the descriptors of this process lead to."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # the listing's own descriptor is closed by now
            continue
    return found


def device_files(files: Iterable[str]) -> list[str]:
    """Those of them that belong to the driver of a GPU: CUDA opens some before PyTorch calls it initialised."""
    return sorted({file for file in files if file.startswith(NVIDIA)})


def thread_names() -> list[str]:
    """The threads of this process, native ones included."""
    tasks = Path("/proc/self/task")
    return [(task / "comm").read_text().strip() for task in tasks.iterdir()]


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM; 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
