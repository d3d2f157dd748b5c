"""The commands about webhooks: who hears of events, and what became of each message."""

from datetime import UTC, datetime, timedelta
from itertools import islice

from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.experiments import connect
from fairlead.cli.output import ago, err, out, print_json, styled, table
from fairlead.representation import DeliveryView, WebhookView, WebhookWithSecret

STYLES = {"active": "green", "disabled": "red", "delivered": "green", "failed": "red", "pending": "yellow"}


def list_webhooks(where: Where) -> None:
    """Print a table of webhooks, and why one is disabled."""
    with connect(where) as client:
        found = client.webhooks.list()
    if where.as_json:
        print_json(found)
    elif not found:
        err().print("There is no webhook. Add one with 'fairlead webhooks add https://...'.")
    else:
        _print(found)


def _print(found: tuple[WebhookView, ...]) -> None:
    rows = table("id", "state", "project", "kinds", "url", "why")
    for view in found:
        since = f"fails for {_age(view.failing_since)}" if view.failing_since else ""
        kinds, why = ", ".join(view.kinds) or "all", view.reason or since
        state, project = styled(view.state, STYLES), escape(view.project or "all")
        rows.add_row(view.id, state, project, escape(kinds), escape(view.url), escape(why))
    out().print(rows)


def add(where: Where, url: str, *, project: str | None, kinds: list[str], description: str) -> None:
    """Register an address and print its secret, this once."""
    with connect(where) as client:
        view = client.webhooks.add(url, project=project, kinds=kinds, description=description)
    _print_secret(where, view)


def rotate(where: Where, webhook_id: str, *, keep_old_s: int) -> None:
    """Make a new secret and print it, this once."""
    with connect(where) as client:
        view = client.webhooks.rotate(webhook_id, keep_old_s=keep_old_s)
    _print_secret(where, view)


def _print_secret(where: Where, view: WebhookWithSecret) -> None:
    if where.as_json:
        print_json(view)
        return
    out().print(f"{view.id} {view.secret}", soft_wrap=True)
    err().print("[dim]The secret is shown this once: a receiver checks signatures with it.[/]")


def switch(where: Where, webhook_id: str, *, is_enabled: bool) -> None:
    """Send to it again, or no more."""
    with connect(where) as client:
        view = client.webhooks.change(webhook_id, is_enabled=is_enabled)
    if where.as_json:
        print_json(view)
    else:
        out().print(f"{view.id}: now {styled(view.state, STYLES)}")


def remove(where: Where, webhook_id: str) -> None:
    """Forget it with all that was to be sent."""
    with connect(where) as client:
        client.webhooks.remove(webhook_id)
    if where.as_json:
        print_json({"id": webhook_id, "removed": True})
    else:
        out().print(f"{escape(webhook_id)}: removed")


def test(where: Where, webhook_id: str) -> None:
    """Send a message that is about nothing."""
    with connect(where) as client:
        view = client.webhooks.test(webhook_id)
    if where.as_json:
        print_json(view)
    else:
        out().print(f"{view.message_id} {styled(view.state, STYLES)}")
        err().print(f"[dim]fairlead webhooks deliveries {escape(webhook_id)} shows what became of it.[/]")


def deliveries(where: Where, webhook_id: str, *, state: str | None, limit: int) -> None:
    """Print its newest messages, and how the last try of each went."""
    with connect(where) as client:
        found = tuple(islice(client.webhooks.deliveries(webhook_id, state=state), limit))
    if where.as_json:
        print_json(found)
        return
    rows = table("message", "kind", "state", "#tries", "age", "last answer")
    for view in found:
        rows.add_row(
            escape(view.message_id),
            escape(view.kind),
            styled(view.state, STYLES),
            str(len(view.tries)),
            _age(view.created_at),
            escape(_last(view)),
        )
    out().print(rows)


def replay(where: Where, webhook_id: str, *, messages: list[str], is_failed: bool, hours: float | None) -> None:
    """Send messages once more, under their old ids."""
    since = None if hours is None else datetime.now(UTC) - timedelta(hours=hours)
    total = 0
    with connect(where) as client:
        view = client.webhooks.replay(webhook_id, messages=messages, failed=is_failed, since=since)
        total += view.messages
        while view.next_since is not None:
            view = client.webhooks.replay(webhook_id, since=view.next_since)
            total += view.messages
    if where.as_json:
        print_json({"messages": total})
    else:
        out().print(f"{escape(webhook_id)}: {total} messages will be sent once more")


def _last(view: DeliveryView) -> str:
    if not view.tries:
        return ""
    last = view.tries[-1]
    return last.error or f"{last.status} in {last.took_ms} ms"


def _age(at: datetime | None) -> str:
    return "" if at is None else ago((datetime.now(UTC) - at).total_seconds())
