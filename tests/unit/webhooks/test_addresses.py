"""What a webhook may call: hostile spellings of private addresses, and what an operator opens."""

from ipaddress import ip_network

import pytest

from fairlead.errors import BadInput
from fairlead.webhooks import Network, check_url, refusal
from fairlead.webhooks.addresses import is_loopback

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",  # a cloud's metadata
        "169.254.169.254",  # most clouds' metadata
        "168.63.129.16",  # one that looks public
        "192.0.0.192",  # one more
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",  # metadata over IPv6
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:a00:1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
    ],
)
def test_what_is_not_public_is_refused_in_every_spelling(address: str) -> None:
    assert refusal(address, ()) == f"{address} is not a public address"


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_what_is_public_may_be_called(address: str) -> None:
    assert refusal(address, ()) is None


@pytest.mark.parametrize(
    ("address", "networks", "is_open"),
    [
        ("127.0.0.1", LOOPBACK, True),
        ("::1", LOOPBACK, True),
        ("::ffff:127.0.0.1", LOOPBACK, True),
        ("169.254.169.254", LOOPBACK, False),
        ("10.1.2.3", (ip_network("10.1.0.0/16"),), True),
        ("10.2.2.3", (ip_network("10.1.0.0/16"),), False),
        ("64:ff9b::a01:203", (ip_network("10.1.0.0/16"),), True),
    ],
)
def test_an_operator_opens_networks(address: str, networks: tuple[Network, ...], is_open: bool) -> None:
    assert (refusal(address, networks) is None) is is_open


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/", "only https"),
        ("ftp://example.com/", "only https"),
        ("https://", "no host"),
        ("https:///x", "no host"),
        ("https://example.com:0/", "no host"),
        ("https://example.com:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://user:pass@example.com/", "user"),
        ("https://example.com@10.0.0.1/", "user"),
        ("https://example.com/#x", "fragment"),
        ("https://exa mple.com/", "printable"),
        ("https://example.com/\r\nHost: x", "printable"),
        ("https://b\u00fccher.example/", "printable"),
        ("https://example.com/" + "x" * 2000, "2000"),
        ("https://127.0.0.1/", "not a public"),
        ("https://[::ffff:169.254.169.254]/", "not a public"),
        ("https://localhost/", "not a public"),
        ("https://x.localhost/", "not a public"),
        ("http://127.0.0.1/", "not a public"),
    ],
)
def test_a_url_that_could_never_be_called_is_refused_with_its_reason(url: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        check_url(url, ())
    assert caught.value.problems[0].pointer == "/url"


@pytest.mark.parametrize("url", ["https://example.com", "https://example.com:8443/a?b=c", "https://[2606:4700::1]/"])
def test_an_ordinary_url_is_accepted_without_looking_it_up(url: str) -> None:
    check_url(url, ())


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://localhost/", "http://[::1]/", "https://localhost/"])
def test_loopback_is_open_by_http_too_where_an_operator_says_so(url: str) -> None:
    check_url(url, LOOPBACK)


@pytest.mark.parametrize("url", ["http://10.1.2.3/", "http://intranet/"])
def test_plain_http_is_for_loopback_alone(url: str) -> None:
    with pytest.raises(BadInput, match="only https"):
        check_url(url, (*LOOPBACK, ip_network("10.0.0.0/8")))


@pytest.mark.parametrize(("address", "is_own"), [("127.0.0.1", True), ("::1", True), ("10.0.0.1", False)])
def test_loopback_is_known(address: str, is_own: bool) -> None:
    assert is_loopback(address) is is_own
