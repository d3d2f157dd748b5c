"""When might it start? The queue played forward with the very functions that decide, under stated assumptions.

An estimate, never a promise: nothing new is submitted, nothing is stopped, and each attempt runs as long as its like
ran before (the median of the last ten), or, where there is no history, to its bound. The *basis* says which it was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fairlead.placement import ClusterSnapshot, Running, Waiting, WaitingReason, place_in_order, with_placed
from fairlead.queueing import Account
from fairlead.spec import Wish
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held

LOOKED_AT = 100
"""Candidates from the front of the queue that are played forward."""
MAX_ENDS = 200
"""Ends of attempts after which a forecast gives up."""
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
    now_s = 0.0
    ends = {name: {id(one): now_s + _lasts_s(one) for one in cluster.running} for name, cluster in here.items()}
    for _ in range(MAX_ENDS):
        decided = place_in_order(left, here.values(), launches_per_cluster=None, accounts=held)
        for candidate, placement in decided.placed:
            found[candidate.id] = Estimate(in_s=now_s, basis=_basis(now_s, has_guessed=has_guessed))
            has_guessed = has_guessed or known[candidate.id] is None
            held[candidate.project] = _changed(
                held.get(candidate.project, Account()), candidate.wishes[placement.alternative], 1
            )
        here = {cluster.name: cluster for cluster in with_placed(here.values(), decided)}
        for name, cluster in here.items():
            ends[name] |= {id(one): now_s + _lasts_s(one) for one in cluster.running if id(one) not in ends[name]}
        left = [one for one in left if one.id not in found]
        next_s = min((at_s for each in ends.values() for at_s in each.values()), default=None)
        if not left or next_s is None:
            break
        now_s = max(now_s, next_s)
        here, held = _after(here, held, ends, now_s)
    return found | {one.id: _nothing_to_say(decided.waiting[one.id]) for one in left}


def _lasts_s(one: Running) -> float:
    if one.is_stopping:
        return min(one.ends_in_s, 60.0)
    return one.ends_in_s if one.expected_s is None else min(one.ends_in_s, one.expected_s)


def _basis(now_s: float, *, has_guessed: bool) -> str:
    if now_s == 0:
        return "there is room now"
    if has_guessed:
        return "those ahead run to their max_runtime_s: probably earlier"
    return "those ahead run as long as their like did before"


def _nothing_to_say(waiting: Waiting) -> Estimate:
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
    here: Mapping[str, ClusterSnapshot],
    held: Mapping[str, Account],
    ends: dict[str, dict[int, float]],
    now_s: float,
) -> tuple[dict[str, ClusterSnapshot], dict[str, Account]]:
    """Clusters and accounts once all that is over by ``now_s`` has gone."""
    clusters, accounts = dict(here), dict(held)
    for name, cluster in here.items():
        gone = [one for one in cluster.running if ends[name][id(one)] <= now_s]
        for one in gone:
            del ends[name][id(one)]
            accounts[one.project] = _changed(accounts.get(one.project, Account()), one.wish, -1)
        clusters[name] = without(cluster, gone)
    return clusters, accounts


def without(cluster: ClusterSnapshot, gone: Sequence[Running]) -> ClusterSnapshot:
    """The cluster once these have ended."""
    if not gone:
        return cluster
    ids = {id(one) for one in gone}
    nodes = tuple(
        replace(
            node,
            used_cpus=node.used_cpus - sum(one.counts[index] * one.wish.cpus_per_worker for one in gone),
            used_gpus=node.used_gpus - sum(one.counts[index] * one.wish.gpus_per_worker for one in gone),
        )
        for index, node in enumerate(cluster.nodes)
    )
    return replace(cluster, nodes=nodes, running=tuple(one for one in cluster.running if id(one) not in ids))
