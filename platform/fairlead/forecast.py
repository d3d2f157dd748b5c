"""When might it start? The queue played forward with the very functions that decide, under stated assumptions.

An estimate, never a promise: nothing new is submitted, nothing is stopped, and each attempt runs as long as its like
ran before (the median of the last ten), or, where there is no history, to its bound. The *basis* says which it was.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fairlead.placement import ClusterSnapshot, Running, Waiting, WaitingReason, place_in_order, with_placed
from fairlead.queueing import Account
from fairlead.spec import Wish
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held

LOOKED_AT = 100
"""Candidates from the front of the queue that are played forward."""
MAX_STEPS = 200
"""Ends of attempts after which a forecast gives up."""
SOON_S, ROUGHLY = 10.0, 0.1
HOPELESS = frozenset({WaitingReason.NO_CLUSTER_FITS, WaitingReason.EXCEEDS_QUOTA})


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """When an experiment might start; ``in_s`` is None where nothing can be said, and the basis says why."""

    in_s: float | None
    basis: str


TOO_FAR_BACK = Estimate(in_s=None, basis="too far back in the queue to tell")


def forecast(
    ordered: Sequence[Candidate], clusters: Iterable[ClusterSnapshot], accounts: Mapping[str, Account]
) -> dict[str, Estimate]:
    """When each of the first ``LOOKED_AT`` of the queue might start; ``ordered`` as ``queueing.order`` has it."""
    here = {cluster.name: cluster for cluster in clusters}
    left, held = list(ordered[:LOOKED_AT]), dict(accounts)
    known = {one.id: one.expected_s for one in left}
    found: dict[str, Estimate] = {}
    has_guessed = any(one.expected_s is None for cluster in here.values() for one in cluster.running)
    now_s, ends = 0.0, dict[str, float]()
    for _ in range(MAX_STEPS):
        decided = place_in_order(left, here.values(), launches_per_cluster=None, accounts=held)
        for candidate, placement in decided.placed:
            found[candidate.id] = Estimate(in_s=now_s, basis=_basis(now_s, has_guessed=has_guessed))
            has_guessed = has_guessed or known[candidate.id] is None
            held[candidate.project] = _changed(
                held.get(candidate.project, Account()), candidate.wishes[placement.alternative], 1
            )
        here = {cluster.name: cluster for cluster in with_placed(here.values(), decided)}
        for one in (one for cluster in here.values() for one in cluster.running):
            ends.setdefault(one.experiment_id, now_s + _lasts_s(one))
        left = [one for one in left if one.id not in found]
        if not left or not ends:
            break
        before_s, now_s = now_s, _next_s(ends)
        over = {key for key, at_s in ends.items() if at_s <= now_s}
        ends = {key: at_s for key, at_s in ends.items() if key not in over}
        here, held = _after(here, held, over, passed_s=now_s - before_s)
    return found | {one.id: _nothing_to_say(decided.waiting[one.id]) for one in left}


def _lasts_s(one: Running) -> float:
    if one.is_stopping:
        return min(one.ends_in_s, 60.0)
    return one.ends_in_s if one.expected_s is None else min(one.ends_in_s, one.expected_s)


def _next_s(ends: Mapping[str, float]) -> float:
    """The next end. Those that come soon after it, next to how far off it is, are taken together, as of the last."""
    first_s = min(ends.values())
    limit_s = first_s + max(SOON_S, ROUGHLY * first_s)
    return max(at_s for at_s in ends.values() if at_s <= limit_s)


def _basis(now_s: float, *, has_guessed: bool) -> str:
    if now_s == 0:
        return "there is room now"
    if has_guessed:
        return "those ahead run to their max_runtime_s: probably earlier"
    return "those ahead run as long as their like did before"


def _nothing_to_say(waiting: Waiting) -> Estimate:
    if waiting.reason is WaitingReason.NODES_EXCLUDED:
        return Estimate(in_s=None, basis="not while nodes are excluded, as far as can be told")
    if waiting.reason in HOPELESS:
        return Estimate(in_s=None, basis="never, as things are")
    return Estimate(in_s=None, basis="too far off to tell")


def _changed(account: Account, wish: Wish, sign: int) -> Account:
    held = account.held
    return replace(
        account,
        held=Held(
            workers=held.workers + sign * wish.workers,
            cpus=held.cpus + sign * wish.cpus,
            gpus=held.gpus + sign * wish.gpus,
            experiments=held.experiments + sign,
        ),
    )


def _after(
    here: Mapping[str, ClusterSnapshot], held: Mapping[str, Account], over: Container[str], *, passed_s: float
) -> tuple[dict[str, ClusterSnapshot], dict[str, Account]]:
    """Clusters and accounts so much later, when those experiments are over."""
    clusters, accounts = dict(here), dict(held)
    for name, cluster in here.items():
        gone = [one for one in cluster.running if one.experiment_id in over]
        for one in gone:
            accounts[one.project] = _changed(accounts.get(one.project, Account()), one.wish, -1)
        clusters[name] = _later(cluster, gone, passed_s)
    return clusters, accounts


def _later(cluster: ClusterSnapshot, gone: Sequence[Running], passed_s: float) -> ClusterSnapshot:
    nodes = tuple(
        replace(
            node,
            used_cpus=node.used_cpus - sum(one.counts[index] * one.wish.cpus_per_worker for one in gone),
            used_gpus=node.used_gpus - sum(one.counts[index] * one.wish.gpus_per_worker for one in gone),
        )
        for index, node in enumerate(cluster.nodes)
    )
    running = tuple(
        replace(one, ends_in_s=max(0.0, one.ends_in_s - passed_s)) for one in cluster.running if one not in gone
    )
    return replace(cluster, nodes=nodes, running=running)
