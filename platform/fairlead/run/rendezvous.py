"""Where the ranks of an attempt find each other: a key-value store at rank 0 that listens on one address alone.

PyTorch's own store listens on every interface of the machine, and asks nobody who he is. This one is bound to the
address by which Ray knows rank 0's node: loopback on one machine, the cluster's network on several.
"""

import os
from dataclasses import dataclass
from typing import Any

import ray
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

from fairlead.run.meeting import open_store


@dataclass
class BoundTorchConfig(TorchConfig):
    """Ray Train's set-up of a process group, but for its store."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Who sets up."""
        return _BoundBackend


class _BoundBackend(_TorchBackend):
    """As Ray's, which lets torch open the store. Ray has no switch for it; its version is pinned."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Join all ranks."""
        size = len(worker_group)
        address, port = worker_group.execute_single(0, _open_store, world_size=size, timeout_s=backend_config.timeout_s)
        worker_group.execute(_name_store, address, port)
        worker_group.execute(_set_variables)
        joining = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=size,
                init_method="env://",
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(size)
        ]
        ray.get(joining)


def _open_store(*, world_size: int, timeout_s: float) -> tuple[str, int]:
    """Where it listens. On rank 0."""
    address: str = ray.util.get_node_ip_address()
    return address, open_store(address, world_size=world_size, timeout_s=timeout_s).port


def _set_variables() -> None:
    """Those of ``torchrun``, and what Hugging Face's accelerate must hear to count ranks that have no accelerator."""
    _set_torch_distributed_env_vars()
    if os.environ["ACCELERATE_TORCH_DEVICE"] == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"


def _name_store(address: str, port: int) -> None:
    """On every rank, rank 0 as well: the store is there, and nobody opens another."""
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
