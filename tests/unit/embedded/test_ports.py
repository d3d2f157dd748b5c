"""Two stacks on one machine never meet, even when they start at the same moment."""

import socket
from pathlib import Path

import pytest

from fairlead.embedded.ports import HOST, PortLease, StackPorts, is_free, listens
from fairlead.errors import Unavailable


def numbers(ports: StackPorts) -> set[int]:
    single = {getattr(ports, name) for name in StackPorts.__slots__ if name != "workers"}
    return single | set(range(ports.workers[0], ports.workers[1] + 1))


def test_two_leases_share_no_port(tmp_path: Path) -> None:
    with PortLease(tmp_path) as one, PortLease(tmp_path) as two:
        assert not numbers(one.take()) & numbers(two.take())


def test_the_dashboard_lies_outside_the_range_of_workers(tmp_path: Path) -> None:
    with PortLease(tmp_path) as lease:
        ports = lease.take()
        assert not ports.workers[0] <= ports.ray_dashboard <= ports.workers[1]
        assert len(numbers(ports)) == 11 + ports.workers[1] - ports.workers[0] + 1


def test_a_released_lease_is_free_again(tmp_path: Path) -> None:
    with PortLease(tmp_path) as lease:
        first = lease.take()
    with PortLease(tmp_path) as lease:
        assert lease.take().ray == first.ray


def test_a_port_in_use_is_never_chosen_and_refused_when_asked_for(tmp_path: Path) -> None:
    with socket.socket() as taken, PortLease(tmp_path) as lease:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert (is_free(port), listens(port)) == (False, True)
        with pytest.raises(Unavailable, match=f"port {port} is in use"):
            lease.take(api=port)
