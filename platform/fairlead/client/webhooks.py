"""Webhooks by the SDK: ``client.webhooks.add(...)``."""

import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from fairlead.client.experiment import pages
from fairlead.client.transport import Transport
from fairlead.protocol import from_answer
from fairlead.representation import (
    DeliveryView,
    ReplayRequest,
    ReplayView,
    WebhookRequest,
    WebhookView,
    WebhookWithSecret,
)
from fairlead.spec import from_mapping

PATH = "/v1/webhooks"


class Webhooks:
    """Addresses that hear of events. Every method may raise ``NotFound``, ``Unauthorized`` or ``Unavailable``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[WebhookView, ...]:
        """All of them, oldest first."""
        return tuple(pages(self._transport, WebhookView, PATH, {}))

    def get(self, webhook_id: str) -> WebhookView:
        """One of them."""
        return from_answer(WebhookView, self._transport.request("GET", f"{PATH}/{webhook_id}").content)

    def add(
        self, url: str, *, project: str | None = None, kinds: Iterable[str] = (), description: str = ""
    ) -> WebhookWithSecret:
        """Register an address; ``secret`` of the answer is shown this once. Raises ``BadInput`` with what is wrong.

        ``kinds``: kinds of events, or states that one moves to; none: all.
        """
        content = {"url": url, "project": project, "kinds": list(kinds), "description": description}
        given = from_mapping(WebhookRequest, content)
        return from_answer(WebhookWithSecret, self._post("", given.model_dump(mode="json")))

    def change(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        kinds: Iterable[str] | None = None,
        description: str | None = None,
        is_enabled: bool | None = None,
    ) -> WebhookView:
        """Change what is given; what is None stays."""
        wanted = None if kinds is None else list(kinds)
        given = {"url": url, "kinds": wanted, "description": description, "is_enabled": is_enabled}
        document = {name: value for name, value in given.items() if value is not None}
        answer = self._transport.request("PATCH", f"{PATH}/{webhook_id}", headers={"If-Match": "*"}, document=document)
        return from_answer(WebhookView, answer.content)

    def remove(self, webhook_id: str) -> None:
        """Forget it with all that was to be sent to it."""
        self._transport.request("DELETE", f"{PATH}/{webhook_id}", headers={"If-Match": "*"})

    def rotate(self, webhook_id: str, *, keep_old_s: int = 86_400) -> WebhookWithSecret:
        """A new secret; the one before signs as well for ``keep_old_s``."""
        return from_answer(WebhookWithSecret, self._post(f"/{webhook_id}/rotate", {"keep_old_s": keep_old_s}))

    def test(self, webhook_id: str) -> DeliveryView:
        """Send a message that is about nothing; see ``deliveries`` for what became of it."""
        return from_answer(DeliveryView, self._post(f"/{webhook_id}/test", None))

    def deliveries(self, webhook_id: str, *, state: str | None = None) -> Iterator[DeliveryView]:
        """Its messages, newest first, with every try; page after page as they are asked for."""
        params = {"state": f"eq:{state}"} if state else {}
        return pages(self._transport, DeliveryView, f"{PATH}/{webhook_id}/deliveries", params)

    def replay(
        self,
        webhook_id: str,
        *,
        messages: Iterable[str] = (),
        failed: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> ReplayView:
        """Send once more: these messages, all that were given up, or every event of a time."""
        given = ReplayRequest(messages=tuple(messages), failed=failed, since=since, until=until)
        document = given.model_dump(mode="json", exclude_none=True)
        answer = self._transport.request("POST", f"{PATH}/{webhook_id}/replay", document=document)
        return from_answer(ReplayView, answer.content)

    def _post(self, path: str, document: Any) -> bytes:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._transport.request("POST", f"{PATH}{path}", headers=headers, document=document).content
