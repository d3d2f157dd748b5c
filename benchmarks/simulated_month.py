"""A month of a busy cluster in simulated time: Fairlead's own decisions beside plain FIFO and strict priority.

Nothing is started: ``queueing.order`` and ``preemption.place_or_preempt`` are called with snapshots of 64 simulated
nodes of 8 GPUs, and what they decide is played out event by event. FIFO and strict priority go through the same
placement without backfill, shares or preemption. ``USERS``, ``EXPERIMENTS``, ``DAYS``, ``NODES``, ``SEED``.
"""

import heapq
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.chart import Line, curves
from benchmarks.harness import Measurement, quantile, size
from fairlead.lifecycle import State
from fairlead.placement import (
    OVERHEAD_S,
    ClusterSnapshot,
    Node,
    Running,
    place_in_order,
)
from fairlead.preemption import place_or_preempt
from fairlead.queueing import Account, Fairness, decayed, order, rate, use_of
from fairlead.spec import Wish
from fairlead.store.experiments import Candidate

NAME = "simulated_month"
USERS, EXPERIMENTS, DAYS, NODES, SEED = 200, 20_000, 30, 64, 0
GPUS, CPUS = 8, 128
"""Of a node."""
ROUND_S = 60.0
"""What happens within a minute is decided together."""
DAY_S = 86_400.0
STOP_S = 60.0
REDONE_S = 600.0
"""What a preempted attempt repeats at most: the steps since its last checkpoint."""
STARVED_S = 7 * DAY_S
MAX_PREEMPTIONS = 3
LOAD = 0.95
"""GPU time asked for over GPU time there is."""
SIZES = ((1, 50), (2, 15), (4, 12), (8, 13), (16, 5), (32, 3), (64, 1.5), (128, 0.5))
"""GPUs, and how many of a hundred experiments ask for so many."""
PRIORITIES = ((20, 20), (50, 70), (80, 10))
"""The lowest may be preempted."""
START = datetime(2026, 1, 1, tzinfo=UTC)
FAIRNESS = Fairness()


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedMonth:
    """Ours over FIFO; ``jain`` is ours: 1 where all users run the same share of their time in the system."""

    starved: int
    """Waited for more than a week, or never began."""
    utilisation_over_fifo: float
    p95_wait_over_fifo: float
    jain: float
    preemptions: int


@dataclass(slots=True)
class Job:
    """One experiment of the month. Times in seconds since its begin."""

    key: str
    user: str
    at_s: float
    priority: int
    gpus: int
    runs_s: float
    bound_s: float
    done_s: float = 0
    ran_s: float = 0
    """In attempts that have ended, what was done twice included."""
    began_s: float | None = None
    """First begin."""
    since_s: float = 0
    """Begin of the attempt that runs."""
    ended_s: float | None = None
    preemptions: int = 0
    stops_at_s: float | None = None
    counts: tuple[int, ...] = ()

    @property
    def wish(self) -> Wish:
        """A worker for each GPU."""
        return _WISHES[self.gpus][0]

    def ends_at_s(self) -> float:
        """When the attempt that runs is over."""
        end = self.since_s + self.runs_s - self.done_s
        return end if self.stops_at_s is None else min(end, self.stops_at_s)


_WISHES = {gpus: (Wish(workers=gpus, cpus_per_worker=CPUS / GPUS, gpus_per_worker=1),) for gpus, _ in SIZES}


# ---- what users do --------------------------------------------------------------------------------------------------


def jobs(*, users: int, experiments: int, days: int, nodes: int, seed: int) -> list[Job]:
    """Batches of users of very different diligence, more by day than by night, their run times log-normal.

    Run times are scaled so that ``LOAD`` of the GPU time is asked for. Four of five users know the run time to a factor
    of 1.1 to 5; the others leave the limit of 24 hours, or twice what it takes.
    """
    draw = random.Random(seed)
    diligence = [1 / (rank + 5) for rank in range(users)]
    found: list[Job] = []
    while len(found) < experiments:
        user = draw.choices(range(users), diligence)[0]
        at_s = _moment(draw, days)
        gpus = draw.choices([g for g, _ in SIZES], [w for _, w in SIZES])[0]
        gpus = max(each for each, _ in SIZES if each <= min(gpus, nodes * GPUS // 2))
        priority = draw.choices([p for p, _ in PRIORITIES], [w for _, w in PRIORITIES])[0]
        for _ in range(min(experiments - len(found), draw.choice((1, 1, 1, 2, 4, 8, 16)))):
            runs_s = draw.lognormvariate(0, 1.4)
            key = f"e{len(found):05}"
            found.append(
                Job(key=key, user=f"u{user}", at_s=at_s, priority=priority, gpus=gpus, runs_s=runs_s, bound_s=0)
            )
    scale = LOAD * nodes * GPUS * days * DAY_S / sum(job.gpus * job.runs_s for job in found)
    for job in found:
        job.runs_s = min(max(60.0, job.runs_s * scale), 4 * DAY_S)
        knows = draw.random() < 0.8
        job.bound_s = job.runs_s * draw.uniform(1.1, 5) if knows else max(DAY_S, 2 * job.runs_s)
    return sorted(found, key=lambda job: job.at_s)


def _moment(draw: random.Random, days: int) -> float:
    """Twice as likely at noon as at night."""
    while True:
        at_s = draw.uniform(0, days * DAY_S)
        hour = at_s / 3600 % 24
        if draw.random() < (1.0 if 8 <= hour < 20 else 0.5):
            return at_s


# ---- one scheduler --------------------------------------------------------------------------------------------------

Order = Callable[["World", list[Candidate], float], Sequence[Candidate]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheduler:
    """How the queue is ordered, and what may go past whom."""

    name: str
    order: Order
    may_backfill: bool = False
    may_preempt: bool = False


@dataclass(slots=True)
class World:
    """The cluster while a month goes by."""

    nodes: int
    jobs: Mapping[str, Job]
    waiting: dict[str, Candidate] = field(default_factory=dict)
    running: dict[str, Job] = field(default_factory=dict)
    used: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By user: decayed use of ended attempts, and when that was."""
    delivered_s: dict[int, float] = field(default_factory=dict)
    """GPU-seconds of work, by day; what a preempted attempt did for nothing is none."""
    preemptions: int = 0

    def snapshot(self, now_s: float) -> ClusterSnapshot:
        """As placement sees it."""
        taken = [0] * self.nodes
        for job in self.running.values():
            for index, count in enumerate(job.counts):
                taken[index] += count
        return ClusterSnapshot(
            name="c",
            is_active=True,
            has_fresh_agent=True,
            nodes=tuple(
                Node(node_id=str(i), cpus=CPUS, gpus=GPUS, used_cpus=n * CPUS / GPUS, used_gpus=n)
                for i, n in enumerate(taken)
            ),
            running=tuple(self._running(job, now_s) for job in self.running.values()),
        )

    def _running(self, job: Job, now_s: float) -> Running:
        left_s = job.bound_s - job.done_s - (now_s - job.since_s)
        ran_s = job.ran_s + now_s - job.since_s
        has_waited = FAIRNESS.is_patient(_at(job.at_s), ran_s=ran_s, now=_at(now_s))
        return Running(
            attempt_id=job.key,
            experiment_id=job.key,
            project=job.user,
            priority=job.priority,
            wish=job.wish,
            counts=job.counts,
            ends_in_s=OVERHEAD_S + (left_s if job.stops_at_s is None else 0.0),
            age_s=now_s - job.since_s,
            is_preemptible=job.priority == PRIORITIES[0][0] and not has_waited,
            preemptions=job.preemptions,
            is_stopping=job.stops_at_s is not None,
        )

    def accounts(self, now_s: float) -> dict[str, Account]:
        """Decayed use, what runs included."""
        found = {
            user: decayed(use, for_s=now_s - at_s, half_life_s=FAIRNESS.half_life_s)
            for user, (use, at_s) in self.used.items()
        }
        for job in self.running.values():
            found[job.user] = found.get(job.user, 0.0) + _use(job, now_s)
        return {user: Account(used=use) for user, use in found.items()}

    def end(self, job: Job, now_s: float) -> None:
        """The attempt is over: at its end, or because it was stopped."""
        del self.running[job.key]
        use, at_s = self.used.get(job.user, (0.0, now_s))
        left = decayed(use, for_s=now_s - at_s, half_life_s=FAIRNESS.half_life_s)
        self.used[job.user] = left + _use(job, now_s), now_s
        ran_s = now_s - job.since_s
        job.ran_s += ran_s
        if job.done_s + ran_s >= job.runs_s - 1e-6:
            job.ended_s = now_s
            self._deliver(job, now_s)
            return
        kept_s = max(0.0, ran_s - REDONE_S)
        self._deliver(job, job.since_s + kept_s)
        job.done_s += kept_s
        job.stops_at_s = None
        job.preemptions += 1
        self.preemptions += 1
        self.waiting[job.key] = _candidate(job)

    def _deliver(self, job: Job, until_s: float) -> None:
        day, begin_s = int(job.since_s // DAY_S), job.since_s
        while begin_s < until_s:
            end_s = min(until_s, (day + 1) * DAY_S)
            self.delivered_s[day] = self.delivered_s.get(day, 0.0) + job.gpus * (end_s - begin_s)
            day, begin_s = day + 1, end_s


def _at(at_s: float) -> datetime:
    return START + timedelta(seconds=at_s)


def _use(job: Job, now_s: float) -> float:
    held = rate(job.gpus * CPUS / GPUS, job.gpus)
    return use_of(held, began_s=now_s - job.since_s, ended_s=0, half_life_s=FAIRNESS.half_life_s)


def play(month: Sequence[Job], scheduler: Scheduler, *, nodes: int) -> tuple[World, list[Job]]:
    """The month to the end of its last experiment."""
    todo = [replace(job) for job in month]
    world, coming, ends = World(nodes, {job.key: job for job in todo}), iter(todo), list[tuple[float, str]]()
    following, now_s = next(coming, None), 0.0
    while following is not None or world.running or world.waiting:
        next_s = min([following.at_s] if following else [], default=float("inf"))
        next_s = min(next_s, ends[0][0] if ends else float("inf"))
        if next_s == float("inf"):
            break  # what waits now fits nowhere
        now_s = max(now_s + 1, -(-next_s // ROUND_S) * ROUND_S)
        while ends and ends[0][0] <= now_s:
            at_s, key = heapq.heappop(ends)
            if key in world.running and world.jobs[key].ends_at_s() <= at_s + 1e-6:
                world.end(world.jobs[key], at_s)
        while following is not None and following.at_s <= now_s:
            world.waiting[following.key] = _candidate(following)
            following = next(coming, None)
        if world.waiting:
            _decide(world, scheduler, now_s, ends)
    return world, todo


def _decide(world: World, scheduler: Scheduler, now_s: float, ends: list[tuple[float, str]]) -> None:
    here = world.snapshot(now_s)
    if here.free_gpus < 1 and not scheduler.may_preempt:
        return
    ordered = scheduler.order(world, [*world.waiting.values()], now_s)
    if scheduler.may_preempt:
        decided, preempting = place_or_preempt(
            ordered, [here], max_preemptions=MAX_PREEMPTIONS, launches_per_cluster=None
        )
    else:
        preempting = ()
        decided = place_in_order(ordered, [here], launches_per_cluster=None, may_backfill=scheduler.may_backfill)
    for candidate, placement in decided.placed:
        del world.waiting[candidate.id]
        job = world.jobs[candidate.id]
        plan = dict(placement.plan)
        job.counts = tuple(plan.get(str(index), 0) for index in range(world.nodes))
        job.since_s = now_s
        job.began_s = now_s if job.began_s is None else job.began_s
        world.running[job.key] = job
        heapq.heappush(ends, (job.ends_at_s(), job.key))
    for victim in (victim for one in preempting for victim in one.victims):
        job = world.running[victim.experiment_id]
        job.stops_at_s = now_s + STOP_S
        heapq.heappush(ends, (job.ends_at_s(), job.key))


def _candidate(job: Job) -> Candidate:
    return Candidate(
        id=job.key,
        version=1,
        state=State.QUEUED,
        project=job.user,
        priority=job.priority,
        wishes=_WISHES[job.gpus],
        runtime_left_s=job.bound_s - job.done_s,
        ran_s=job.ran_s,
        current_attempt_no=0,
        enqueued_at=_at(job.at_s),
        waiting=None,
    )


def _ours(world: World, waiting: list[Candidate], now_s: float) -> Sequence[Candidate]:
    return order(waiting, world.accounts(now_s), now=_at(now_s), fairness=FAIRNESS)


def _fifo(_: World, waiting: list[Candidate], __: float) -> Sequence[Candidate]:
    return sorted(waiting, key=lambda one: (one.enqueued_at, one.id))


def _strict(_: World, waiting: list[Candidate], __: float) -> Sequence[Candidate]:
    return sorted(waiting, key=lambda one: (-one.priority, one.enqueued_at, one.id))


OURS = Scheduler(name="Fairlead", order=_ours, may_backfill=True, may_preempt=True)
FIFO = Scheduler(name="FIFO", order=_fifo)
STRICT = Scheduler(name="strict priority", order=_strict)


# ---- what came of it ------------------------------------------------------------------------------------------------


def seen(world: World, done: Sequence[Job], *, days: int, nodes: int) -> dict[str, Any]:
    """Utilisation of the month itself; waits to the first begin, in hours."""
    waits = _waits_h(done, {priority for priority, _ in PRIORITIES})
    delivered = sum(held for day, held in world.delivered_s.items() if day < days)
    by_priority = {str(priority): _waits_h(done, {priority}) for priority, _ in PRIORITIES}
    return {
        "utilisation": delivered / (nodes * GPUS * days * DAY_S),
        "wait_h_p50": quantile(waits, 0.5),
        "wait_h_p95": quantile(waits, 0.95),
        "wait_h_max": waits[-1],
        "wait_h_p95_by_priority": {name: quantile(found, 0.95) for name, found in by_priority.items() if found},
        "jain": jain(done),
        "preemptions": world.preemptions,
        "starved": sum(job.began_s is None or job.began_s - job.at_s > STARVED_S for job in done),
        "last_end_day": max(job.ended_s or 0 for job in done) / DAY_S,
        "waits_h": [quantile(waits, share / 50) for share in range(1, 51)],
        "by_day": [world.delivered_s.get(day, 0.0) / (nodes * GPUS * DAY_S) for day in range(days)],
    }


def _waits_h(done: Sequence[Job], priorities: Container[int]) -> list[float]:
    begun = [(job.began_s - job.at_s) / 3600 for job in done if job.began_s is not None and job.priority in priorities]
    return sorted(begun)


def jain(done: Sequence[Job]) -> float:
    """Jain's index over users of the mean share of its time in the system that an experiment ran: (Σx)² / (n Σx²)."""
    shares: dict[str, list[float]] = {}
    for job in done:
        if job.ended_s is not None:
            shares.setdefault(job.user, []).append(job.runs_s / max(job.runs_s, job.ended_s - job.at_s))
    means = [sum(found) / len(found) for found in shares.values()]
    return sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means))


def measure() -> Measurement:
    """The same month three times."""
    users, experiments = size("USERS", USERS), size("EXPERIMENTS", EXPERIMENTS)
    days, nodes, seed = size("DAYS", DAYS), size("NODES", NODES), size("SEED", SEED + 1) - 1
    month = jobs(users=users, experiments=experiments, days=days, nodes=nodes, seed=seed)
    found = {}
    for scheduler in (OURS, FIFO, STRICT):
        world, done = play(month, scheduler, nodes=nodes)
        found[scheduler.name] = seen(world, done, days=days, nodes=nodes)
    ours, fifo = found[OURS.name], found[FIFO.name]
    result = SimulatedMonth(
        starved=ours["starved"],
        utilisation_over_fifo=ours["utilisation"] / fifo["utilisation"],
        p95_wait_over_fifo=ours["wait_h_p95"] / max(fifo["wait_h_p95"], 1 / 3600),
        jain=ours["jain"],
        preemptions=ours["preemptions"],
    )
    sizes = {"users": users, "experiments": experiments, "days": days, "gpus": nodes * GPUS, "seed": seed}
    return Measurement(result=result, sizes=sizes, details={"load": LOAD, "schedulers": found})


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """How long the luckier share of all experiments waited, and how full the cluster was."""
    found = document["details"]["schedulers"]
    waits = [
        Line(label=name, points=[(2.0 * (i + 1), max(h, 1 / 60)) for i, h in enumerate(one["waits_h"])])
        for name, one in found.items()
    ]
    picture = curves("How long experiments waited", waits, x="of a hundred experiments", y="hours, at most")
    (directory / f"{NAME}.svg").write_text(picture)
    days = [
        Line(label=name, points=[(float(day + 1), one) for day, one in enumerate(found[name]["by_day"])])
        for name in found
    ]
    picture = curves("GPUs in use", days, x="day", y="share of all", is_log=False)
    (directory / f"{NAME}_use.svg").write_text(picture)


def table(document: Mapping[str, Any]) -> str:
    """All three beside each other."""
    rows = [
        "| | utilisation | median wait (h) | p95 wait (h) | p95 by priority 20 / 50 / 80 (h) | longest (h) | Jain "
        "| preemptions | starved |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in document["details"]["schedulers"].items():
        by = " / ".join(f"{value:.1f}" for value in one["wait_h_p95_by_priority"].values())
        rows.append(
            f"| {name} | {one['utilisation']:.3f} | {one['wait_h_p50']:.2f} | {one['wait_h_p95']:.1f} | {by} "
            f"| {one['wait_h_max']:.0f} | {one['jain']:.3f} | {one['preemptions']} | {one['starved']} |"
        )
    return "\n".join(rows)
