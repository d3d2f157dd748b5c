"""Requests against a real HTTPS server on loopback, with resolvers that lie."""

import socket
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from fairlead.testing.webhooks import HOST, Receiver, receiving
from fairlead.webhooks import Sender
from fairlead.webhooks.sending import look_up

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as running:
        yield running


def a_sender(receiver: Receiver, *addresses: str, **more: object) -> Sender:
    options = {"allowed": LOOPBACK, "ca_file": receiver.ca_file, **more}
    if addresses:
        options["resolve"] = lambda host, port: addresses
    return Sender(**options)  # type: ignore[arg-type]


def test_a_message_arrives_with_its_headers(receiver: Receiver) -> None:
    receipt = a_sender(receiver).post(receiver.url(), headers={"webhook-id": "m1"}, body='{"a": "\u00fc"}')
    assert (receipt.status, receipt.error, receipt.is_taken) == (204, "", True)
    (message,) = receiver.received
    assert (message.id, message.content, message.path) == ("m1", {"a": "\u00fc"}, "/hook")
    assert message.headers["content-type"] == "application/json"


def test_the_certificate_is_checked_against_the_name(receiver: Receiver) -> None:
    sender = a_sender(receiver, "127.0.0.1")
    assert sender.post(receiver.url(HOST), headers={}, body="{}").is_taken
    refused = sender.post(receiver.url("other.test"), headers={}, body="{}")
    assert (refused.status, "CERTIFICATE_VERIFY_FAILED" in refused.error) == (None, True)
    stranger = Sender(allowed=LOOPBACK)  # without our CA
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.post(receiver.url(), headers={}, body="{}").error
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(receiver: Receiver, status: int) -> None:
    receiver.answers, receiver.headers = [status], {"Location": receiver.url(path="/elsewhere")}
    receipt = a_sender(receiver).post(receiver.url(), headers={}, body="{}")
    assert (receipt.status, receipt.is_taken) == (status, False)
    assert receipt.error == f"it answered {status}: redirects are not followed"
    assert [message.path for message in receiver.received] == ["/hook"]


def test_variables_of_a_proxy_are_not_looked_at(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert a_sender(receiver).post(receiver.url(), headers={}, body="{}").is_taken


@pytest.mark.parametrize("meant", ["127.0.0.1", "::ffff:127.0.0.1", "::1", "169.254.169.254", "10.0.0.1", "0.0.0.0"])
def test_a_name_that_means_a_private_address_is_refused_before_anything_connects(
    receiver: Receiver, meant: str
) -> None:
    receipt = a_sender(receiver, meant, allowed=()).post(receiver.url(HOST), headers={}, body="{}")
    assert receipt.status is None
    assert receipt.error == f"refused: {HOST} means {meant}: {meant} is not a public address"
    assert receiver.num_connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
def test_odd_spellings_of_loopback_are_what_the_resolver_makes_of_them(receiver: Receiver, host: str) -> None:
    assert look_up(host, 80) == ["127.0.0.1"]
    receipt = a_sender(receiver, allowed=()).post(receiver.url(host), headers={}, body="{}")
    assert "127.0.0.1 is not a public address" in receipt.error
    assert receiver.num_connections == 0


def test_one_private_address_among_public_ones_is_enough_to_refuse(receiver: Receiver) -> None:
    receipt = a_sender(receiver, "8.8.8.8", "127.0.0.1", allowed=()).post(receiver.url(HOST), headers={}, body="{}")
    assert receipt.error.startswith("refused:")
    assert receiver.num_connections == 0


def test_a_resolver_that_changes_its_answer_is_asked_once_and_judged_each_time(receiver: Receiver) -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) % 2 else ["127.0.0.2", "169.254.169.254"]

    sender = a_sender(receiver, resolve=rebinding)
    assert sender.post(receiver.url(HOST), headers={}, body="{}").is_taken
    assert asked == [HOST]
    second = sender.post(receiver.url(HOST), headers={}, body="{}")
    assert second.error == f"refused: {HOST} means 169.254.169.254: 169.254.169.254 is not a public address"
    assert receiver.num_connections == 1


def test_the_connected_socket_is_judged_too(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the way to a public address led back here: a rule of the network, say. Nothing is sent."""
    redirected = socket.socket.connect

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        redirected(self, ("127.0.0.1", address[1]))

    monkeypatch.setattr(socket.socket, "connect", connect)
    receipt = a_sender(receiver, "8.8.8.8", allowed=()).post(receiver.url(HOST), headers={}, body="{}")
    assert receipt.error == f"refused: {HOST} means 127.0.0.1: 127.0.0.1 is not a public address"
    assert receiver.received == []


def test_plain_http_goes_to_loopback_alone() -> None:
    with receiving() as receiver:
        sender = Sender(allowed=(*LOOPBACK, ip_network("10.0.0.0/8")), resolve=lambda host, port: [host])
        assert sender.post(receiver.url(), headers={}, body="{}").is_taken
        refused = sender.post(receiver.url("10.0.0.1"), headers={}, body="{}")
        assert "others are called by https only" in refused.error


def test_an_answer_that_trickles_in_ends_at_the_deadline(receiver: Receiver) -> None:
    receiver.trickle_s = 0.1
    began_s = time.monotonic()
    receipt = a_sender(receiver, timeout_s=0.5).post(receiver.url(), headers={}, body="{}")
    assert (receipt.status, receipt.error) == (None, "no answer within 0.5 s")
    assert time.monotonic() - began_s < 3


def test_a_receiver_that_never_answers_ends_at_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        receipt = Sender(allowed=LOOPBACK, timeout_s=0.3).post(url, headers={}, body="{}")
    assert (receipt.status, receipt.error) == (None, "no answer within 0.3 s")


def test_what_goes_wrong_on_the_way_is_told_not_raised(receiver: Receiver) -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    assert a_sender(receiver, resolve=unknown).post(receiver.url(HOST), headers={}, body="{}").error == "no such name"
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        closed = f"https://127.0.0.1:{bound.getsockname()[1]}/"
        assert "ConnectError" in a_sender(receiver).post(closed, headers={}, body="{}").error
    receiver.answers = [500]
    assert a_sender(receiver).post(receiver.url(), headers={}, body="{}").error == "it answered 500"
