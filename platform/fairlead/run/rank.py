"""What the process of a rank does whoever has started it: loads the workload, and describes failures and surroundings.

Knows torch, and not Ray.
"""

import importlib
import importlib.metadata
import platform
import re
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from fairlead.errors import BadData, BadInput, StorageAway
from fairlead.run.messages import Failure
from fairlead.workload import Workload

MAX_TRACEBACK = 12_000
_PEER_GONE = re.compile(
    r"gloo|nccl|process ?group|connection (?:closed|reset|refused)|broken pipe|socket ?timeout|timed out waiting",
    re.IGNORECASE,
)


def find_code(code: str | None) -> None:
    """Let the user's unpacked code be found. Raises ``BadInput`` where it is not on this node."""
    if code is None:
        return
    if not Path(code).is_dir():
        raise BadInput(f"the unpacked code {code} is not on this node; put FAIRLEAD_CACHE on a shared disk")
    sys.path.insert(0, code)


def load_workload(name: str) -> Workload:
    """Import ``package.module:function``. Raises ``BadInput`` if the module has no such function."""
    module_name, _, function_name = name.partition(":")
    function = getattr(importlib.import_module(module_name), function_name, None)
    if not callable(function):
        raise BadInput(f"module {module_name} has no function {function_name}")
    workload: Workload = function
    return workload


def describe_failure(error: BaseException, *, generation: int, rank: int) -> Failure:
    """An exception as bounded text."""
    lines = "".join(traceback.format_exception(error))
    message = str(error)
    if isinstance(error, BadInput) and error.problems:
        message = "; ".join(f"{problem.pointer}: {problem.message}" for problem in error.problems)
    reason = None
    if isinstance(error, BadData | StorageAway):
        reason = f"{error.code}: {message}"
    elif isinstance(error, SystemExit) and not error.code:
        reason, message = "no_result", "the workload called sys.exit() before it had returned"
    return Failure(
        generation=generation,
        rank=rank,
        type_name=type(error).__name__,
        message=message[:4000],
        traceback=lines[-MAX_TRACEBACK:],
        is_collective=_is_collective(error),
        is_memory=isinstance(error, MemoryError | torch.OutOfMemoryError),
        is_storage=isinstance(error, StorageAway),
        reason=reason,
    )


def _is_collective(error: BaseException) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and _PEER_GONE.search(str(error)) is not None


def describe_environment(device: str) -> dict[str, str]:
    """Versions and the device that made the result."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": importlib.metadata.version("ray"),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": device,
        "device_name": name,
    }
