import socket

import pytest


def test_no_connection_leaves_this_machine() -> None:
    with socket.socket() as connection, pytest.raises(PermissionError, match=r"tried to reach \('192.0.2.1', 80\)"):
        connection.connect(("192.0.2.1", 80))
    with socket.socket() as connection, pytest.raises(PermissionError, match=r"example\.com"):
        connection.connect_ex(("example.com", 80))


def test_connections_inside_this_machine_are_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass
