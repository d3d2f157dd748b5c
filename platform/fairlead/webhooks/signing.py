"""Signatures of Standard Webhooks, and where their secrets come from.

An endpoint's secret is HMAC(server's key, endpoint, number): it follows from the server's secret key file and is stored
nowhere, so a copy of the database signs nothing. It can be shown when it is made and used when it is needed, and a
rotation is the next number.
"""

import base64
from collections.abc import Iterable
from datetime import datetime

from standardwebhooks.webhooks import Webhook

from fairlead.secret_key import keyed

PREFIX = "whsec_"


def secret_of(server_secret: bytes, endpoint_id: str, number: int) -> str:
    """The ``number``-th secret of an endpoint, as its receiver keeps it: 256 bits."""
    key = keyed(server_secret, "webhook", f"{endpoint_id}.{number}")
    return PREFIX + base64.b64encode(key).decode()


def signed_headers(message_id: str, body: str, *, secrets: Iterable[str], now: datetime) -> dict[str, str]:
    """The three headers; one signature for each secret, so that a receiver may change over in its own time."""
    signatures = [Webhook(secret).sign(message_id, now, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
