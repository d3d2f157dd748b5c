"""A link passes what it is given, and does to it what a test asks for."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from fairlead.testing.links import Link


@pytest.fixture
def echo() -> Iterator[Link]:
    """A link to a server that answers with what it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    asker, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=repeat, args=(asker,), daemon=True).start()

        def repeat(asker: socket.socket) -> None:
            with asker, suppress(ConnectionError):
                while data := asker.recv(1000):
                    asker.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        with Link(server.getsockname()) as link:
            yield link
        server.shutdown(socket.SHUT_RDWR)


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=10)


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(1000)


def test_it_passes_what_it_is_given_in_both_directions(echo: Link) -> None:
    with connect(echo) as connection:
        assert ask(connection, b"hello") == b"hello"
    assert echo.num_connections == 1


def test_a_delay_counts_each_way(echo: Link) -> None:
    with connect(echo) as connection:
        echo.delay(0.1)
        began_s = time.monotonic()
        assert ask(connection, b"slow") == b"slow"
        assert 0.2 <= time.monotonic() - began_s < 5


def test_what_was_sent_into_silence_arrives_when_it_is_over(echo: Link) -> None:
    with connect(echo) as old:
        echo.silence()
        with connect(echo) as new:
            for connection in (old, new):
                connection.sendall(b"anybody?")
                connection.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    connection.recv(1000)
                connection.settimeout(10)
            echo.heal()
            assert (old.recv(1000), new.recv(1000)) == (b"anybody?", b"anybody?")


def test_a_cut_breaks_what_is_there_and_what_comes_until_it_is_healed(echo: Link) -> None:
    with connect(echo) as old:
        assert ask(old, b"one") == b"one"
        echo.cut()
        with pytest.raises(ConnectionError):
            old.recv(1000)
    with pytest.raises(ConnectionError), connect(echo) as new:  # broken at once: while it connects, or when it listens
        new.recv(1000)
    echo.heal()
    with connect(echo) as healed:
        assert ask(healed, b"two") == b"two"


def test_a_connection_breaks_after_so_many_bytes_and_only_once(echo: Link) -> None:
    with connect(echo) as connection:
        echo.cut_after(5)
        assert ask(connection, b"1234") == b"1234"
        with pytest.raises(ConnectionError):
            ask(connection, b"5")
    with connect(echo) as connection:
        assert ask(connection, b"123456") == b"123456"
    assert echo.num_cut == 1


def test_the_answer_to_a_named_request_is_lost(echo: Link) -> None:
    echo.lose_answers(b"lease")
    with connect(echo) as connection:
        assert ask(connection, b"sync") == b"sync"
        with pytest.raises(ConnectionError):
            ask(connection, b"lease")
    with connect(echo) as connection:
        assert ask(connection, b"lease") == b"lease"
