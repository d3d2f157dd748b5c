"""The server's secret key: signs links and cursors; webhooks' secrets and the key of reports follow from it.

It is in no database.
"""

import hashlib
import hmac
from pathlib import Path

from fairlead.errors import BadInput

MIN_BYTES = 32


def read_secret(path: Path) -> bytes:
    """The file's bytes. Raises ``BadInput`` where it is missing or holds fewer than 32."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"the secret key file {path} cannot be read ({error.strerror}); {_ADVICE}") from error
    if len(content) < MIN_BYTES:
        raise BadInput(f"the secret key file {path} holds {len(content)} bytes, fewer than {MIN_BYTES}; {_ADVICE}")
    return content


_ADVICE = "make one that only the server's user can read: head -c 32 /dev/urandom > FILE; chmod 600 FILE"


def keyed(secret: bytes, purpose: str, text: str) -> bytes:
    """HMAC-SHA256 of ``text`` under a key of its own for each ``purpose``; 32 bytes."""
    key = hmac.digest(secret, purpose.encode(), hashlib.sha256)
    return hmac.digest(key, text.encode(), hashlib.sha256)


def report_seed(secret: bytes) -> bytes:
    """What the key that signs reports is made of; 32 bytes."""
    return keyed(secret, "report", "ed25519")
