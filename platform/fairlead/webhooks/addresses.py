"""Which addresses a server may call for its users. Public ones, and those that its operator names.

A user who can make the server call anything can reach what the server reaches: databases, a cloud's metadata service,
the loopback. A name may mean another address at every look, so a URL alone proves nothing: what counts is the address
of the connected socket.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from fairlead.errors import BadInput, Problem

MAX_URL = 2000
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NOT_PUBLIC = tuple(ipaddress.ip_network(text) for text in ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48"))
"""Azure's own service inside every machine there, and what Pythons before 3.11.9 took for public."""
_EMBEDDED_IPV4 = tuple(ipaddress.IPv6Network(text) for text in ("::/96", "64:ff9b::/96"))
"""IPv6 networks whose last 32 bits are an IPv4 address: IPv4-compatible ones, and those of NAT64."""


class AddressRefused(Exception):
    """The address that a webhook's name means now must not be called."""


def refusal(address: str, allowed: Sequence[Network]) -> str | None:
    """Why ``address`` must not be called, or None if it may be; ``allowed`` are networks that may be, public or not.

    IPv6 addresses that stand for an IPv4 address are judged by both. Raises ``ValueError`` for what is no address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    is_open = all(_is_public(one) or any(one in network for network in allowed) for one in _meanings(found))
    return None if is_open else f"{address} is not a public address"


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_PUBLIC)


def _meanings(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 addresses that packets to it may end at. A mapped one is nothing but the IPv4 one."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address != ipaddress.IPv6Address(1) and any(address in network for network in _EMBEDDED_IPV4):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def is_loopback(address: str) -> bool:
    """Whether the address is this machine's own, which nobody can listen in on."""
    return all(one.is_loopback for one in _meanings(ipaddress.ip_address(address.partition("%")[0])))


def check_url(url: str, allowed: Sequence[Network], *, pointer: str = "/url") -> None:
    """Raise ``BadInput`` for a URL that could never be called. A name is not looked up: that is done at each call.

    ``http`` passes for a loopback address, written as such or as ``localhost``, where ``allowed`` has it.
    """
    message, suggestion = _objection(url, allowed)
    if message is not None:
        problem = Problem(pointer=pointer, message=message, suggestion=suggestion)
        raise BadInput(f"{pointer.strip('/')}: {message}", problems=(problem,))


def _objection(url: str, allowed: Sequence[Network]) -> tuple[str | None, str | None]:
    if len(url) > MAX_URL or not url.isascii() or any(not 32 < ord(character) < 127 for character in url):
        return (
            f"a URL has at most {MAX_URL} printable ASCII characters",
            "write other characters in percent or punycode",
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"this is not a URL: {error}", None
    if not host or port == 0:
        return "the URL names no host", "https://host/path"
    if parts.username is not None or parts.password is not None:
        return "a URL must not carry a user or a password", "messages are signed; check the signature instead"
    if parts.fragment or parts.scheme not in ("https", "http"):
        return "only https addresses without a fragment are called", "https://host/path"
    why = _host_objection(host, allowed)
    if why is None and parts.scheme == "http" and not _is_loopback_host(host):
        return "only https addresses are called", "https" + url[4:]
    return why, None if why is None else "an operator may open a network: FAIRLEAD_WEBHOOK_NETWORKS"


def _host_objection(host: str, allowed: Sequence[Network]) -> str | None:
    if host == "localhost" or host.endswith(".localhost"):
        host = "127.0.0.1"
    try:
        return refusal(host, allowed)
    except ValueError:
        return None  # a name: whatever it means then is judged then


def _is_loopback_host(host: str) -> bool:
    try:
        return host == "localhost" or is_loopback(host)
    except ValueError:
        return False
