"""The commands about nodes: which there are, and which of them get no workers."""

from collections.abc import Sequence

from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.experiments import connect
from fairlead.cli.output import err, out, print_json, styled, table
from fairlead.representation import NodeView

SHOWN = 12
"""Characters of an id: far more than tell two nodes apart."""
STYLES = {"in use": "green", "excluded": "red", "lost": "magenta"}


def list_nodes(where: Where, *, cluster: str | None) -> None:
    """Print a table of nodes, and why one gets no workers."""
    with connect(where) as client:
        found = client.nodes(cluster)
    if where.as_json:
        print_json(found)
    elif not found:
        err().print("No agent has told of a node.")
    else:
        _print(found)


def exclude(where: Where, node: str, *, why: str, cluster: str | None) -> None:
    """No more workers for a node."""
    with connect(where) as client:
        _tell(where, client.exclude_node(node, why=why, cluster=cluster))


def readmit(where: Where, node: str, *, cluster: str | None) -> None:
    """Workers for a node again."""
    with connect(where) as client:
        _tell(where, client.readmit_node(node, cluster=cluster))


def _tell(where: Where, view: NodeView) -> None:
    if where.as_json:
        print_json(view)
    else:
        why = f": {escape(view.why)}" if view.why else ""
        out().print(f"{view.node_id[:SHOWN]} of {escape(view.cluster)}: now {styled(_state(view), STYLES)}{why}")


def _state(view: NodeView) -> str:
    if not view.is_alive:
        return "lost"
    return "excluded" if view.is_excluded else "in use"


def _print(found: Sequence[NodeView]) -> None:
    rows = table("node", "cluster", "state", "address", "#CPUs", "#GPUs", "since", "by", "why")
    for view in found:
        rows.add_row(
            view.node_id[:SHOWN],
            escape(view.cluster),
            styled(_state(view), STYLES),
            escape(view.address),
            f"{view.cpus:g}",
            f"{view.gpus:g}",
            view.excluded_at.isoformat(sep=" ", timespec="minutes") if view.excluded_at else "",
            escape(view.excluded_by or ""),
            escape(view.why),
        )
    out().print(rows)
