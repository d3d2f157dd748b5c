"""Signatures of reports: whoever has the public key can tell that a report is as the server wrote it.

Ed25519 (RFC 8032) over ``report_bytes`` of the report without its signature. The private key follows from the server's
secret, so that all its processes sign alike and nothing more has to be kept. ``cryptography`` is loaded when needed.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from fairlead.errors import BadInput
from fairlead.evaluation.report import report_bytes

ALGORITHM = "ed25519"
SEED_BYTES = 32


def signed(report: Mapping[str, Any], seed: bytes) -> dict[str, Any]:
    """The report with its ``signature``. ``seed``: 32 bytes that nobody else has."""
    content = {name: value for name, value in report.items() if name != "signature"}
    value = _private(seed).sign(report_bytes(content))
    signature = {**public_key(seed), "value": base64.b64encode(value).decode()}
    return dict(sorted({**content, "signature": signature}.items()))


def public_key(seed: bytes) -> dict[str, str]:
    """What verifies signatures by ``seed``: ``alg``, ``key_id`` and ``public_key`` (base64 of 32 bytes)."""
    raw = _private(seed).public_key().public_bytes_raw()
    return {"alg": ALGORITHM, "key_id": key_id(raw), "public_key": base64.b64encode(raw).decode()}


def key_id(raw: bytes) -> str:
    """A short name of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(raw).hexdigest()[:16]


def verify(report: Mapping[str, Any], trusted: str | None = None) -> str:
    """Check a report's signature; returns the id of its key.

    ``trusted``: the public key (base64) that must have signed it. Without one this shows only that nothing was changed
    after signing, not who signed. Raises ``BadInput``, saying what is wrong.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    signature = report.get("signature")
    if not isinstance(signature, Mapping):
        raise BadInput("the report has no signature")
    if signature.get("alg") != ALGORITHM:
        raise BadInput(f"the signature is by {signature.get('alg')!r}; only {ALGORITHM} is known")
    raw = _decoded(signature.get("public_key"), "the public key of the signature")
    if trusted is not None and raw != _decoded(trusted.strip(), "the public key given"):
        raise BadInput(f"the report was signed with another key: {key_id(raw)}")
    content = {name: value for name, value in report.items() if name != "signature"}
    value = _decoded(signature.get("value"), "the value of the signature", 64)
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(value, report_bytes(content))
    except InvalidSignature:
        raise BadInput("the report is not what was signed: something in it was changed afterwards") from None
    return key_id(raw)


def _private(seed: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _decoded(text: Any, what: str, size: int = 32) -> bytes:
    try:
        raw = base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        raise BadInput(f"{what} is not {size} bytes in base64")
    return raw
