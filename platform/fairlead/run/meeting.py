"""A key-value store at which ranks meet, bound to one address: torch's own listens on all interfaces of the machine."""

import socket
from datetime import timedelta

import torch.distributed

_opened: list[torch.distributed.TCPStore] = []
"""It serves for as long as somebody holds it: to the end of the process."""


def open_store(address: str, *, world_size: int, timeout_s: float) -> torch.distributed.TCPStore:
    """A store that listens on ``address`` alone, at a port that was free. It does not wait for anybody."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        port: int = listener.getsockname()[1]
        store = torch.distributed.TCPStore(
            host_name=address,
            port=port,
            world_size=world_size,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    _opened.append(store)
    return store


def join_store(address: str, port: int, *, world_size: int, timeout_s: float) -> torch.distributed.TCPStore:
    """The store that another rank has opened."""
    return torch.distributed.TCPStore(
        host_name=address,
        port=port,
        world_size=world_size,
        is_master=False,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )
