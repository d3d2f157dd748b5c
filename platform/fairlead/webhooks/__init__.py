"""Webhooks apart from the database: which addresses may be called, how a message is signed and sent, and when again.

An *endpoint* is an address that a user registered. A *message* is one event on its way to one endpoint; its id stays
the same however often it is sent. A *try* is one request. The format is Standard Webhooks.
"""

from fairlead.webhooks.addresses import AddressRefused, Network, check_url, refusal
from fairlead.webhooks.schedule import GivenUp, Hopeless, Retry, after_failure
from fairlead.webhooks.sending import Receipt, Sender
from fairlead.webhooks.signing import secret_of, signed_headers

__all__ = [
    "AddressRefused",
    "GivenUp",
    "Hopeless",
    "Network",
    "Receipt",
    "Retry",
    "Sender",
    "after_failure",
    "check_url",
    "refusal",
    "secret_of",
    "signed_headers",
]
