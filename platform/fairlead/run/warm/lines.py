"""Lines over a local socket, to peers that may be gone."""

import select
import socket


def has_hung_up(connection: socket.socket) -> bool:
    """Whether the other end has been closed."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def tell(connection: socket.socket, line: str) -> None:
    """Say one line to a launcher that may be gone."""
    try:
        connection.send(line.encode() + b"\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return


def drained(end: socket.socket) -> bool:
    """Read what woke us; False when nothing is left."""
    try:
        return bool(end.recv(4096))
    except BlockingIOError:
        return False
