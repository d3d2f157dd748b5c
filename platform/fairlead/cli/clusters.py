"""The commands about clusters: what there is, and what a human decides about one."""

from collections.abc import Callable
from datetime import UTC, datetime

from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.experiments import connect
from fairlead.cli.output import CLUSTER_STYLES, ago, err, out, print_json, styled, table
from fairlead.client import Client
from fairlead.errors import BadInput
from fairlead.representation import ClusterView


def list_clusters(where: Where) -> None:
    """Print a table of clusters, and why one gets no work."""
    with connect(where) as client:
        found = client.clusters()
    if where.as_json:
        print_json(found)
    elif not found:
        err().print("No cluster has ever attached. Start one with 'fairlead up', or an agent in your own.")
    else:
        _print(found)


def drain(where: Where, name: str) -> None:
    """No new work for a cluster."""
    _change(where, lambda client: client.drain(name))


def activate(where: Where, name: str) -> None:
    """Work for a cluster again."""
    _change(where, lambda client: client.activate(name))


def label(where: Where, name: str, *, labels: list[str]) -> None:
    """Say what a cluster is."""
    wanted = dict(_label(one) for one in labels)
    with connect(where) as client:
        view = client.label(name, **wanted)
    if where.as_json:
        print_json(view)
    else:
        out().print(f"{escape(view.name)}: {escape(_labels(view)) or 'no labels'}")


def _label(text: str) -> tuple[str, str | None]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise BadInput(f"{text!r} is no label: write a name and a value, such as gpu=h100")
    return name, value or None


def _labels(view: ClusterView) -> str:
    return ", ".join(f"{name}={value}" for name, value in view.labels.items())


def retire(where: Where, name: str, *, reason: str, is_forced: bool) -> None:
    """Give a cluster up with all that runs there."""
    _change(where, lambda client: client.retire(name, reason=reason, force=is_forced))


def _change(where: Where, act: Callable[[Client], ClusterView]) -> None:
    with connect(where) as client:
        view = act(client)
    if where.as_json:
        print_json(view)
    else:
        open_ones = f"; {view.open_attempts} attempts are open there" if view.open_attempts else ""
        out().print(f"{escape(view.name)}: now {styled(view.state, CLUSTER_STYLES)}{open_ones}")


def _print(found: tuple[ClusterView, ...]) -> None:
    now = datetime.now(UTC)
    rows = table("name", "state", "agent", "#nodes", "#CPUs in use", "#GPUs in use", "#attempts", "labels", "why")
    for view in found:
        heard = "never" if view.last_sync_at is None else f"{ago((now - view.last_sync_at).total_seconds())} ago"
        rows.add_row(
            escape(view.name),
            styled(view.state, CLUSTER_STYLES),
            "answers" if view.is_agent_fresh else f"silent, heard {heard}",
            f"{view.nodes}, {view.nodes_excluded} excluded" if view.nodes_excluded else str(view.nodes),
            f"{view.cpus_in_use:g} of {view.cpus:g}",
            f"{view.gpus_in_use:g} of {view.gpus:g}",
            str(view.open_attempts),
            escape(_labels(view)),
            escape(view.why or ""),
        )
    out().print(rows)
