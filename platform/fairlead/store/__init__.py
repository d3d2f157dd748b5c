"""The only door to the database. One module of questions per table; each takes a session first and never commits."""

from sqlalchemy.orm import Session

from fairlead.store import outbox  # whoever writes an event writes its messages: always loaded
from fairlead.store.engine import Fence, Store, Witness, beside, check_writable, open_store, ping
from fairlead.store.schema import check_revision, migrate, schema_revision
from fairlead.store.told import log_event

__all__ = [
    "Fence",
    "Session",
    "Store",
    "Witness",
    "beside",
    "check_revision",
    "check_writable",
    "log_event",
    "migrate",
    "open_store",
    "outbox",
    "ping",
    "schema_revision",
]
