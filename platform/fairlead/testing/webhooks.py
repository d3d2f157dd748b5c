"""A real receiver of webhooks on loopback: HTTPS under a CA of its own, or plain HTTP. It checks every signature."""

import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks.webhooks import Webhook

HOST = "hooks.test"
"""The name in the receiver's certificate, beside localhost and 127.0.0.1; a test's resolver says where it leads."""


@dataclass(frozen=True)
class Message:
    """One request that came in."""

    id: str
    headers: dict[str, str]
    body: str
    path: str

    @property
    def content(self) -> dict[str, Any]:
        """The body as JSON."""
        return dict(json.loads(self.body))

    def is_signed_with(self, secret: str) -> bool:
        """Whether ``secret`` made one of the signatures, however old they are."""
        at = datetime.fromtimestamp(int(self.headers["webhook-timestamp"]), UTC)
        expected = Webhook(secret).sign(self.id, at, self.body)
        return expected in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """What came in, and what is answered. Filled by the server's threads."""

    port: int = 0
    scheme: str = "https"
    ca_file: Path | None = None
    received: list[Message] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; 204 when there are none left."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each answer."""
    num_connections: int = 0
    trickle_s: float = 0.0
    """Between two bytes of the answer; 0 sends it at once."""
    is_ending: threading.Event = field(default_factory=threading.Event)

    def url(self, host: str = "127.0.0.1", path: str = "/hook") -> str:
        """The address to register."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    @property
    def ids(self) -> list[str]:
        """Of every message, repeated ones too, as they came."""
        return [message.id for message in self.received]


@contextmanager
def receiving(directory: Path | None = None, *, port: int = 0) -> Iterator[Receiver]:
    """Serve until left; by HTTPS where ``directory`` is given, for its certificates. Its threads have ended then."""
    receiver = Receiver()
    handler = type("Handler", (_Handler,), {"receiver": receiver})
    server = _Server(("127.0.0.1", port), handler, receiver)
    if directory is not None:
        receiver.ca_file, chain, key = make_certificates(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        server.tls = context
    else:
        receiver.scheme = "http"
    receiver.port = int(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.is_ending.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    tls: ssl.SSLContext | None = None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], receiver: Receiver) -> None:
        self.receiver = receiver
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.receiver.num_connections += 1
        request.settimeout(10)
        if self.tls is not None:
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except OSError:
                return  # the client does not trust us, or has left
        super().finish_request(request, client_address)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        message = Message(id=headers.get("webhook-id", ""), headers=headers, body=body, path=self.path)
        self.receiver.received.append(message)
        status = self.receiver.answers.pop(0) if self.receiver.answers else 204
        lines = [f"HTTP/1.1 {status} Status", "Content-Length: 0", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.receiver.headers.items()]
        self._write(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.close_connection = True

    def _write(self, answer: bytes) -> None:
        if not self.receiver.trickle_s:
            self.wfile.write(answer)
            return
        for byte in answer:
            if self.receiver.is_ending.wait(self.receiver.trickle_s):
                return
            self.wfile.write(bytes([byte]))

    def log_message(self, *_args: Any) -> None:
        """Keep quiet."""


def make_certificates(directory: Path) -> tuple[Path, Path, Path]:
    """A CA and a server's certificate under it: the files of the CA, of the chain and of the server's key."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's CA")])
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), is_ca=True).sign(ca_key, hashes.SHA256())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    names = [x509.DNSName(HOST), x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    unsigned = _certificate(name, ca_name, key.public_key(), is_ca=False)
    unsigned = unsigned.add_extension(x509.SubjectAlternativeName(names), critical=False)
    unsigned = unsigned.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    files = directory / "ca.pem", directory / "chain.pem", directory / "key.pem"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(ca.public_bytes(pem))
    files[1].write_bytes(unsigned.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[2].write_bytes(private)
    return files


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, is_ca: bool
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(time.time(), UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
