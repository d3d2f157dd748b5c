"""One request to one endpoint: no redirect, no proxy, a bound on time, and only to an address that may be called.

The name is looked up once a request, each address is judged before it is connected to, by number and not by name, and
the connected socket's own address is judged again before TLS begins. So a resolver that changes its answer gains
nothing. Of the answer only the status is read.
"""

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any

import httpcore

from fairlead import __version__
from fairlead.webhooks.addresses import AddressRefused, Network, is_loopback, refusal

TIMEOUT_S = 15.0
MAX_ADDRESSES = 4
"""Of one name, tried one after the other."""
Resolve = Callable[[str, int], Sequence[str]]
"""The addresses that a name means now. Raises ``OSError``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """How one try went."""

    status: int | None
    """None: there was no answer."""
    error: str
    """Why there was none, or why it counts as a failure; empty after a success."""
    took_s: float

    @property
    def is_taken(self) -> bool:
        """Whether the receiver has the message: any 2xx."""
        return self.status is not None and 200 <= self.status < 300


def look_up(host: str, port: int) -> Sequence[str]:
    """What the machine's resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Sender:
    """Sends messages. Safe to share between threads; each request has a connection of its own."""

    def __init__(
        self,
        *,
        allowed: Sequence[Network] = (),
        ca_file: Path | None = None,
        resolve: Resolve = look_up,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._allowed = tuple(allowed)
        self._tls = _trust(ca_file)
        self._resolve = resolve
        self._timeout_s = timeout_s

    def post(self, url: str, *, headers: Mapping[str, str], body: str) -> Receipt:
        """Send once. What goes wrong on the way is the receipt's error, never raised."""
        began_s = time.monotonic()
        try:
            status = self._status(url, headers, body.encode(), deadline_s=began_s + self._timeout_s)
            error = "" if 200 <= status < 300 else _complaint(status)
        except (AddressRefused, OSError, ValueError, httpcore.UnsupportedProtocol) as failure:
            status, error = None, str(failure)
        except httpcore.TimeoutException:
            status, error = None, f"no answer within {self._timeout_s:g} s"
        except (httpcore.NetworkError, httpcore.ProtocolError) as failure:
            status, error = None, f"{type(failure).__name__}: {failure}"
        return Receipt(status=status, error=error[:500], took_s=time.monotonic() - began_s)

    def _status(self, url: str, headers: Mapping[str, str], body: bytes, *, deadline_s: float) -> int:
        is_plain = httpcore.URL(url).scheme == b"http"
        door = _Door(self._allowed, self._resolve, deadline_s=deadline_s, is_loopback_only=is_plain)
        ours = {"content-type": "application/json", "user-agent": f"fairlead/{__version__}"}
        sent = list((ours | dict(headers)).items())
        limits = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)
        with (
            httpcore.ConnectionPool(ssl_context=self._tls, network_backend=door, max_connections=1) as pool,
            pool.stream("POST", url, headers=sent, content=body, extensions={"timeout": limits}) as answer,
        ):
            return int(answer.status)


def _complaint(status: int) -> str:
    return f"it answered {status}" + (": redirects are not followed" if 300 <= status < 400 else "")


def _trust(ca_file: Path | None) -> SSLContext:
    context = httpcore.default_ssl_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


class _Door(httpcore.NetworkBackend):
    """Opens connections to addresses that may be called, to no others."""

    def __init__(
        self, allowed: tuple[Network, ...], resolve: Resolve, *, deadline_s: float, is_loopback_only: bool
    ) -> None:
        self._allowed, self._resolve, self._deadline_s = allowed, resolve, deadline_s
        self._is_loopback_only = is_loopback_only
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of ``host`` that may be called and answers."""
        addresses = self._resolve(host.strip("[]"), port)[:MAX_ADDRESSES]
        for address in addresses:
            self._judge(host, address)
        failure: Exception = OSError(f"{host} has no address")
        for address in addresses:
            try:
                stream = self._backend.connect_tcp(address, port, timeout=_left_s(self._deadline_s))
            except httpcore.ConnectError as error:
                failure = error
                continue
            return self._judged(host, stream)
        raise failure

    def _judged(self, host: str, stream: httpcore.NetworkStream) -> httpcore.NetworkStream:
        """The stream, once the socket's own other end was judged; nothing has been sent."""
        try:
            self._judge(host, str(stream.get_extra_info("server_addr")[0]))
        except AddressRefused:
            stream.close()
            raise
        return _Bounded(stream, self._deadline_s)

    def _judge(self, host: str, address: str) -> None:
        why = refusal(address, self._allowed)
        if why is None and self._is_loopback_only and not is_loopback(address):
            why = f"{address} is not this machine, and others are called by https only"
        if why is not None:
            raise AddressRefused(f"refused: {host} means {address}: {why}")


class _Bounded(httpcore.NetworkStream):
    """A stream whose reads and writes all end at one deadline: a trickle of bytes wins no time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline_s: float) -> None:
        self._stream, self._deadline_s = stream, deadline_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout=_left_s(self._deadline_s))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=_left_s(self._deadline_s))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        made = self._stream.start_tls(ssl_context, server_hostname, timeout=_left_s(self._deadline_s))
        return _Bounded(made, self._deadline_s)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise httpcore.ReadTimeout("the time is up")
    return left_s
